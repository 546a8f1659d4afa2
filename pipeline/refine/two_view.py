"""Two pictures of one scene: how well a relative pose explains the tracks between them, and the pose they ask for.

Sampson's distance: Hartley and Zisserman, "Multiple View Geometry" (2004), section 11.4.3. Essential matrix by five
points (Nister 2004) inside MAGSAC++.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NOISE = 0.7  # pixels: of a track between two pictures
_UNMOVED = 1e-12  # length of a shift that is none
_ASKED = 60  # tracks that decide which of the poses of an essential matrix sees them in front of both cameras
_FEWEST = 30  # tracks below which a pair of pictures gives no pose


def calibration(camera: Array) -> Array:
    """(3, 3) of fx fy cx cy."""
    return np.array([[camera[0], 0, camera[2]], [0, camera[1], camera[3]], [0, 0, 1.0]])


def uncalibration(camera: Array) -> Array:
    """(3, 3): the inverse of `calibration`."""
    fx, fy, cx, cy = camera
    return np.array([[1 / fx, 0, -cx / fx], [0, 1 / fy, -cy / fy], [0, 0, 1.0]])


def fundamental(second_from_first: Array, camera_first: Array, camera_second: Array) -> Array:
    """(3, 3) F of a relative pose (4, 4) and two cameras (4,): F (x, y, 1) of a place in the first picture is its
    epipolar line in the second. Zero where the camera has not moved: then there is no epipolar geometry."""
    rotation, shift = second_from_first[:3, :3], second_from_first[:3, 3]
    length = float(np.linalg.norm(shift))
    if length < _UNMOVED:
        return np.zeros((3, 3))
    x, y, z = shift / length
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    return np.asarray(uncalibration(camera_second).T @ essential @ uncalibration(camera_first))


def sampson(first: Array, second: Array, second_from_first: Array, camera_first: Array, camera_second: Array) -> Array:
    """Sampson's distances (n,) in pixels of tracks (n, 2) in two pictures, given the relative pose (4, 4) and the
    cameras (4,). Where the camera has not moved (no epipolar geometry) the distance from the rotated position."""
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
    """A relative pose out of two pictures. rotation (3, 3) second_from_first; direction (3,) of the shift, length 1;
    share: of the tracks that agree with it."""

    rotation: Array
    direction: Array
    share: float


def two_view_pose(first: Array, second: Array, camera: Array) -> TwoView | None:
    """The pose that tracks (n, 2) in two pictures of one camera (4,) ask for; None for too few or no motion."""
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
        some = agreed[:: max(len(agreed) // _ASKED, 1)]  # which of four poses it is a few tracks tell
        mask = np.ones((len(some), 1), np.uint8)
        count, rotation, direction, _ = cv2.recoverPose(
            essential[:3], normal[0][some], normal[1][some], identity, mask=mask
        )
    except cv2.error:  # a sample without a model fails an assertion there, on rare pairs of good pictures
        return None
    if count * len(agreed) < _FEWEST // 2 * len(some):
        return None
    return TwoView(np.asarray(rotation), np.asarray(direction).ravel(), float(inside.astype(bool).mean()))
