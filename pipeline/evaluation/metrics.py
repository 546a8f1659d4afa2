"""Errors of a trajectory against the truth: functions of arrays.

Three kinds, all over frames that both have:
    absolute  distance of the cameras after one alignment of the whole path (ATE)
    relative  difference of the motion between two frames, for pairs of frames (RPE; Sturm et al. 2012)
    segments  the same over 100 to 800 m of path, divided by the length (KITTI odometry, Geiger et al. 2012)
Rotation over turns is in turns.py. The definitions are those of the evo package; functions that differ from KITTI's
development kit say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3, rotation_log

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Pairs = tuple[IntArray, IntArray]
"""Positions of the first and of the second frame of each pair, (P,) each."""

FEWEST_POSES = 3  # a rigid motion in space needs three points
KITTI_LENGTHS = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
KITTI_STEP = 10  # the development kit starts a segment at every tenth frame
DISTANCE_TOLERANCE = 0.1  # share of the distance, evo's default
_ROTATION_TOLERANCE = 1e-3  # text files have six digits


@dataclass(frozen=True)
class AbsoluteError:
    """Distances between aligned and true positions, metres. percent: rmse, in % of the length of the true path."""

    rmse: float
    mean: float
    median: float
    maximum: float
    percent: float


@dataclass(frozen=True)
class RelativeError:
    """Errors of the motion between two frames, over `pairs` pairs: translation in metres, rotation in degrees.

    The four numbers are None if the drive has no such pair.
    """

    pairs: int
    translation_rmse: float | None
    translation_mean: float | None
    rotation_rmse: float | None
    rotation_mean: float | None


@dataclass(frozen=True)
class SegmentError:
    """Mean errors over segments of one length: translation in % (m per 100 m), rotation in degrees per 100 m."""

    length: float
    segments: int
    translation_percent: float
    rotation_per_100m: float


@dataclass(frozen=True)
class KittiError:
    """KITTI's relative errors: means over all segments, and by length. start_every: a segment starts at each such
    frame.

    The means are None if the true path is shorter than the shortest segment.
    """

    start_every: int
    segments: int
    translation_percent: float | None
    rotation_per_100m: float | None
    by_length: tuple[SegmentError, ...]


def check_poses(poses: NDArray[np.generic], what: str) -> FloatArray:
    """Poses as float64 (N, 4, 4). Raises ValueError, which names `what` and the first frame that is not a rigid
    motion."""
    array = np.asarray(poses, np.float64)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise ValueError(f"{what}: expected poses (frames, 4, 4), got {array.shape}")
    finite = np.isfinite(array).all((1, 2))
    if not finite.all():
        raise ValueError(f"{what}: the pose of frame {int((~finite).argmax())} is not finite")
    rotation = array[:, :3, :3]
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2), initial=0.0)
    wrong = (off > _ROTATION_TOLERANCE) | (np.linalg.det(rotation) < 0)
    if wrong.any():
        frame = int(wrong.argmax())
        raise ValueError(f"{what}: expected a rotation in frame {frame}, this matrix is off by {off[frame]:.2g}")
    if len(array) < FEWEST_POSES:
        raise ValueError(f"{what}: at least {FEWEST_POSES} poses are needed, got {len(array)}")
    return array


def travelled(positions: FloatArray) -> FloatArray:
    """Length of the path from the first of positions (N, 3) to each, (N,)."""
    return np.concatenate([[0.0], np.linalg.norm(np.diff(positions, axis=0), axis=1).cumsum()])


def umeyama(source: FloatArray, target: FloatArray, *, with_scale: bool) -> Sim3:
    """The similarity (or rigid motion) that takes source (N, 3) to target (N, 3) with least squares (Umeyama 1991).

    Benchmarks align with this function; the back end's `fit_similarity` has another scale (Horn's), for chains of
    chunks. For points on one line, the rotation about the line is arbitrary; the errors do not depend on it. Raises
    ValueError if all points of one side are in one place.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    source_local, target_local = source - source_mean, target - target_mean
    spread = float((source_local**2).sum())
    for name, local, mean in (("estimate", source_local, source_mean), ("truth", target_local, target_mean)):
        if not float((local**2).sum()) > 1e-24 * max(1.0, float((mean**2).sum())):
            raise ValueError(f"the {name} does not move: all its positions are in one place")
    u, strength, vt = np.linalg.svd(target_local.T @ source_local)
    sign = np.array([1.0, 1.0, 1.0 if np.linalg.det(u @ vt) > 0 else -1.0])
    rotation = (u * sign) @ vt
    scale = float((strength * sign).sum()) / spread if with_scale else 1.0
    if not scale > 0:
        raise ValueError("estimate and truth are not similar at all: the best scale between them is zero")
    return Sim3(scale, rotation, target_mean - scale * rotation @ source_mean)


def position_errors(aligned: FloatArray, truth: FloatArray) -> FloatArray:
    """Distances (N,) between the cameras of two trajectories (N, 4, 4), in their unit."""
    return np.asarray(np.linalg.norm(aligned[:, :3, 3] - truth[:, :3, 3], axis=1))


def absolute_error(aligned: FloatArray, truth: FloatArray) -> AbsoluteError:
    """ATE of an aligned trajectory (N, 4, 4) in metres."""
    error = position_errors(aligned, truth)
    path = float(travelled(truth[:, :3, 3])[-1])
    rmse = float(np.sqrt((error**2).mean()))
    return AbsoluteError(rmse, float(error.mean()), float(np.median(error)), float(error.max()), 100 * rmse / path)


def frame_pairs(frame_index: IntArray, delta: int) -> Pairs:
    """All pairs of frames whose numbers (N,), rising, differ by `delta`; so a frame that is left out does not make a
    wider pair."""
    place = np.searchsorted(frame_index, frame_index + delta)
    found = place < len(frame_index)
    found[found] = frame_index[place[found]] == frame_index[found] + delta
    return np.flatnonzero(found), place[found]


def distance_pairs(positions: FloatArray, distance: float, tolerance: float | None = None) -> Pairs:
    """For every frame, the later frame whose distance along the path (N, 3) is nearest to `distance`, the first of
    equally near ones. Pairs whose distance differs by more than `tolerance` (default: a tenth) are left out."""
    tolerance = DISTANCE_TOLERANCE * distance if tolerance is None else tolerance
    path = travelled(positions)
    first = np.arange(len(path) - 1)
    goal = path[first] + distance
    above = np.clip(np.searchsorted(path, goal), first + 1, len(path) - 1)
    below = np.maximum(above - 1, first + 1)
    nearer = np.where(np.abs(path[below] - goal) <= np.abs(path[above] - goal), below, above)
    # All frames of a stop have the same distance: the first is taken.
    second = np.maximum(np.searchsorted(path, path[nearer]), first + 1)
    near = np.abs(path[second] - path[first] - distance) <= tolerance
    return first[near], second[near]


def relative_motion(poses: FloatArray, pairs: Pairs) -> tuple[FloatArray, FloatArray]:
    """Rotation (P, 3, 3) and translation (P, 3) of the second camera of each pair in the coordinates of the first."""
    first, second = pairs
    back = poses[first, :3, :3].transpose(0, 2, 1)
    way = poses[second, :3, 3] - poses[first, :3, 3]
    return back @ poses[second, :3, :3], (back @ way[:, :, None])[:, :, 0]


def motion_errors(estimate: FloatArray, truth: FloatArray, pairs: Pairs) -> tuple[FloatArray, FloatArray]:
    """Errors (P,) of the motion over each pair: translation in the unit of the poses, rotation in degrees.

    The error is the motion from the true relative pose to the estimated one. Its angle is computed from a quaternion;
    KITTI's kit uses an arc cosine, which is inaccurate below about 0.02 degrees.
    """
    rotation, translation = relative_motion(estimate, pairs)
    true_rotation, true_translation = relative_motion(truth, pairs)
    difference = np.linalg.norm(translation - true_translation, axis=1)
    angle = np.linalg.norm(rotation_log(true_rotation.transpose(0, 2, 1) @ rotation), axis=1)
    return difference, np.degrees(angle)


def relative_error(estimate: FloatArray, truth: FloatArray, pairs: Pairs) -> RelativeError:
    """RPE of poses (N, 4, 4) over the given pairs."""
    if not len(pairs[0]):
        return RelativeError(0, None, None, None, None)
    translation, rotation = motion_errors(estimate, truth, pairs)
    return RelativeError(
        len(translation),
        float(np.sqrt((translation**2).mean())),
        float(translation.mean()),
        float(np.sqrt((rotation**2).mean())),
        float(rotation.mean()),
    )


def kitti_error(estimate: FloatArray, truth: FloatArray, start_every: int = KITTI_STEP) -> KittiError:
    """KITTI's relative errors of poses (N, 4, 4): segments of 100, 200 ... 800 m of the true path.

    A segment ends at the first frame that is more than its length of path behind its start. Its errors are divided by
    that length. `start_every`: 10 is the development kit's rule; 1 starts a segment at every frame. The estimate needs
    no alignment, because relative errors depend on its scale only.
    """
    path = travelled(truth[:, :3, 3])
    start = np.arange(0, len(path), start_every)
    by_length, translations, rotations = [], [np.zeros(0)], [np.zeros(0)]
    for length in KITTI_LENGTHS:
        stop = np.searchsorted(path, path[start] + length, side="right")
        inside = stop < len(path)
        if not inside.any():
            continue
        translation, rotation = motion_errors(estimate, truth, (start[inside], stop[inside]))
        translations.append(100 * translation / length)
        rotations.append(100 * rotation / length)
        by_length.append(
            SegmentError(length, int(inside.sum()), float(translations[-1].mean()), float(rotations[-1].mean()))
        )
    translation, rotation = np.concatenate(translations), np.concatenate(rotations)
    if not len(translation):
        return KittiError(start_every, 0, None, None, ())
    return KittiError(
        start_every, len(translation), float(translation.mean()), float(rotation.mean()), tuple(by_length)
    )
