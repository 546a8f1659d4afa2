"""Adjusts one window: from tracks and the network's prediction to cameras, points and depth scales.

Each round triangulates from the present poses, drops tracks whose error is above a limit, and adjusts. The limit
becomes smaller from round to round. In the first round the network's depth has almost no weight; after it the deviation
of that depth is measured, and later rounds use it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import adjust
from pipeline.refine.grid import Grid
from pipeline.refine.problem import Problem, Sigmas, project
from pipeline.refine.radial_lens import RadialLens
from pipeline.refine.rig_frames import RigFrames
from pipeline.refine.start import Start, judged_start
from pipeline.refine.tracks import Tracks
from pipeline.refine.triangulate import placed_by_depth, triangulate
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_LIMITS = (20.0, 6.0, 2.5)  # pixels: largest reprojection error of a track in each round
_FOCAL_LIMITS = (20.0, 6.0, 1.5)  # the same where the focal length is free: a few pixels of a wrong track change it
STEPS = (5, 4, 6)  # most steps of each round
_SETTLED, _CREEPING = 1e-4, 1e-7  # a step that lowers the cost by a smaller share ends a round; 2nd: free focal length
_PARALLAX = 0.3  # degrees: a track with less does not determine its depth
_FOCAL_PARALLAX = 1.0  # the same where the focal length is free
_FEWEST_POINTS = 40  # a window with fewer is not adjusted
# Errors of dense depth have the same sign over large parts of a picture and over many frames, so thousands of
# observations hold the information of a few. The deviation is multiplied by this factor. With a factor of 4 (and 0.5
# pixels for corners) the prior rotated a rendered drive by 0.06 degrees of pitch a frame; from the same tracks alone
# the pitch is known to 0.004 degrees.
_ALIKE = 30.0
_COARSE = 0.15  # grid pixels: deviation of a point that was found in another camera's picture
_LEAST_DEPTH = 0.03  # smallest deviation of log depth that is assumed
_UNSURE = 30.0  # deviation of log depth in the first round, where it is to have no influence
_MOVES = 0.3  # share of tracks with parallax above which the car moves
_SOLID = 0.3  # deviation of log depth in the first round where points begin at the network's depth
_FOCAL_RANGE = (0.3, 3.0)  # accepted focal lengths, as a share of the picture's width


@dataclass(frozen=True, eq=False)
class Adjusted:
    """A window after adjustment. problem: adjusted poses, points and observations; track (P,): number of each point's
    track; start: the poses before it; depth_sigma: deviation of the network's log depth from the adjusted points;
    moves: whether most tracks have parallax. Where the car stands only other traffic has it: points are triangulated
    from steps that are errors of the network, and their depth means nothing (on three rendered drives it was 4 to 1,300
    times too small)."""

    problem: Problem
    track: NDArray[np.int64]
    start: Start
    depth_sigma: float
    moves: bool


def adjust_window(
    window: Window,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    *,
    free_focal: bool = False,
    free_principal: bool = False,
    with_depth: bool = True,
    start: Start | None = None,
    steps: tuple[int, ...] = STEPS,
    rig: RigFrames | None = None,
    by_depth: bool = False,
    lens: RadialLens | None = None,
) -> Adjusted | None:
    """Adjust the cameras of a window. None where there are too few tracks, or a free focal length leaves its range.

    Args:
        tracks: of the window's frames, without those held back.
        camera: (4,) fx fy cx cy in source pixels. It is held; with free_focal it is the start, and with free_principal
            too cx and cy are free.
        with_depth: whether the network's depth is part of the cost. Without it only the window's scale comes from it.
        start: poses to begin with; None: those of `judged_start`.
        steps: most steps of each round.
        rig: the window's frames are those of a rig, in its order; its poses are those of `start`. Tracks are numbered
            as in `RigTracks`; their rows in other cameras' frames are from the network's pictures.
        by_depth: points begin at the network's depth, which has the weight of independent errors: for a car that
            stands, whose tracks determine no depth.
        lens: straightens the tracks' pixels; its coefficients are free, beside the camera. Then `camera` is that of the
            straightened picture.
    """
    count = len(window.frame_index)
    straight = tracks if lens is None else replace(tracks, xy=lens.straight(tracks.xy))
    start = start or judged_start(window.cam_from_window, window.frame_index, straight, camera)
    tracks = tracks.at_least(3)
    coarse = None if rig is None else tracks.track % len(rig.mount.turn) != tracks.frame // rig.instants
    numbers, of = np.unique(tracks.track, return_inverse=True)
    if len(numbers) < _FEWEST_POINTS:
        return None
    frame = np.searchsorted(window.frame_index, tracks.frame)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_depth = np.log(grid.sample(window.depth, frame, tracks.xy))
    log_depth[~np.isfinite(log_depth)] = np.nan
    poses, scale, depth_sigma = start.cam_from_window, np.zeros(count), np.nan
    sigmas = Sigmas(depth=_SOLID if by_depth else _UNSURE, robust=1.0 if free_focal else 2.0)
    sigmas, original = replace(sigmas, coarse=max(_COARSE / grid.scale[0], sigmas.pixel)), camera
    problem, kept = None, numbers
    least_angle = _FOCAL_PARALLAX if free_focal else _PARALLAX
    for limit, most in zip(_FOCAL_LIMITS if free_focal else _LIMITS, steps, strict=True):
        xy = tracks.xy if lens is None else lens.straight(tracks.xy)
        if by_depth:
            points = placed_by_depth(poses, camera, frame, of, xy, log_depth)
            angle = np.where(np.isfinite(points).all(1), np.inf, -np.inf)
        else:
            points, angle = triangulate(poses, camera, frame, of, xy)
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
            rig,
            free_principal,
            lens,
            coarse,
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
                coarse=None if coarse is None else coarse[rows],
            ),
            most,
            _CREEPING if free_focal else _SETTLED,
        )
        kept = numbers[good]
        poses, scale, camera, rig = problem.cam_from_window, problem.log_scale, problem.camera, problem.rig
        lens = problem.lens
        if free_focal and not _FOCAL_RANGE[0] < camera[0] / (2 * original[2]) < _FOCAL_RANGE[1]:
            return None
        depth_sigma = depth_deviation(problem)
        if by_depth:
            sigmas = replace(sigmas, depth=max(depth_sigma, _LEAST_DEPTH))
        elif with_depth and np.isfinite(depth_sigma):
            sigmas = replace(sigmas, depth=_ALIKE * max(depth_sigma, _LEAST_DEPTH))
    assert problem is not None
    return Adjusted(problem, kept, start, depth_sigma, by_depth or len(kept) > _MOVES * len(numbers))


def depth_deviation(problem: Problem) -> float:
    """Robust deviation of log depth between the adjusted points and the network's depth times its scale; NaN where
    the network's depth is nowhere known."""
    _, z = project(problem)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(z) - problem.log_depth - problem.log_scale[problem.frame]
    error = error[np.isfinite(error)]
    return float(1.4826 * np.median(np.abs(error - np.median(error)))) if len(error) else float("nan")


def _known_median(values: Array) -> float:
    """Median of the finite values, 0 if there are none."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0
