"""Points from tracks and known poses: the least-squares intersection of their rays, near cameras with more weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.problem import inverse

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROUNDS = 3  # of dividing errors by the distance from the camera, so that they count as in pixels


def triangulate(cam_from_window: Array, camera: Array, frame: Ints, point: Ints, xy: Array) -> tuple[Array, Array]:
    """Points (P, 3) of tracks in window axes, and the largest angle (P,) in degrees between a track's first ray and
    another one.

    cam_from_window (F, 4, 4); camera (4,): fx fy cx cy; frame, point (M,): of each observation, sorted by point, each
    of the P points at least once; xy (M, 2): source pixels.
    """
    window_from_cam = inverse(cam_from_window)
    local = np.concatenate([(xy - camera[2:]) / camera[:2], np.ones((len(xy), 1))], 1)
    ray = np.einsum("nij,nj->ni", window_from_cam[frame, :3, :3], local)
    ray /= np.linalg.norm(ray, axis=1)[:, None]
    centre = window_from_cam[frame, :3, 3]
    starts = np.flatnonzero(np.diff(point, prepend=-1))
    across = np.eye(3) - ray[:, :, None] * ray[:, None, :]
    weight = np.ones(len(xy))
    for _ in range(_ROUNDS):
        weighted = across * weight[:, None, None]
        matrix = np.add.reduceat(weighted, starts)
        right = np.add.reduceat(np.einsum("nij,nj->ni", weighted, centre), starts)
        matrix += 1e-9 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(3) + 1e-300 * np.eye(3)
        points = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
        weight = 1 / np.maximum(((points[point] - centre) ** 2).sum(1), 1e-12)
    return points, _largest_angle(ray, starts, point)


def placed_by_depth(
    cam_from_window: Array, camera: Array, frame: Ints, point: Ints, xy: Array, log_depth: Array
) -> Array:
    """Points (P, 3) of tracks at the depth that is known near the middle of each track, NaN where none is. log_depth
    (M,): NaN where unknown; the other arguments are those of `triangulate`."""
    starts = np.flatnonzero(np.diff(point, prepend=-1))
    count = np.diff(np.append(starts, len(point)))
    away = np.abs(np.arange(len(point)) - (starts + count / 2)[point]) + np.where(np.isfinite(log_depth), 0.0, np.inf)
    row = np.lexsort((away, point))[starts]
    ray = np.concatenate([(xy[row] - camera[2:]) / camera[:2], np.ones((len(row), 1))], 1)
    local = ray * np.exp(log_depth[row])[:, None]
    pose = inverse(cam_from_window)[frame[row]]
    return np.asarray(np.einsum("nij,nj->ni", pose[:, :3, :3], local) + pose[:, :3, 3])


def parallax(cam_from_window: Array, points: Array, frame: Ints, point: Ints) -> Array:
    """Largest angles (P,) in degrees between a point's first ray and another one. points (P, 3); the other arguments
    are those of `triangulate`."""
    ray = points[point] - inverse(cam_from_window)[frame, :3, 3]
    ray = ray / np.maximum(np.linalg.norm(ray, axis=1), 1e-12)[:, None]
    return _largest_angle(ray, np.flatnonzero(np.diff(point, prepend=-1)), point)


def _largest_angle(ray: Array, starts: Ints, point: Ints) -> Array:
    sine = np.linalg.norm(np.cross(ray[starts][point], ray), axis=1)
    return np.degrees(np.arcsin(np.minimum(np.maximum.reduceat(sine, starts), 1)))
