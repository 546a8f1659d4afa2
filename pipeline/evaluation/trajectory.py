"""Computes all errors of one trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.backend.sim3 import Sim3
from pipeline.evaluation.metrics import (
    KITTI_STEP,
    AbsoluteError,
    FloatArray,
    IntArray,
    KittiError,
    RelativeError,
    absolute_error,
    check_poses,
    distance_pairs,
    frame_pairs,
    kitti_error,
    relative_error,
    travelled,
    umeyama,
)
from pipeline.evaluation.turns import Turn, turn_errors


@dataclass(frozen=True)
class RelativeErrors:
    """RPE over 1 and 10 frames, over 1 m and 100 m of the true path, and over 100 m of the estimated path. The last is
    evo's default; the others use the same pairs for every estimate."""

    over_1_frame: RelativeError
    over_10_frames: RelativeError
    over_1m: RelativeError
    over_100m: RelativeError
    over_100m_of_estimate: RelativeError


@dataclass(frozen=True)
class AlignedErrors:
    """Errors of an estimate after one alignment to the truth.

    scale: metres per unit of the estimate, 1 after SE(3). kitti: with a segment from every frame; kitti_step10: from
    every tenth, as in the development kit."""

    scale: float
    ate: AbsoluteError
    rpe: RelativeErrors
    kitti: KittiError
    kitti_step10: KittiError


@dataclass(frozen=True)
class TrajectoryErrors:
    """Errors of an estimate of `poses` frames along `path_length` metres.

    se3: after alignment by a rigid motion (the estimate must be in metres); sim3: after alignment by a similarity, for
    estimates of unknown scale; turns: every turn of the truth; turn_error_mean, turn_error_maximum: degrees, None
    without turns; absolute: without alignment, None unless both are georeferenced.
    """

    poses: int
    path_length: float
    se3: AlignedErrors
    sim3: AlignedErrors
    turns: tuple[Turn, ...]
    turn_error_mean: float | None
    turn_error_maximum: float | None
    absolute: AbsoluteDistance | None = None


@dataclass(frozen=True)
class AbsoluteDistance:
    """Distances between positions without alignment, metres: root mean squares in space, horizontally and along z,
    which points upwards in a georeferenced world; and the largest."""

    rmse: float
    horizontal: float
    vertical: float
    maximum: float


def absolute_distance(estimate: FloatArray, truth: FloatArray) -> AbsoluteDistance:
    """Distances between positions (N, 3) that are in one world: metres east, north, up of one origin."""
    away = estimate - truth
    squares = away**2
    return AbsoluteDistance(
        float(np.sqrt(squares.sum(1).mean())),
        float(np.sqrt(squares[:, :2].sum(1).mean())),
        float(np.sqrt(squares[:, 2].mean())),
        float(np.sqrt(squares.sum(1).max())),
    )


def align(estimate: FloatArray, truth: FloatArray, *, with_scale: bool) -> Sim3:
    """truth_from_estimate, by least squares over the positions of poses (N, 4, 4). Raises ValueError like `umeyama`."""
    return umeyama(estimate[:, :3, 3], truth[:, :3, 3], with_scale=with_scale)


def evaluate_trajectory(
    estimate: ArrayLike, truth: ArrayLike, frame_index: ArrayLike | None = None
) -> TrajectoryErrors:
    """Compare two trajectories of the same frames.

    estimate, truth (N, 4, 4): world_from_camera, OpenCV axes, each in its own world; the truth in metres. frame_index
    (N,), rising: the frames' numbers if some were left out, so that no pair of frames spans a gap; default 0..N-1.
    Raises ValueError for other shapes or lengths, fewer than three poses, numbers that are not finite, matrices that
    are not rotations, and a trajectory that does not move.
    """
    estimate_poses = check_poses(np.asarray(estimate), "estimate")
    true_poses = check_poses(np.asarray(truth), "truth")
    count = len(true_poses)
    if len(estimate_poses) != count:
        raise ValueError(
            f"expected as many estimated poses as true ones, got {len(estimate_poses)} and {count}: "
            f"match the frames first"
        )
    frames = np.arange(count) if frame_index is None else np.asarray(frame_index, np.int64)
    if frames.shape != (count,) or (np.diff(frames) <= 0).any():
        raise ValueError(f"expected {count} rising frame numbers, one per pose")
    errors = {}
    for with_scale in (False, True):
        alignment = align(estimate_poses, true_poses, with_scale=with_scale)
        moved = alignment.transform_pose(estimate_poses)
        errors[with_scale] = _aligned_errors(moved, true_poses, frames, alignment.scale)
    turns = turn_errors(estimate_poses, true_poses, frames)
    over_turns = [turn.error for turn in turns]
    return TrajectoryErrors(
        poses=count,
        path_length=float(travelled(true_poses[:, :3, 3])[-1]),
        se3=errors[False],
        sim3=errors[True],
        turns=turns,
        turn_error_mean=float(np.mean(over_turns)) if turns else None,
        turn_error_maximum=max(over_turns) if turns else None,
    )


def _aligned_errors(moved: FloatArray, truth: FloatArray, frames: IntArray, scale: float) -> AlignedErrors:
    true_path, path = truth[:, :3, 3], moved[:, :3, 3]
    return AlignedErrors(
        scale,
        absolute_error(moved, truth),
        RelativeErrors(
            relative_error(moved, truth, frame_pairs(frames, 1)),
            relative_error(moved, truth, frame_pairs(frames, 10)),
            relative_error(moved, truth, distance_pairs(true_path, 1.0)),
            relative_error(moved, truth, distance_pairs(true_path, 100.0)),
            relative_error(moved, truth, distance_pairs(path, 100.0)),
        ),
        kitti_error(moved, truth, 1),
        kitti_error(moved, truth, KITTI_STEP),
    )
