"""Measures the camera's height above the road by corners of the road, which the adjusted cameras triangulate.

Dense depth has errors of a few percent over a whole picture. They tilt its road, and its height with it. Triangulated
corners have no such common error. Dense depth only says which corners lie on the road; their plane is fitted anew, with
one normal for the window, because the camera is fixed to the car.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.grid import Grid
from pipeline.refine.triangulate import triangulate

Array = NDArray[np.float64]

_DOWN, _ASIDE = 0.1, 0.7  # least tangent below the axis and largest one to the side of a road corner
_BAND = 0.1  # log height by which dense depth at a corner may differ from the frame's road
_PARALLAX = 4.0  # pixels of the tracked picture: least parallax of a corner
# Deviation of a corner from the plane, in heights: of a road that is not flat, and for each height of distance.
_UNEVEN, _SLANT = 0.02, 0.01
_LIMIT = 2.0  # deviations at which a corner has half its weight: kerbs, cars
_ROUNDS = 10  # of robust weighting
_FEWEST = 30  # corners of a window
_FEWEST_IN_FRAME = 6
_TURNED = 0.1  # radians: largest angle between the normal of corners and that of dense depth
_UNSURE = 0.03  # largest deviation of the log of the window's height


def road_of_corners(
    result: WindowResult,
    depth: NDArray[np.float32],
    grid: Grid,
    picture_scale: float,
    log_height: Array,
    normal: Array,
) -> tuple[Array, Array, Array] | None:
    """The road of a refined window by its corners; None where they are too few or do not determine the plane.

    Args:
        depth: (F, h, w) corrected dense depth of the window.
        picture_scale: source pixels in a pixel of the tracked picture.
        log_height, normal: (F,), (3,): the road in dense depth; NaN where no road is seen.

    Returns:
        log_height (F,), NaN where dense depth shows no road or too few corners lie on it; its derivative by the normal
        (F, 3); normal (3,): unit vector in the camera's axes, downwards.
    """
    frame, point = result.frame, result.point
    if not len(frame):
        return None
    points, angle = triangulate(result.cam_from_window, result.camera, frame, point, result.xy)
    pose = result.cam_from_window[frame]
    local = np.einsum("mij,mj->mi", pose[:, :3, :3], points[point]) + pose[:, :3, 3]
    ray = np.concatenate([(result.xy - result.camera[2:]) / result.camera[:2], np.ones((len(frame), 1))], 1)
    below = ray @ normal
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.log(grid.sample(depth, frame, result.xy) * below) - log_height[frame]
        mine = (np.abs(off) < _BAND) & (below > _DOWN) & (np.abs(ray[:, 0]) < _ASIDE) & (local[:, 2] > 0)
    mine &= np.radians(angle)[point] * result.camera[0] > _PARALLAX * picture_scale
    point, frame, local = point[mine], frame[mine], local[mine]
    _, of, count = np.unique(point, return_inverse=True, return_counts=True)
    if len(count) < _FEWEST:
        return None
    in_heights = local / np.exp(log_height[frame])[:, None]
    fitted = _plane(in_heights, 1 / count[of])
    if fitted is None or np.arccos(np.clip(fitted[0] @ normal, -1, 1)) > _TURNED:
        return None
    normal, weight = fitted
    ahead = local @ normal
    usable = ahead > 0
    weight = np.where(usable, weight, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.where(usable, np.log(ahead), 0.0)
        slopes = np.where(usable[:, None], local / ahead[:, None], 0.0)
    frames = len(log_height)
    total = np.maximum(np.bincount(frame, weight, frames), 1e-12)
    heights = np.bincount(frame, weight * logs, frames) / total
    slope = np.stack([np.bincount(frame, weight * axis, frames) / total for axis in slopes.T], 1)
    seen = np.bincount(frame, usable, frames) >= _FEWEST_IN_FRAME
    return np.where(seen, heights, np.nan), np.where(seen[:, None], slope, 0.0), normal


def _plane(points: Array, share: Array) -> tuple[Array, Array] | None:
    """Unit normal (3,) and weights (n,) of a robust plane of points (n, 3), in heights; None where they determine its
    height worse than to _UNSURE. share (n,): of a corner that each point is: its observations are not independent."""
    deviation = np.hypot(_UNEVEN, _SLANT * points[:, 2])
    weight = share / deviation**2
    for _ in range(_ROUNDS):
        weighted = points * weight[:, None]
        matrix = weighted.T @ points + 1e-9 * np.eye(3)
        answer = np.linalg.solve(matrix, weighted.sum(0))  # the normal divided by the height
        length = float(np.linalg.norm(answer))
        missed = (points @ answer - 1) / max(length, 1e-9)
        weight = share / deviation**2 / (1 + (missed / (_LIMIT * deviation)) ** 2)
    along = answer / length**2  # derivative of the log of the height, with the sign turned
    unsure = float(np.sqrt(along @ np.linalg.inv(matrix) @ along))
    return None if not np.isfinite(unsure) or unsure > _UNSURE else (answer / length, weight)
