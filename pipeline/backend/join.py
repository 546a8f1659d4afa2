"""Chunks in their own gauges -> one trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.align import align_points
from pipeline.backend.chunk import Chunk, ChunkLike, Shared
from pipeline.backend.config import BackendConfig
from pipeline.backend.sim3 import Array, Sim3
from pipeline.errors import AlignmentError


@dataclass(frozen=True, eq=False)
class JoinResult:
    """One trajectory. World frame: the camera of the first frame is the identity.

    frame_index (N,) int64, rising; world_from_camera (N, 4, 4); owner (N,): the chunk that each frame belongs
    to; depth_scale (N,): what the owner's depth of that frame is multiplied with to be in units of the world;
    world_from_chunk: one Sim(3) a chunk.
    """

    frame_index: NDArray[np.int64]
    world_from_camera: Array
    owner: NDArray[np.int64]
    depth_scale: Array
    world_from_chunk: tuple[Sim3, ...]


def join_chunks(
    chunks: Sequence[ChunkLike],
    *,
    loop_chunks: Sequence[ChunkLike] = (),
    loop_pairs: Sequence[tuple[int, int]] = (),
    overlap: int = 30,
    config: BackendConfig | None = None,
) -> JoinResult:
    """Join `chunks` (in order; read one after the other, two are held) into one trajectory.

    Raises AlignmentError where neighbours cannot be joined.
    """
    config = config or BackendConfig()
    if not len(chunks):
        raise AlignmentError("expected at least one chunk, got none")
    placed: list[Sim3] = [Sim3.identity()]
    parts: list[tuple[NDArray[np.int64], Array]] = []
    borders: list[int] = []
    previous: Chunk | None = None
    for source in chunks:
        chunk = Chunk.read(source, max_pixels=4096)
        parts.append((chunk.frame_index, chunk.chunk_from_camera))
        if previous is not None:
            shared = Shared.of(previous, chunk)
            relative = align_points(
                previous, chunk, shared, scale=config.scale, huber_delta=config.huber_delta,
                rounds=config.rounds, confidence_floor=config.confidence_floor,
            )
            placed.append(placed[-1] @ relative)
            borders.append(int(shared.frame_index[(len(shared) + 1) // 2]))
        previous = chunk

    starts = [0, *borders]
    ends = [*borders, np.iinfo(np.int64).max]
    index, poses, owner, depth_scale = [], [], [], []
    for number, ((frames, chunk_from_camera), world_from_chunk) in enumerate(zip(parts, placed, strict=True)):
        mine = (frames >= starts[number]) & (frames < ends[number])
        index.append(frames[mine])
        poses.append(world_from_chunk.transform_pose(chunk_from_camera[mine]))
        owner.append(np.full(int(mine.sum()), number))
        depth_scale.append(np.full(int(mine.sum()), world_from_chunk.scale))
    world_from_camera = np.concatenate(poses)
    gauge = Sim3(1.0, world_from_camera[0, :3, :3], world_from_camera[0, :3, 3]).inverse()
    return JoinResult(
        np.concatenate(index), gauge.transform_pose(world_from_camera), np.concatenate(owner),
        np.concatenate(depth_scale), tuple(gauge @ one for one in placed),
    )
