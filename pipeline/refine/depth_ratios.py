"""Ratios of the depth that cameras triangulate to the network's depth at the same pixel.

Two kinds of tracks are left out. With little parallax the noise of a corner is a large error of depth; this depends on
the parallax in pixels, whatever the focal length. At the border of an object the network's depth is that of the object
or of the background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.grid import Grid
from pipeline.refine.problem import Problem, project
from pipeline.refine.tracks import Tracks
from pipeline.refine.triangulate import parallax, triangulate

Array = NDArray[np.float64]

_PARALLAX = 4.0  # pixels of the tracked picture: least parallax of a track
_RELIEF = 0.3  # difference of log depth in the 3 x 3 pixels around a pixel of the network's grid: more is a border
_MISSED = 2.5  # pixels of the tracked picture: largest reprojection error of a held-back track


@dataclass(frozen=True, eq=False)
class DepthRatios:
    """n observations. frame (n,): in the window; places (n, 2): from -1 to 1 over the network's grid; log_ratio (n,):
    log of triangulated over network's depth, NaN where unknown; log_depth (n,): log of the network's depth."""

    frame: NDArray[np.int64]
    places: Array
    log_ratio: Array
    log_depth: Array

    @staticmethod
    def none() -> DepthRatios:
        """No observation."""
        return DepthRatios(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0), np.zeros(0))

    def known(self) -> DepthRatios:
        """The observations whose ratio is known."""
        rows = np.isfinite(self.log_ratio)
        return DepthRatios(self.frame[rows], self.places[rows], self.log_ratio[rows], self.log_depth[rows])

    def without(self, drift: Array) -> DepthRatios:
        """The ratios minus each frame's log scale, drift (F,)."""
        return replace(self, log_ratio=self.log_ratio - drift[self.frame])


def smooth_log_depth(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log of depth (F, h, w), NaN at the borders of objects and where there is no depth."""
    kernel = np.ones((3, 3), np.uint8)
    with np.errstate(invalid="ignore", divide="ignore"):
        answer = np.log(depth)
    answer[~np.isfinite(answer)] = np.nan
    for one in answer:
        known = np.nan_to_num(one, nan=0.0)
        one[cv2.dilate(known, kernel) - cv2.erode(known, kernel) > _RELIEF] = np.nan
    return answer


def adjusted_ratios(problem: Problem, log_depth: NDArray[np.float32], grid: Grid, picture_scale: float) -> DepthRatios:
    """Ratios of the points of an adjustment. log_depth (F, h, w): from `smooth_log_depth`; picture_scale: source pixels
    in a pixel of the tracked picture."""
    angle = parallax(problem.cam_from_window, problem.points, problem.frame, problem.point)
    far = np.radians(angle) * problem.camera[0] > _PARALLAX * picture_scale
    _, z = project(problem)
    return _ratios(problem.frame, problem.xy, z, far[problem.point], log_depth, grid)


def witness_ratios(
    cam_from_window: Array,
    camera: Array,
    frame_index: NDArray[np.int64],
    witness: Tracks,
    log_depth: NDArray[np.float32],
    grid: Grid,
    picture_scale: float,
) -> DepthRatios:
    """Ratios of the held-back tracks `witness`, triangulated by adjusted cameras.

    cam_from_window (F, 4, 4); camera (4,): fx fy cx cy; frame_index (F,): the frames of the window; log_depth (F, h,
    w): from `smooth_log_depth`; picture_scale: source pixels in a pixel of the tracked picture.
    """
    witness = witness.at_least(3)
    if not len(witness):
        return DepthRatios.none()
    _, point = np.unique(witness.track, return_inverse=True)
    frame = np.searchsorted(frame_index, witness.frame)
    points, angle = triangulate(cam_from_window, camera, frame, point, witness.xy)
    pose = cam_from_window[frame]
    local = np.einsum("mij,mj->mi", pose[:, :3, :3], points[point]) + pose[:, :3, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = camera[:2] * local[:, :2] / local[:, 2:] + camera[2:]
    missed = ~((local[:, 2] > 0) & (np.linalg.norm(seen - witness.xy, axis=1) < _MISSED * picture_scale))
    good = np.bincount(point[missed], minlength=len(points)) == 0
    good &= np.radians(angle) * camera[0] > _PARALLAX * picture_scale
    return _ratios(frame, witness.xy, local[:, 2], good[point], log_depth, grid)


def _ratios(
    frame: NDArray[np.int64],
    xy: Array,
    z: Array,
    good: NDArray[np.bool_],
    log_depth: NDArray[np.float32],
    grid: Grid,
) -> DepthRatios:
    places = 2 * grid.from_source(xy) / (grid.width, grid.height) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        dense = grid.sample(log_depth, frame, xy)
        ratio = np.log(z) - dense
    return DepthRatios(frame, places, np.where(good & np.isfinite(ratio), ratio, np.nan), dense)
