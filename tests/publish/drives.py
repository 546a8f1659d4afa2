"""Small drives for the tests of publishing: a car that drives along x, a wall, chunks that are read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.publish import DriveFacts, RunFacts


@dataclass(frozen=True)
class Chunk:
    frame_index: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray
    rgb: np.ndarray
    ok: np.ndarray


@dataclass(frozen=True)
class Similarity:
    scale: float
    rotation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True)
class Edge:
    first: int
    second: int
    residual: float
    inliers: float


@dataclass(frozen=True)
class Loop:
    first: range
    second: range
    similarity: float | None
    residual: float | None
    accepted: bool
    reason: str | None


@dataclass(frozen=True)
class Joined:
    frame_index: np.ndarray
    world_from_camera: np.ndarray
    owner: np.ndarray
    depth_scale: np.ndarray
    world_from_chunk: Sequence[Similarity]
    edges: Sequence[Edge] = ()
    loops: Sequence[Loop] = ()


@dataclass(frozen=True)
class Listed:
    name: str
    size: int
    etag: str | None = None


class Chunks(Sequence[Chunk]):
    """Chunks that are made on access, from their number; `made` lists those that were made."""

    def __init__(self, plan: Sequence[range], height: int, width: int, bad: Sequence[int] = (), seed: int = 0):
        self.plan, self.height, self.width, self.bad, self.seed = plan, height, width, set(bad), seed
        self.made: list[int] = []

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: Any) -> Chunk:
        if not 0 <= number < len(self.plan):
            raise IndexError(number)
        self.made.append(number)
        rng = np.random.default_rng([self.seed, number])
        frames, shape = self.plan[number], (len(self.plan[number]), self.height, self.width)
        depth = rng.random(shape, np.float32)
        depth *= 8
        depth += 2
        confidence = rng.random(shape, np.float32)
        confidence *= 9
        confidence += 1
        rgb = rng.integers(0, 256, (*shape, 3), np.uint8)
        k = np.array([[0.8 * self.width, 0, self.width / 2], [0, 0.9 * self.width, self.height / 2], [0, 0, 1]])
        return Chunk(
            np.array(frames),
            np.broadcast_to(k.astype(np.float32), (len(frames), 3, 3)),
            depth,
            confidence,
            rgb,
            np.array([frame not in self.bad for frame in frames]),
        )


@dataclass(frozen=True)
class Drive:
    facts: DriveFacts
    chunks: Chunks
    joined: Joined
    run: RunFacts = field(default_factory=lambda: run_facts())


def run_facts(identity: str = "a" * 64) -> RunFacts:
    return RunFacts(identity, "b" * 64, {"chunk_size": 4}, "0.1.0", {"forward": 1.5}, {"verdict": "pass"})


def turn(degrees: float, axis: int = 1) -> np.ndarray:
    a, b = [i for i in range(3) if i != axis]
    matrix, angle = np.eye(3), np.radians(degrees)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def small_drive(
    frames: int = 10,
    *,
    drive_id: str = "drive-1",
    height: int = 6,
    width: int = 8,
    bad: Sequence[int] = (),
    left_out: Sequence[int] = (),
    loops: Sequence[Loop] = (),
    size: int = 4,
    times: Sequence[int] | None = None,
    step: float = 1.0,
    seed: int = 0,
) -> Drive:
    """A drive of chunks of `size` frames that overlap by half; the later of two chunks owns the shared frames."""
    half = size // 2
    plan = [range(start, min(start + size, frames)) for start in range(0, max(frames - half, 1), half)]
    index = np.array([frame for frame in range(frames) if frame not in left_out])
    owner = np.minimum(index // half, len(plan) - 1)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    for frame in range(frames):
        poses[frame, :3, :3] = turn(3.0 * frame)
        poses[frame, :3, 3] = (step * frame, 0.1 * frame, 0.5 * frame)
    transforms = [Similarity(1.0 + 0.1 * k, turn(5.0 * k), np.array([float(k), 0.0, 0.0])) for k in range(len(plan))]
    joined = Joined(
        index,
        poses[index],
        owner,
        np.array([transforms[k].scale for k in owner]),
        transforms,
        [Edge(k, k + 1, 0.01 * (k + 1), 0.9) for k in range(len(plan) - 1)],
        loops,
    )
    facts = DriveFacts(
        drive_id=drive_id,
        source_uri="s3://user:secret@bucket/drives/1?X-Amz-Signature=abc",
        frame_uris=[f"s3://user:secret@bucket/drives/1/{n:06d}.png?X-Amz-Signature=abc" for n in range(frames)],
        timestamps_ns=times,
        source_width=4 * width,
        source_height=4 * height + 8,
        net_width=width,
        net_height=height,
        listing=[Listed(f"{n:06d}.png", 1000 + n, f"etag{n}") for n in range(frames)],
    )
    return Drive(facts, Chunks(plan, height, width, bad, seed), joined)
