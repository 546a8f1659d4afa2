"""One chunk's prediction as the back end uses it: checked once, in time order, on a coarse grid of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array, nearest_rotation
from pipeline.common.chunk_prediction import PosedDepth
from pipeline.errors import AlignmentError


@dataclass(frozen=True, eq=False)
class Chunk:
    """A chunk in time order. Shapes: S frames, q kept pixels of each frame.

    frame_index (S,) int64, rising; time (S,) int64: the frames' numbers among those that are in some chunk (stops are
    left out); chunk_from_camera (S, 4, 4) with orthonormal rotations; rays (S, q, 3): direction of each kept pixel in
    the camera's axes, with z = 1; depth, confidence (S, q): chunk units, and as the network gives it; a frame that is
    not `ok` has confidence 0. reference: position in these arrays of the frame that defines the gauge. pose_deviation
    (S, 2): standard deviations of each frame's rotation (radians, one axis) and position (chunk units, one axis)
    relative to its neighbours, NaN where unknown.
    """

    frame_index: NDArray[np.int64]
    time: NDArray[np.int64]
    chunk_from_camera: Array
    rays: Array
    depth: Array
    confidence: Array
    ok: NDArray[np.bool_]
    reference: int
    pose_deviation: Array

    @staticmethod
    def read(
        source: PosedDepth,
        *,
        max_pixels: int | None = None,
        kept: NDArray[np.int64] | None = None,
        pose_deviation: Array | None = None,
    ) -> Chunk:
        """Check and convert a prediction.

        Args:
            source: frames in any order. Without `ok` (S,), all its images count as good. Pixels whose depth or
                confidence is NaN are ignored.
            max_pixels: about how many pixels of each frame are kept, on a regular grid; None: all.
            kept: the frame numbers that are in chunks, rising; None: all.
            pose_deviation: (S, 2), see Chunk, in the order of the prediction's frames; None: unknown.

        Raises:
            AlignmentError: arrays do not fit together, a frame number occurs twice or is not in `kept`, or a pose is
                not finite.
        """
        index, poses, intrinsics, ok = _checked(source)
        order = np.argsort(index, kind="stable")
        rays, depth, confidence = _thinned(source, intrinsics, ok, max_pixels)
        rotation = nearest_rotation(poses[:, :, :3]).transpose(0, 2, 1)
        chunk_from_camera = np.tile(np.eye(4), (len(index), 1, 1))
        chunk_from_camera[:, :3, :3] = rotation
        chunk_from_camera[:, :3, 3] = -np.einsum("nij,nj->ni", rotation, poses[:, :, 3])
        chunk_from_camera = chunk_from_camera[order]
        deviation = np.full((len(index), 2), np.nan) if pose_deviation is None else pose_deviation
        if deviation.shape != (len(index), 2):
            raise AlignmentError(f"{_name(index)}: pose_deviation {deviation.shape} does not fit {len(index)} frames")
        return Chunk(
            index[order],
            _times(index[order], kept),
            chunk_from_camera,
            rays[order],
            depth[order],
            confidence[order],
            ok[order],
            _reference(chunk_from_camera),
            np.asarray(deviation, np.float64)[order],
        )

    @property
    def offset(self) -> Array:
        """Signed number of frames from the reference frame (S,). The network's error grows with it."""
        return (self.time - self.time[self.reference]).astype(np.float64)

    @property
    def moment(self) -> Array:
        """First moment of the path: integral of the offset along it from the reference frame (S, 3), in frames times
        chunk units.

        If each step of the path is turned by (rate times its offset), the frames move by rate x moment.
        """
        offset, position = self.offset, self.chunk_from_camera[:, :3, 3]
        parts = (offset[1:] + offset[:-1])[:, None] / 2 * np.diff(position, axis=0)
        total = np.concatenate([np.zeros((1, 3)), np.cumsum(parts, axis=0)])
        return np.asarray(total - total[self.reference])

    @property
    def frames(self) -> str:
        """First and last frame number for messages: "30..89"."""
        return f"{self.frame_index[0]}..{self.frame_index[-1]}"

    def points(self, positions: NDArray[np.int64]) -> tuple[Array, Array]:
        """Points (n, q, 3) of the frames at `positions` in the chunk's gauge, and confidences (n, q)."""
        poses = self.chunk_from_camera[positions]
        local = self.rays[positions] * self.depth[positions][..., None]
        points = np.einsum("nij,nqj->nqi", poses[:, :3, :3], local) + poses[:, None, :3, 3]
        return points, self.confidence[positions]


def _reference(chunk_from_camera: Array) -> int:
    """The frame whose pose is nearest to the identity: the network puts the origin of its coordinates there."""
    turn = np.arccos(np.clip((np.trace(chunk_from_camera[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    distance = np.linalg.norm(chunk_from_camera[:, :3, 3], axis=1)
    return int(np.argmin(turn + distance / max(float(distance.max()), 1e-12)))


@dataclass(frozen=True, eq=False)
class Shared:
    """Frames that two chunks have in common: their numbers (n,) and their positions in either chunk's arrays (n,)."""

    frame_index: NDArray[np.int64]
    in_first: NDArray[np.int64]
    in_second: NDArray[np.int64]

    @staticmethod
    def of(first: Chunk, second: Chunk) -> Shared:
        """Common frames of two chunks, rising; may be empty."""
        frames, in_first, in_second = np.intersect1d(
            first.frame_index, second.frame_index, assume_unique=True, return_indices=True
        )
        return Shared(frames, in_first, in_second)

    def __len__(self) -> int:
        return len(self.frame_index)


def _name(index: NDArray[np.int64]) -> str:
    """A chunk in an error."""
    return f"chunk with frames {index.min()}..{index.max()}" if index.size else "chunk without frames"


def _checked(source: PosedDepth) -> tuple[NDArray[np.int64], Array, Array, NDArray[np.bool_]]:
    """A prediction's frame numbers (S,), poses (S, 3, 4), intrinsics (S, 3, 3) and good frames (S,). Raises
    AlignmentError where its arrays do not fit together or hold numbers that cannot be."""
    index = np.asarray(source.frame_index, np.int64)
    name, count = _name(index), len(index)
    poses = np.asarray(source.cam_from_world, np.float64)
    depth, confidence = source.depth, source.confidence
    if not count or poses.shape != (count, 3, 4) or depth.ndim != 3 or len(depth) != count:
        raise AlignmentError(
            f"{name}: expected poses (S, 3, 4) and depth (S, h, w) for S = {count} frames, "
            f"got {poses.shape} and {depth.shape}"
        )
    if confidence.shape != depth.shape:
        raise AlignmentError(f"{name}: confidence {confidence.shape} does not fit depth {depth.shape}")
    if len(np.unique(index)) < count:
        raise AlignmentError(f"{name}: a frame number occurs twice")
    if not np.isfinite(poses).all():
        frame = index[~np.isfinite(poses).all((1, 2))][0]
        raise AlignmentError(f"{name}: the pose of frame {frame} is not finite")
    intrinsics = np.broadcast_to(np.asarray(source.intrinsics, np.float64), (count, 3, 3))
    if not (intrinsics[:, [0, 1], [0, 1]] > 0).all():
        raise AlignmentError(f"{name}: focal lengths must be above zero")
    return index, poses, intrinsics, np.asarray(getattr(source, "ok", np.ones(count, bool)), bool)


def _times(index: NDArray[np.int64], kept: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The place of each frame (rising numbers) among the kept ones; without `kept`, its number."""
    if kept is None:
        return index
    time = np.searchsorted(kept, index)
    if time[-1] >= len(kept) or (kept[time] != index).any():
        raise AlignmentError(f"{_name(index)}: it has frames that were to be left out of all chunks")
    return time


def _thinned(
    source: PosedDepth, intrinsics: Array, ok: NDArray[np.bool_], max_pixels: int | None
) -> tuple[Array, Array, Array]:
    """Rays (S, q, 3) with z = 1, depth and confidence (S, q) of the pixels on a regular grid. Pixels that are not
    usable have confidence 0 and depth 1."""
    count, height, width = source.depth.shape
    stride = 1 if max_pixels is None else max(1, int(np.ceil(np.sqrt(height * width / max_pixels))))
    rows, columns = np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride)
    v, u = (axis.ravel() + 0.5 for axis in np.meshgrid(rows, columns, indexing="ij"))
    x = (u - intrinsics[:, :1, 2]) / intrinsics[:, :1, 0]
    y = (v - intrinsics[:, 1:2, 2]) / intrinsics[:, 1:2, 1]
    thin = (slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    depth = np.asarray(source.depth[thin], np.float64).reshape(count, -1)
    confidence = np.asarray(source.confidence[thin], np.float64).reshape(count, -1)
    usable = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence) & ok[:, None]
    confidence = np.where(usable, np.maximum(confidence, 0), 0)
    return np.stack([x, y, np.ones_like(x)], -1), np.where(usable, depth, 1.0), confidence
