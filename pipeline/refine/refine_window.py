"""All steps for one window: hold tracks back, adjust, judge the cameras by the held-back tracks, correct the depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import step_covariance
from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.depth_correction import TERMS, fit_depth
from pipeline.refine.depth_ratios import adjusted_ratios, smooth_log_depth, witness_ratios
from pipeline.refine.evidence import PairEvidence, collect_evidence, held_back
from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.refinement import adjust_window
from pipeline.refine.road_corners import road_of_corners
from pipeline.refine.steady_height import drift_of, rescaled
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import drive_figures
from pipeline.refine.window import Window

Array = NDArray[np.float64]


WORSE = 0.005  # share of held-back tracks that may agree less than before
STANDS_WORSE = 0.02  # the same where the car stands: other traffic agrees with wrong steps by chance


def refine_window(
    window: Window,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    picture_scale: float,
    road_of: Callable[[Window], tuple[Array, Array]] | None = None,
) -> WindowResult:
    """Adjust a window. Where it cannot be adjusted, the result is the network's window and is not accepted.

    Args:
        tracks: of the window's frames; frame numbers are those of `window.frame_index`.
        camera: (4,) fx fy cx cy in source pixels, held.
        picture_scale: source pixels in a pixel of the tracked picture.
        road_of: measures the road in the dense depth of an adjusted window: the log of the camera's height above it in
            each frame (F,), NaN where no road is seen, and its normal (3,). Without it only depth holds the scale.
    """
    cv2.setNumThreads(1)
    count = len(window.frame_index)
    witness = held_back(tracks)
    before = judged(inverse(window.cam_from_window), camera, window, tracks.select(witness), picture_scale)
    nothing = unrefined(window, camera, before)
    if count < 3:
        return nothing
    try:
        adjusted = adjust_window(window, tracks.select(~witness), camera, grid)
        stands = adjusted is None or not adjusted.moves
        if stands:
            adjusted = adjust_window(window, tracks.select(~witness), camera, grid, by_depth=True)
        covariance = None if adjusted is None else step_covariance(adjusted.problem)
    except (np.linalg.LinAlgError, cv2.error):
        return nothing
    if adjusted is None or covariance is None:
        return nothing
    problem = adjusted.problem
    after = judged(inverse(problem.cam_from_window), camera, window, tracks.select(witness), picture_scale)
    log_depth = smooth_log_depth(window.depth)
    seen = adjusted_ratios(problem, log_depth, grid, picture_scale)
    unseen = witness_ratios(
        problem.cam_from_window, camera, window.frame_index, tracks.select(witness), log_depth, grid, picture_scale
    )
    # Heights above the road need depth that has the network's shape. On the real clip the correction by log depth is
    # large; heights measured after it changed step lengths by 2 % against what the tracks give.
    with_road = road_of is not None
    log_scale, correction = fit_depth(seen, unseen, count, each_frame=with_road, by_depth=not with_road)
    if stands:  # the scale is the network's already
        log_scale, correction = np.zeros(count), np.zeros((count, TERMS))
    result = WindowResult(
        np.array([is_better(before, after, STANDS_WORSE if stands else WORSE)]),
        problem.cam_from_window,
        camera,
        log_scale,
        correction,
        covariance,
        np.array(drive_figures(before)),
        np.array(drive_figures(after)),
        adjusted.start.replaced,
        problem.points,
        adjusted.track,
        problem.point,
        problem.frame,
        problem.xy,
    )
    if road_of is None or stands or not result.accepted[0]:
        return result
    drift = drift_of(_heights(result, window, grid, picture_scale, road_of), float(camera[0]) / picture_scale)
    steady = rescaled(result.cam_from_window, drift)
    held = judged(inverse(steady), camera, window, tracks.select(witness), picture_scale)
    if is_better(before, held):
        result = replace(result, cam_from_window=steady, after=np.array(drive_figures(held)))
    else:
        drift = np.zeros(count)
    log_scale, correction = fit_depth(seen.without(drift), unseen.without(drift), count)
    return replace(result, log_scale=log_scale, correction=correction)


def _heights(
    result: WindowResult,
    window: Window,
    grid: Grid,
    picture_scale: float,
    road_of: Callable[[Window], tuple[Array, Array]],
) -> Array:
    """Log heights above the road (F,), by triangulated corners where these determine it, else by dense depth: errors of
    dense depth depend on the place, so all drives through a street have them in common."""
    seen = result.applied(window, grid)
    log_height, normal = road_of(seen)
    corners = road_of_corners(result, seen.depth, grid, picture_scale, log_height, normal)
    return log_height if corners is None else corners[0]


def unrefined(window: Window, camera: Array, before: list[PairEvidence]) -> WindowResult:
    """The result that keeps the network's window. before: evidence of its poses."""
    count = len(window.frame_index)
    return WindowResult(
        np.zeros(1, np.bool_),
        window.cam_from_window,
        camera,
        np.zeros(count),
        np.zeros((count, TERMS)),
        np.full((count, 6, 6), np.nan),
        np.array(drive_figures(before)),
        np.full(2, np.nan),
        np.zeros(max(count - 1, 0), np.bool_),
        np.zeros((0, 3)),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros((0, 2)),
    )


def judged(
    window_from_camera: Array, camera: Array, window: Window, witness: Tracks, picture_scale: float
) -> list[PairEvidence]:
    """Evidence of a window, with frames counted from its first one."""
    places = np.searchsorted(window.frame_index, witness.frame)
    local = Tracks(witness.track, places, witness.xy)
    cameras = np.tile(camera, (len(window.frame_index), 1))
    return collect_evidence(window_from_camera, cameras, window.ok, local, None, picture_scale)


def is_better(before: list[PairEvidence], after: list[PairEvidence], worse: float = WORSE) -> bool:
    """Whether held-back tracks agree at least as well as before, within a tolerance for the share (worse) and for the
    distance, and more than half of them agree."""
    share, distance = drive_figures(before)
    new_share, new_distance = drive_figures(after)
    if not np.isfinite(new_share):
        return False
    return bool(new_share >= share - worse and new_distance <= distance * 1.02 and new_share > 0.5)
