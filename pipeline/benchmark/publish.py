"""Measures publishing: synthetic depth maps become a published drive of many points, in limited RAM."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row
from pipeline.common.process_memory import MemoryTrace, resident_bytes
from pipeline.common.sizes import size_text
from pipeline.ingest.chunks import owned_frames, plan_chunks
from pipeline.publish import DriveFacts, PublishConfig, RunFacts, publish_drive
from pipeline.publish.drive_facts import EdgeLike, LoopLike

_TARGET_RATE = 50e6 / 30
_TARGET_MEMORY = 1.5e9
_CHUNK, _OVERLAP = 60, 30


@dataclass(frozen=True)
class PublishBenchmark:
    """Points per second that are published as sorted Parquet. The target is 50 million in 30 seconds on two cores."""

    points: int = 10_000_000
    """About how many points to publish (whole frames)."""
    height: int = 154
    """Height of the depth maps."""
    width: int = 518
    """Width of the depth maps."""
    voxel_size: float | None = None
    """Keep one point per cube of this side, metres of the synthetic world."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        if self.height < 1 or self.width < 1 or self.points < self.height * self.width:
            raise ValueError("publish.points must be at least one frame of publish.height x publish.width")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Publish to a temporary folder, in a new process."""
        frames = -(-self.points // (self.height * self.width))
        say(f"publish: {frames} frames, {frames * self.height * self.width:,} points")
        points, seconds, cpu, grown, written = run_isolated(_published, self, frames)
        met = points / seconds >= _TARGET_RATE
        return Measured(
            {
                "points": points,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "points_per_second": points / seconds,
                "seconds_for_50_million": 50e6 / (points / seconds),
                "peak_memory_bytes": grown,
                "bytes_written": written,
            },
            (
                Row(
                    "50 million points at this rate",
                    f"{50e6 * seconds / points:.1f} s (CPU {50e6 * cpu / points:.1f} s)",
                    "30 s on 2 cores",
                    met,
                ),
                Row("measured", f"{points:,} points in {seconds:.1f} s"),
                Row(
                    "memory above the start",
                    size_text(grown),
                    f"bounded, {size_text(_TARGET_MEMORY)}",
                    grown <= _TARGET_MEMORY,
                ),
                Row("written", f"{size_text(written)}, {written / points:.1f} bytes per point"),
            ),
        )


class _Chunk(NamedTuple):
    frame_index: NDArray[np.int64]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    ok: NDArray[np.bool_]


class _Chunks(Sequence[_Chunk]):
    """Chunks of a synthetic street, made on access."""

    def __init__(self, plan: Sequence[range], height: int, width: int) -> None:
        self.plan, self.height, self.width = plan, height, width

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> _Chunk:  # type: ignore[override]
        if not 0 <= number < len(self.plan):
            raise IndexError(number)
        rng = np.random.default_rng(number)
        frames, shape = self.plan[number], (len(self.plan[number]), self.height, self.width)
        down = np.linspace(-1, 1, self.height, dtype=np.float32)[None, :, None]
        depth = (6 + 30 * np.exp(-2 * down**2) * (1 + 0.05 * rng.random(shape, np.float32))).astype(np.float32)
        focal = 0.6 * self.width
        camera = np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1]], np.float32)
        return _Chunk(
            np.arange(frames.start, frames.stop),
            np.broadcast_to(camera, (len(frames), 3, 3)),
            depth,
            1 + 9 * rng.random(shape, np.float32),
            rng.integers(0, 256, (*shape, 3), np.uint8),
            np.ones(len(frames), bool),
        )


class _Joined(NamedTuple):
    frame_index: NDArray[np.int64]
    world_from_camera: NDArray[np.float64]
    owner: NDArray[np.int64]
    depth_scale: NDArray[np.float64]
    world_from_chunk: Sequence[Sim3]
    edges: Sequence[EdgeLike] = ()
    loops: Sequence[LoopLike] = ()


def _published(settings: PublishBenchmark, frames: int) -> tuple[int, float, float, int, int]:
    """Points, seconds, CPU seconds, peak RAM above the start (bytes), bytes written."""
    plan = plan_chunks(frames, _CHUNK, _OVERLAP)
    owner = np.concatenate([np.full(len(own), k) for k, own in enumerate(owned_frames(plan))])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 2, 3] = np.arange(frames)  # one metre per frame, straight ahead
    joined = _Joined(np.arange(frames), poses, owner, np.ones(frames), [Sim3(1.0, np.eye(3), np.zeros(3))] * len(plan))
    facts = DriveFacts(
        "made-up",
        "memory",
        [f"{i:06d}.jpg" for i in range(frames)],
        None,
        settings.width,
        settings.height,
        settings.width,
        settings.height,
        (),
    )
    options = replace(PublishConfig(), confidence_share=0.0, voxel_size=settings.voxel_size)
    with tempfile.TemporaryDirectory(prefix="benchmark-publish-") as output:
        before = resident_bytes()
        clock, cpu = time.perf_counter(), time.process_time()
        with MemoryTrace() as trace:
            manifest = publish_drive(
                output,
                facts,
                _Chunks(plan, settings.height, settings.width),
                joined,
                options,
                RunFacts("0" * 64, None, {}, "benchmark"),
            )
        seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
        written = sum(file.size for file in manifest.files)
    return manifest.counts.points, seconds, spent, max(0, trace.peak - before), written
