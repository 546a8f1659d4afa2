"""The state of a run for the metrics page. A separate thread takes it from the ledger every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.common import metrics
from pipeline.fleet.records.ledger import Ledger, RunState
from pipeline.fleet.status.summary import summarise

EVERY_S = 5.0  # Ray exports every 10 s


@contextmanager
def metrics_of(ledger: Ledger, every_s: float = EVERY_S) -> Iterator[None]:
    """Show the run on the metrics page while inside the context."""
    done = threading.Event()
    told: dict[tuple[metrics.Metric, str], float] = {}

    def tell() -> None:
        total = summarise(RunState(replace(ledger.info, updated_at=time.time()), dict(ledger.rows)))
        for state, count in total.counts.items():
            metrics.put(metrics.DRIVES, count, state=state)
        sums = {(metrics.STAGE_SECONDS, stage): spent for stage, spent in total.seconds.items()}
        sums |= {
            (metrics.FRAMES, ""): total.frames,
            (metrics.POINTS, ""): total.points,
            (metrics.BYTES, ""): total.bytes,
            (metrics.GPU_SECONDS, ""): total.gpu_seconds,
        }
        for (metric, stage), now in sums.items():
            before = told.get((metric, stage), 0.0)
            if now > before:  # a counter must not fall; estimates for running drives may be slightly too high
                metrics.add(metric, now - before, **({"stage": stage} if stage else {}))
                told[metric, stage] = now

    def watch() -> None:
        while not done.wait(every_s):
            tell()

    thread = threading.Thread(target=watch, name="run-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        tell()
