"""All steps for one window: hold tracks back, adjust, judge the cameras by the held-back tracks, correct the depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import focal_deviation, step_covariance
from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.depth_correction import TERMS, fit_depth
from pipeline.refine.depth_ratios import adjusted_ratios, smooth_log_depth, witness_ratios
from pipeline.refine.evidence import PairEvidence, collect_evidence, held_back
from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.refinement import adjust_window
from pipeline.refine.steady_height import drift_of, rescaled
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import FocalEvidence, drive_figures
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_FOCAL_STEPS = (4, 4, 7)  # most steps of each round
_FOCAL_TRIES = 3  # each try begins at the focal length of the one before, with the tracks that then fit
_SETTLED_FOCAL = 1.0  # no further try where the focal length has changed by less than this many deviations
_USABLE_FOCAL = 0.15  # largest deviation of the log focal length with which a window's estimate is used


def refine_window(
    window: Window,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    picture_scale: float,
    log_heights: Callable[[Window], Array] | None = None,
) -> WindowResult:
    """Adjust a window. Where it cannot be adjusted, the result is the network's window and is not accepted.

    Args:
        tracks: of the window's frames; frame numbers are those of `window.frame_index`.
        camera: (4,) fx fy cx cy in source pixels, held.
        picture_scale: source pixels in a pixel of the tracked picture.
        log_heights: measures, in an adjusted window, the log of the camera's height above the road in each frame
            (F,), NaN where no road is seen. Without it only depth holds the scale.
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
    with_road = log_heights is not None
    log_scale, correction = fit_depth(seen, unseen, count, each_frame=with_road, by_depth=not with_road)
    result = WindowResult(
        np.array([is_better(before, after)]),
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
    if log_heights is None or not result.accepted[0]:
        return result
    drift = drift_of(log_heights(result.applied(window, grid)), float(camera[0]) / picture_scale)
    steady = rescaled(result.cam_from_window, drift)
    held = judged(inverse(steady), camera, window, tracks.select(witness), picture_scale)
    if is_better(before, held):
        result = replace(result, cam_from_window=steady, after=np.array(drive_figures(held)))
    else:
        drift = np.zeros(count)
    log_scale, correction = fit_depth(seen.without(drift), unseen.without(drift), count)
    return replace(result, log_scale=log_scale, correction=correction)


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


def window_focal(window: Window, tracks: Tracks, camera: Array, grid: Grid) -> FocalEvidence | None:
    """The focal length that fits a window's tracks best; None where the tracks do not determine it.

    camera (4,): fx fy cx cy in source pixels, the start. All tracks are used, also the held-back ones: these judge
    poses, and a single number cannot fit their noise.
    """
    cv2.setNumThreads(1)
    begin, deviation = camera.astype(np.float64), np.inf
    begin[:2] = np.sqrt(camera[0] * camera[1])
    try:
        for _ in range(_FOCAL_TRIES):
            adjusted = adjust_window(window, tracks, begin, grid, free_focal=True, with_depth=False, steps=_FOCAL_STEPS)
            if adjusted is None:
                return None
            before, begin = begin, adjusted.problem.camera
            deviation = focal_deviation(adjusted.problem)
            if abs(np.log(begin[0] / before[0])) < _SETTLED_FOCAL * deviation:
                break
    except (np.linalg.LinAlgError, cv2.error):
        return None
    if not np.isfinite(deviation) or deviation > _USABLE_FOCAL:
        return None
    return FocalEvidence(float(np.sqrt(camera[0] * camera[1])), float(begin[0]), deviation)


def common_focal(found: list[FocalEvidence | None], least_deviation: float = 0.02) -> FocalEvidence | None:
    """One focal length from those of some windows: the weighted mean of their logs; None if no window has one.

    least_deviation: is added in quadrature to each window's deviation.
    """
    known = [one for one in found if one is not None]
    if not known:
        return None
    logs = np.log([one.asked for one in known])
    weight = 1 / (np.array([one.deviation for one in known]) ** 2 + least_deviation**2)
    centre = float(weight @ logs / weight.sum())
    scatter = float(np.sqrt(weight @ (logs - centre) ** 2 / weight.sum() / len(known)))
    return FocalEvidence(known[0].used, float(np.exp(centre)), max(float(weight.sum() ** -0.5), scatter))


def judged(
    window_from_camera: Array, camera: Array, window: Window, witness: Tracks, picture_scale: float
) -> list[PairEvidence]:
    """Evidence of a window, with frames counted from its first one."""
    places = np.searchsorted(window.frame_index, witness.frame)
    local = Tracks(witness.track, places, witness.xy)
    cameras = np.tile(camera, (len(window.frame_index), 1))
    return collect_evidence(window_from_camera, cameras, window.ok, local, None, picture_scale)


def is_better(before: list[PairEvidence], after: list[PairEvidence]) -> bool:
    """Whether held-back tracks agree at least as well as before, within a small tolerance for the share and for the
    distance, and more than half of them agree."""
    share, distance = drive_figures(before)
    new_share, new_distance = drive_figures(after)
    if not np.isfinite(new_share):
        return False
    return bool(new_share >= share - 0.005 and new_distance <= distance * 1.02 and new_share > 0.5)
