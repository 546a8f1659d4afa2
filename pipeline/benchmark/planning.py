"""Measures how long a large fleet takes to be found, listed and planned, which every run does.

Everything is real (discovery, s3fs, planner, its processes, Ray) except the S3 server, which answers from RAM
(`fake_s3`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.benchmark.fake_s3 import BUCKET, PREFIX
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row
from pipeline.common.process_memory import MemoryTrace
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job, start_ray
from pipeline.common.sizes import size_text
from pipeline.config import RunConfig
from pipeline.fleet.discover.discovery import iter_drives
from pipeline.fleet.dry_run import fleet_plan

_TARGET_S, _TARGET_NAMES = 300.0, 50_000_000


@dataclass(frozen=True)
class PlanningBenchmark:
    """A fleet on a simulated server that needs almost no time."""

    drives: int = 1_000
    """Drives below one prefix."""
    frames: int = 5_000
    """Frames of each."""
    processes: int | None = None
    """Number of planning processes, as --fleet.scan-processes."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name in ("drives", "frames"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"planning.{name} must be at least 1, not {getattr(self, name)}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Find and plan all drives. Raises ValueError if some could not be planned."""
        say(f"planning {self.drives:,} drives of {self.frames:,} frames")
        with _server(self.drives, self.frames) as endpoint:
            values = run_isolated(_planned, endpoint, self.processes)
        if values["planned"] != self.drives or values["frames"] != self.drives * self.frames:
            found = f"{values['planned']} drives of {values['frames']} frames"
            raise ValueError(f"planned {found}, not {self.drives} of {self.frames} each")
        names, seconds = self.drives * self.frames, values["seconds"]
        values["names"] = names
        target = _TARGET_S * names / _TARGET_NAMES
        return Measured(
            values,
            (
                Row(f"{names:,} names found and planned", f"{seconds:.1f} s", f"< {target:.3g} s", seconds < target),
                Row("  per name", f"{1e6 * seconds / names:.1f} us"),
                Row("CPU of the driver, per name", f"{1e6 * values['driver_cpu_seconds'] / names:.1f} us"),
                Row("memory of the driver above the start", size_text(values["memory_bytes"])),
            ),
        )


@contextmanager
def _server(drives: int, frames: int) -> Iterator[str]:
    words = [sys.executable, "-m", "pipeline.benchmark.fake_s3", str(drives), str(frames)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def _planned(endpoint: str, processes: int | None) -> dict[str, float]:
    """Plan the fleet in this new process, whose environment and file systems are not shared."""
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="made", AWS_SECRET_ACCESS_KEY="up")
    os.environ.pop("AWS_PROFILE", None)
    source = f"s3://{BUCKET}/{PREFIX.rstrip('/')}"
    with tempfile.TemporaryDirectory(prefix="planning-benchmark-") as output, ray_for_one_job():
        config = RunConfig(input=source, output=output)
        config = replace(config, fleet=replace(config.fleet, scan_processes=processes))
        start_ray(ranks=config.all_ranks)
        begin, here = time.monotonic(), time.process_time()
        with Reporter(sys.stderr) as reporter, MemoryTrace(every_s=0.25) as memory:
            plan = fleet_plan(config, iter_drives(source), reporter)
        return {
            "seconds": time.monotonic() - begin,
            "driver_cpu_seconds": time.process_time() - here,
            "planned": plan.drives.get("do", 0),
            "frames": plan.frames,
            "memory_bytes": memory.peak - memory.samples[0][1],
        }
