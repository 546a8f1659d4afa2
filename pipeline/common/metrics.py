"""What a metrics page shows of us: every metric once, and what measures it. Ray exports them as `ray_<name>`.

Ranks measure what they wait for with a RankMeter; the driver says how a run stands
(`pipeline.fleet.status.run_metrics`).
Without a Ray in the process nothing is recorded and nothing fails.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import ray
from ray.util import metrics as ray_metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from models.fast_weights import FastWeights
    from pipeline.forward.memory_sync import Barrier, MemorySync

T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """One metric: its name without Ray's prefix, its unit in the name, its labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """Its name on a metrics page."""
        return f"ray_{self.name}"


DRIVES = Metric("city_drives", "gauge", "Drives of the run by state", ("state",))
FRAMES = Metric("city_frames_total", "counter", "Frames of drives published by this run")
POINTS = Metric("city_points_total", "counter", "Points of drives published by this run")
BYTES = Metric("city_bytes_total", "counter", "Bytes of drives published by this run")
STAGE_SECONDS = Metric("city_stage_seconds_total", "counter", "Seconds by stage, summed over drives", ("stage",))
GPU_SECONDS = Metric("city_gpu_seconds_total", "counter", "GPU seconds that drives took in the network")
PHASE_SECONDS = Metric("city_phase_seconds_total", "counter", "Seconds of a rank by phase", ("phase", "rank"))
INPUT_WAIT = Metric("city_input_wait_seconds_total", "counter", "Seconds a rank waited for frames", ("rank",))
ALL_REDUCE = Metric("city_allreduce_seconds_total", "counter", "Seconds a rank spent in collectives", ("rank",))
STORE_MOVED = Metric(
    "city_store_moved_bytes_total", "counter", "Bytes of waiting chunks pushed to a slower tier", ("tier", "rank")
)
METRICS = (
    DRIVES,
    FRAMES,
    POINTS,
    BYTES,
    STAGE_SECONDS,
    GPU_SECONDS,
    PHASE_SECONDS,
    INPUT_WAIT,
    ALL_REDUCE,
    STORE_MOVED,
)


def add(metric: Metric, amount: float, **labels: str) -> None:
    """Count up; nothing or less counts for nothing."""
    if amount > 0 and ray.is_initialized():
        _made(metric).inc(amount, tags=labels)


def put(metric: Metric, value: float, **labels: str) -> None:
    """Set a gauge."""
    if ray.is_initialized():
        _made(metric).set(value, tags=labels)


@functools.cache
def _made(metric: Metric) -> Any:
    kind = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}[metric.kind]
    return kind(metric.name, description=metric.help, tag_keys=metric.labels)


class RankMeter:
    """Measures one rank: where its time goes while drives are in the network."""

    def __init__(self, rank: int) -> None:
        self.rank = str(rank)
        self._since = time.monotonic()
        self._moved: dict[str, int] = {}

    def begin(self) -> None:
        """A drive begins: the time until its first progress is the first phase's."""
        self._since = time.monotonic()

    def progressed(self, phase: str) -> None:
        """Something of a phase is done: the time since the last such call was the phase's."""
        now = time.monotonic()
        add(PHASE_SECONDS, now - self._since, phase=phase, rank=self.rank)
        self._since = now

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each comes is waiting for input."""
        source = iter(items)
        while True:
            begin = time.monotonic()
            item = next(source, None)
            add(INPUT_WAIT, time.monotonic() - begin, rank=self.rank)
            if item is None:
                return
            yield item

    def timed(self, sync: MemorySync) -> MemorySync:
        """The same collectives; the time in them is counted, with the wait for the slowest rank."""
        return _TimedSync(sync, self.rank)

    def note_moved(self, moved: Iterable[tuple[str, int]]) -> None:
        """What a store has pushed to slower tiers so far, in (tier, bytes)."""
        for tier, total in moved:
            add(STORE_MOVED, total - self._moved.get(tier, 0), tier=tier, rank=self.rank)
            self._moved[tier] = total


class _TimedSync:
    """A MemorySync that counts its seconds."""

    def __init__(self, sync: MemorySync, label: str) -> None:
        self._sync, self._label = sync, label
        self.rank, self.world_size = sync.rank, sync.world_size

    def sum(self, step: FastWeights | None, *, failed: bool, bad_frames: int = 0) -> Barrier:
        """See MemorySync."""
        begin = time.monotonic()
        try:
            return self._sync.sum(step, failed=failed, bad_frames=bad_frames)
        finally:
            add(ALL_REDUCE, time.monotonic() - begin, rank=self._label)

    def broadcast(self, text: str) -> str:
        """See MemorySync. Not counted: between drives ranks wait here for new ones."""
        return self._sync.broadcast(text)

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """See MemorySync."""
        begin = time.monotonic()
        try:
            return self._sync.gather(rows)
        finally:
            add(ALL_REDUCE, time.monotonic() - begin, rank=self._label)
