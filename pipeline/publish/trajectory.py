"""The joined trajectory over all frames of the drive, and the chunks' facts about each frame; both are checked here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.common.chunk_prediction import SeenColours
from pipeline.errors import DriveError
from pipeline.publish.drive_facts import DriveFacts, JoinLike


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Arrays over all N frames of a drive: world_from_camera (N, 4, 4) float64, owner (N,) chunk number or
    -1 for a frame that is in no chunk, depth_scale (N,) world units per unit of the owner's depth."""

    world_from_camera: NDArray[np.float64]
    owner: NDArray[np.int64]
    depth_scale: NDArray[np.float64]

    @staticmethod
    def read(joined: JoinLike, facts: DriveFacts, chunk_count: int) -> Trajectory:
        """Assign the joined frames to the frames of the drive. Raises DriveError where they do not fit to it."""
        name, count = f"drive {facts.drive_id}", facts.frame_count
        index = np.asarray(joined.frame_index, np.int64)
        given = np.asarray(joined.world_from_camera, np.float64)
        owner = np.asarray(joined.owner, np.int64)
        scale = np.asarray(joined.depth_scale, np.float64)
        if given.shape != (len(index), 4, 4) or not len(owner) == len(scale) == len(index):
            raise DriveError(
                f"{name}: expected a pose, an owner and a depth scale for {len(index)} joined frames, got "
                f"shapes {given.shape}, {owner.shape}, {scale.shape}"
            )
        if len(joined.world_from_chunk) != chunk_count:
            raise DriveError(
                f"{name}: expected a transform for each of {chunk_count} chunks, got {len(joined.world_from_chunk)}"
            )
        if len(np.unique(index)) != len(index) or (len(index) and not 0 <= index.min() <= index.max() < count):
            raise DriveError(f"{name}: joined frame numbers must be different and below its {count} frames")
        wrong = ~np.isfinite(given).all((1, 2)) | ~(scale > 0) | ~np.isfinite(scale)
        if wrong.any():
            raise DriveError(f"{name}: frame {index[wrong][0]} was joined with a pose or scale that is not finite")
        if len(owner) and not 0 <= owner.min() <= owner.max() < chunk_count:
            raise DriveError(f"{name}: frames must belong to chunks 0..{chunk_count - 1}, got {owner.max()}")
        poses = np.full((count, 4, 4), np.nan)
        owners, scales = np.full(count, -1, np.int64), np.ones(count)
        poses[index], owners[index], scales[index] = given, owner, scale
        return Trajectory(poses, owners, scales)


@dataclass(frozen=True, eq=False)
class SeenFrames:
    """Facts from the owning chunks about each of N frames, filled in chunk by chunk: ok (N,) bool, chunk_index
    (N,), confidence (N,) its median or NaN, intrinsics (N, 4) fx fy cx cy in pixels of the source image."""

    ok: NDArray[np.bool_]
    chunk_index: NDArray[np.int64]
    confidence: NDArray[np.float64]
    intrinsics: NDArray[np.float64]

    @staticmethod
    def none(count: int) -> SeenFrames:
        """For `count` frames, none of them seen yet."""
        return SeenFrames(
            np.zeros(count, bool), np.full(count, -1), np.full(count, np.nan), np.full((count, 4), np.nan)
        )


@dataclass(frozen=True)
class SeenChunk:
    """frames: from the first to one past the last that the chunk saw; their number, and the number of owned ones."""

    frames: range
    frame_count: int
    owned_count: int


def check_chunk(chunk: SeenColours, number: int, facts: DriveFacts, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places in the chunk of the frames that it owns. Raises DriveError where its arrays do not fit together, or
    where an owned frame is not in it."""
    name = f"drive {facts.drive_id}, chunk {number}"
    index = np.asarray(chunk.frame_index, np.int64)
    maps = (len(index), facts.net_height, facts.net_width)
    expected = {"depth": maps, "confidence": maps, "rgb": (*maps, 3), "ok": maps[:1]}
    shapes = {
        "depth": chunk.depth.shape,
        "confidence": chunk.confidence.shape,
        "rgb": chunk.rgb.shape,
        "ok": chunk.ok.shape,
    }
    if index.ndim != 1 or not len(index) or shapes != expected:
        raise DriveError(f"{name}: expected arrays {expected} for {len(index)} frames, got {shapes}")
    if chunk.intrinsics.shape not in ((3, 3), (len(index), 3, 3)):
        raise DriveError(f"{name}: expected intrinsics (3, 3) or one a frame, got {chunk.intrinsics.shape}")
    if not 0 <= index.min() <= index.max() < len(owner):
        raise DriveError(f"{name}: frames must be below {len(owner)}, got {index.min()}..{index.max()}")
    lost = np.setdiff1d(np.flatnonzero(owner == number), index)
    if len(lost):
        raise DriveError(f"{name}: it owns frame {lost[0]} but does not hold it")
    return np.flatnonzero(owner[index] == number)
