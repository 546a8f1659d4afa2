"""Geometry of two pictures of one scene: the distance of tracks from a relative pose, and the pose estimated from them.

Sampson's distance: Hartley and Zisserman, "Multiple View Geometry" (2004), section 11.4.3. The essential matrix is that
of five points (Nister 2004) inside MAGSAC++.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NOISE = 0.7  # pixels: noise of a track between two pictures
_UNMOVED = 1e-12  # a shorter translation counts as none
_ASKED = 60  # number of tracks that choose among the four poses of an essential matrix
_FEWEST = 30  # tracks that a pair of pictures needs to give a pose


def calibration(camera: Array) -> Array:
    """Calibration matrix (3, 3) of a camera (4,): fx fy cx cy."""
    return np.array([[camera[0], 0, camera[2]], [0, camera[1], camera[3]], [0, 0, 1.0]])


def uncalibration(camera: Array) -> Array:
    """Inverse (3, 3) of the calibration matrix of a camera (4,)."""
    fx, fy, cx, cy = camera
    return np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1.0]])


def fundamental(second_from_first: Array, camera_first: Array, camera_second: Array) -> Array:
    """Fundamental matrix F (3, 3) of a relative pose (4, 4) and two cameras (4,): fx fy cx cy in pixels.

    For a point (x, y) of the first picture, F (x, y, 1) is its epipolar line in the second. F is zero where the camera
    has not moved, because then there is no epipolar geometry.
    """
    rotation, shift = second_from_first[:3, :3], second_from_first[:3, 3]
    length = float(np.linalg.norm(shift))
    if length < _UNMOVED:
        return np.zeros((3, 3))
    x, y, z = shift / length
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    return np.asarray(uncalibration(camera_second).T @ essential @ uncalibration(camera_first))


def sampson(first: Array, second: Array, second_from_first: Array, camera_first: Array, camera_second: Array) -> Array:
    """Sampson's distances (n,) in pixels of tracks (n, 2) in two pictures from a relative pose (4, 4).

    Cameras (4,): fx fy cx cy in pixels. Where the camera has not moved there is no epipolar geometry; then it is the
    distance from the position that the rotation predicts.
    """
    a = np.concatenate([first, np.ones((len(first), 1))], 1)
    b = np.concatenate([second, np.ones((len(second), 1))], 1)
    if np.linalg.norm(second_from_first[:3, 3]) < _UNMOVED:
        turned = a @ (calibration(camera_second) @ second_from_first[:3, :3] @ uncalibration(camera_first)).T
        return np.asarray(np.linalg.norm(turned[:, :2] / turned[:, 2:] - second, axis=1))
    lines = fundamental(second_from_first, camera_first, camera_second)
    in_second, in_first = a @ lines.T, b @ lines
    across = np.sqrt((in_second[:, :2] ** 2).sum(1) + (in_first[:, :2] ** 2).sum(1))
    return np.asarray(np.abs((b * in_second).sum(1)) / np.maximum(across, 1e-12))


@dataclass(frozen=True, eq=False)
class TwoView:
    """A relative pose estimated from two pictures. rotation (3, 3), direction (3,): of second_from_first, the
    translation at length 1; share: of the tracks that agree with it."""

    rotation: Array
    direction: Array
    share: float


def two_view_pose(first: Array, second: Array, camera: Array) -> TwoView | None:
    """The relative pose estimated from tracks (n, 2), in pixels, in two pictures of one camera (4,): fx fy cx cy.

    None where there are too few tracks, or where they determine no pose (the camera has not moved).
    """
    if len(first) < _FEWEST:
        return None
    cv2.setRNGSeed(0)
    normal = [np.ascontiguousarray((points - camera[2:]) / camera[:2]) for points in (first, second)]
    threshold = _NOISE / float(np.sqrt(camera[0] * camera[1]))
    identity = np.eye(3)
    try:
        essential, inside = cv2.findEssentialMat(normal[0], normal[1], identity, cv2.USAC_MAGSAC, 0.999, threshold)
        if essential is None or essential.shape[0] < 3 or inside is None:
            return None
        agreed = np.flatnonzero(inside)
        some = agreed[:: max(len(agreed) // _ASKED, 1)]  # a few tracks are enough to choose among four poses
        mask = np.ones((len(some), 1), np.uint8)
        count, rotation, direction, _ = cv2.recoverPose(
            essential[:3], normal[0][some], normal[1][some], identity, mask=mask
        )
    except cv2.error:  # OpenCV fails an assertion where a sample has no model, on rare pairs of good pictures
        return None
    if count * len(agreed) < _FEWEST // 2 * len(some):
        return None
    return TwoView(np.asarray(rotation), np.asarray(direction).ravel(), float(inside.astype(bool).mean()))
