"""One window from tracks and the network's prediction to adjusted cameras, points and depth scales.

Rounds: triangulate from the poses as they stand, drop tracks that miss by more than a limit, adjust; the limit gets
tighter. What the network's depth is worth is measured after the first round, in which it has next to no say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import adjust
from pipeline.refine.grid import Grid
from pipeline.refine.problem import Problem, Sigmas, project
from pipeline.refine.start import Start, judged_start
from pipeline.refine.tracks import Tracks
from pipeline.refine.triangulate import triangulate
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_LIMITS = (20.0, 6.0, 2.5)  # pixels that a track may miss by in each round
_FOCAL_LIMITS = (20.0, 6.0, 1.5)  # the same where a focal length is looked for: a few pixels of a wrong track bend it
_STEPS = (5, 4, 6)
_SETTLED, _CREEPING = 1e-4, 1e-7  # share of the cost below which a step ends a round; a focal length creeps
_PARALLAX = 0.3  # degrees: a track with less says nothing of its depth
_FOCAL_PARALLAX = 1.0  # the same where a focal length is looked for
_FEWEST_POINTS = 40  # below which a window is not adjusted
# Errors of dense depth have one sign over whole parts of a picture and over many frames, so that thousands of
# observations know no more than a few: deviations are raised by this. With 4 (and 0.5 pixels for corners) the prior
# turned a rendered drive by 0.06 degrees of pitch a frame, which the same tracks alone tell to 0.004.
_ALIKE = 30.0
_LEAST_DEPTH = 0.03  # deviation of log depth that no network comes below
_UNSURE = 30.0  # deviation of log depth while it has no say
_FOCAL_RANGE = (0.3, 3.0)  # of a focal length over the picture's width


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A window after adjustment. problem: poses, points, observations (`track` (P,) is each point's track); start:
    where it began; depth_sigma: deviation of the network's log depth about the adjusted points."""

    problem: Problem
    track: NDArray[np.int64]
    start: Start
    depth_sigma: float


def adjust_window(
    window: Window,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    *,
    free_focal: bool = False,
    with_depth: bool = True,
    start: Start | None = None,
    steps: tuple[int, ...] = _STEPS,
) -> Adjusted | None:
    """Adjusted cameras of a window, None where there are too few tracks.

    Args:
        tracks: of the window's frames; those held back are not among them.
        camera: (4,) fx fy cx cy in source pixels: held, or where free_focal the start of it.
        with_depth: whether the network's depth has a say; without it only the scale of the window comes from there.
    """
    count = len(window.frame_index)
    start = start or judged_start(window.cam_from_window, window.frame_index, tracks, camera)
    tracks = tracks.at_least(3)
    numbers, of = np.unique(tracks.track, return_inverse=True)
    if len(numbers) < _FEWEST_POINTS:
        return None
    frame = np.searchsorted(window.frame_index, tracks.frame)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_depth = np.log(grid.sample(window.depth, frame, tracks.xy))
    log_depth[~np.isfinite(log_depth)] = np.nan
    poses, scale, depth_sigma = start.cam_from_window, np.zeros(count), np.nan
    sigmas, original = Sigmas(depth=_UNSURE, robust=1.0 if free_focal else 2.0), camera
    problem, kept = None, numbers
    least_angle = _FOCAL_PARALLAX if free_focal else _PARALLAX
    for limit, most in zip(_FOCAL_LIMITS if free_focal else _LIMITS, steps, strict=True):
        points, angle = triangulate(poses, camera, frame, of, tracks.xy)
        draft = Problem(
            poses,
            points,
            frame,
            of,
            tracks.xy,
            camera,
            log_depth,
            scale,
            start.cam_from_window,
            original,
            free_focal,
            sigmas,
        )
        error, z = project(draft)
        missed = ~((z > 0) & (np.linalg.norm(error, axis=1) < limit))
        good = (np.bincount(of[missed], minlength=len(numbers)) == 0) & (angle > least_angle)
        if good.sum() < _FEWEST_POINTS:
            return None
        rows, number = good[of], np.cumsum(good) - 1
        if problem is None:
            scale = scale + _known_median(np.log(z[rows]) - log_depth[rows])
        problem = adjust(
            replace(
                draft,
                points=points[good],
                frame=frame[rows],
                point=number[of[rows]],
                xy=tracks.xy[rows],
                log_depth=log_depth[rows],
                log_scale=scale,
            ),
            most,
            _CREEPING if free_focal else _SETTLED,
        )
        kept = numbers[good]
        poses, scale, camera = problem.cam_from_window, problem.log_scale, problem.camera
        if free_focal and not _FOCAL_RANGE[0] < camera[0] / (2 * camera[2]) < _FOCAL_RANGE[1]:
            return None
        depth_sigma = depth_deviation(problem)
        if with_depth and np.isfinite(depth_sigma):
            sigmas = replace(sigmas, depth=_ALIKE * max(depth_sigma, _LEAST_DEPTH))
    assert problem is not None
    return Adjusted(problem, kept, start, depth_sigma)


def depth_deviation(problem: Problem) -> float:
    """Robust deviation of log depth, network's times its scale against adjusted points; NaN where none is known."""
    _, z = project(problem)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(z) - problem.log_depth - problem.log_scale[problem.frame]
    error = error[np.isfinite(error)]
    return float(1.4826 * np.median(np.abs(error - np.median(error)))) if len(error) else float("nan")


def _known_median(values: Array) -> float:
    """Median of the finite ones, 0 for none."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0
