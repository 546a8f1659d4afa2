"""The motion of a car between two instants, in metres, from two cameras whose poses on the car are known.

Corners of the reference camera's picture are found in the other camera's picture of the same instant, which gives their
depth in metres. The same corners are found in the reference camera's next picture. The pose of that picture relative to
the points is the motion (Scaramuzza and Fraundorfer, "Visual Odometry", 2011: motion from 3-D to 2-D).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.tracks import Picture, find_corners, follow_freely
from pipeline.refine.two_view import calibration, sampson, uncalibration

Array = NDArray[np.float64]

_EPIPOLAR = 1.0  # pixels of the tracked picture: largest Sampson distance between corners of the two cameras
_LEAST_DISPARITY = 3.0  # pixels of the tracked picture: with 0.3 pixels of noise the depth then has an error of 10 %
_REPROJECTION = 1.0  # pixels of the tracked picture: largest reprojection error of a point that agrees with the motion
_FEWEST = 30  # points that must agree with the motion


@dataclass(frozen=True, eq=False)
class StereoPair:
    """Two cameras of a rig. count: number of cameras of the rig; second: number of the other camera (the reference
    camera is 0); camera (4,): fx fy cx cy of both in source pixels; second_from_first (4, 4): in metres."""

    count: int
    second: int
    camera: tuple[float, float, float, float]
    second_from_first: tuple[tuple[float, ...], ...]

    @property
    def pose(self) -> Array:
        """second_from_first (4, 4) as an array."""
        return np.asarray(self.second_from_first, np.float64)


def pair_of(rig_from_camera: Array, camera: tuple[float, float, float, float]) -> StereoPair | None:
    """The pair of the reference camera and the one that is farthest beside it and looks in the same direction.

    rig_from_camera (C, 4, 4): metres, NaN where unknown; camera (4,): fx fy cx cy of all of them. None where no camera
    with a known pose is suitable. The two optical axes may differ by at most 20 degrees, because corners look different
    in pictures that differ more. The baseline must be mainly across the axis: along it, points ahead have no disparity.
    """
    best: tuple[float, int] | None = None
    for number in range(1, len(rig_from_camera)):
        pose = rig_from_camera[number]
        if not np.isfinite(pose).all():
            continue
        across = float(np.linalg.norm(pose[:2, 3]))
        aside = across > 0.05 and across > abs(pose[2, 3])
        if aside and pose[2, 2] > np.cos(np.radians(20.0)) and (best is None or across > best[0]):
            best = across, number
    if best is None:
        return None
    inverse = np.linalg.inv(rig_from_camera[best[1]])
    return StereoPair(len(rig_from_camera), best[1], camera, tuple(tuple(map(float, row)) for row in inverse))


def stereo_points(first: Picture, second: Picture, pair: StereoPair) -> tuple[Array, Array]:
    """Corners (n, 2) of the reference camera's picture `first`, in source pixels, and their points (n, 3) in metres in
    its axes, from the other camera's picture `second` of the same instant."""
    corners = first.to_source(find_corners(first.pixels, np.zeros((0, 2), np.float32)))
    if not len(corners):
        return corners, np.zeros((0, 3))
    camera, pose = np.asarray(pair.camera), pair.pose
    k = calibration(camera)
    back = uncalibration(camera)
    rays = np.concatenate([corners, np.ones((len(corners), 1))], 1) @ back.T
    turned = rays @ pose[:3, :3].T
    far = turned @ k.T
    far = far[:, :2] / far[:, 2:]  # where points at infinite distance would be
    found, good = follow_freely(first, second, corners, far)
    scale = max(first.scale)
    good &= sampson(corners, found, pose, camera, camera) < _EPIPOLAR * scale
    good &= np.linalg.norm(found - far, axis=1) > _LEAST_DISPARITY * scale
    there = np.concatenate([found, np.ones((len(found), 1))], 1) @ back.T
    base, along = np.cross(there, pose[:3, 3]), np.cross(there, turned)
    depth = -(base * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
    good &= depth > 0
    return corners[good], rays[good] * depth[good, None]


def motion(first: Picture, beside: Picture, then: Picture, pair: StereoPair) -> Array | None:
    """The reference camera's motion from its picture `first` to its picture `then`: first_from_then (4, 4) in metres.

    beside: the other camera's picture at the time of `first`. None where too few points agree with one motion.
    """
    cv2.setRNGSeed(0)
    corners, points = stereo_points(first, beside, pair)
    if len(points) < _FEWEST:
        return None
    seen, good = follow_freely(first, then, corners, corners)
    points, seen = points[good], seen[good]
    if len(points) < _FEWEST:
        return None
    k, limit = calibration(np.asarray(pair.camera)), _REPROJECTION * max(first.scale)
    try:
        done, turn, shift, inside = cv2.solvePnPRansac(
            points, seen, k, None, iterationsCount=200, reprojectionError=limit, flags=cv2.SOLVEPNP_SQPNP
        )
        if not done or inside is None or len(inside) < max(_FEWEST, len(points) / 3):
            return None
        rows = inside.ravel()
        turn, shift = cv2.solvePnPRefineLM(points[rows], seen[rows], k, None, turn, shift)
    except cv2.error:  # OpenCV fails an assertion where a sample is degenerate
        return None
    then_from_first = np.eye(4)
    then_from_first[:3, :3] = cv2.Rodrigues(turn)[0]
    then_from_first[:3, 3] = np.asarray(shift).ravel()
    return np.asarray(np.linalg.inv(then_from_first)) if np.isfinite(then_from_first).all() else None
