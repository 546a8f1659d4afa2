"""Makes a network's prediction of a chunk consistent with a calibrated camera.

Let K be what the network took the camera for and K' the true one; A = K'^-1 K, whose last row is (0 0 1). A point that
the network put at X in a camera's frame is seen at K X, and so does K' see A X: its depth stays, its ray becomes the
true one. Cameras that move by t see the same pictures through K as cameras that move by A t do through K'.

A turn by w radians moves the picture by f w pixels, so that the optical flow alone would give w f / f'. The network
predicts less of a change than that. Measured on drives rendered with 60 and 100 degrees, where it was trained on about
80: yaw is 1.15 and 0.82 times the true one. The square root of f / f' corrects it (`pipeline/cameras/README.md`).
Pixels are square, so that the network's two focal lengths are two estimates of one: f is their geometric mean (on a
picture of 3.3 : 1 they differ twofold).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera

Floats = NDArray[np.float64]


def with_known_camera(
    cam_from_world: NDArray[np.floating], intrinsics: NDArray[np.floating], camera: Camera
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Poses (S, 3, 4) and intrinsics (S, 3, 3) of a chunk, corrected from the network's for a known pinhole camera.

    intrinsics and `camera` are in pixels of the network's picture. The frame whose pose is nearest to the identity
    keeps it; depth (z) does not change.
    """
    poses, k = np.asarray(cam_from_world, np.float64), np.asarray(intrinsics, np.float64)
    said = math.exp(float(np.median(np.log(k[:, 0, 0]) + np.log(k[:, 1, 1]))) / 2)
    true = math.sqrt(camera.fx * camera.fy)
    ratio = said / true
    shift = (np.median(k[:, :2, 2], axis=0) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    change = np.array([[ratio, 0, shift[0]], [0, ratio, shift[1]], [0, 0, 1.0]])
    rotation, position = poses[:, :, :3], poses[:, :, 3]
    gauge = _gauge(poses)
    turned = rotation @ rotation[gauge].T
    moved = position - turned @ position[gauge]
    angles = Rotation.from_matrix(turned).as_rotvec() * (math.sqrt(ratio), math.sqrt(ratio), 1.0)
    # Back into the chunk's own world, in which the gauge stands a little beside the identity.
    new_rotation = Rotation.from_rotvec(angles).as_matrix()
    new_position = moved @ change.T + np.einsum("nij,j->ni", new_rotation, position[gauge])
    out = np.concatenate([new_rotation @ rotation[gauge], new_position[:, :, None]], axis=2)
    matrices = np.broadcast_to(camera.matrix, (len(poses), 3, 3))
    return out.astype(np.float32), matrices.astype(np.float32)


def one_focal(intrinsics: NDArray[np.floating], square_pixels: bool = True) -> tuple[float, float]:
    """fx and fy of a drive's one camera: the medians of what the network said (N, 3, 3) of N good frames.

    With square pixels both are the horizontal focal length. The network sees all pictures at one width and at many
    heights, and its horizontal focal length is the better one (on the KITTI clip 732, its vertical one 366; true 707).
    """
    across, down = (float(np.median(np.asarray(intrinsics)[:, i, i])) for i in (0, 1))
    return (across, across) if square_pixels else (across, down)


def _gauge(poses: Floats) -> int:
    """The frame whose pose is nearest to the identity."""
    turn = np.arccos(np.clip((np.trace(poses[:, :, :3], axis1=1, axis2=2) - 1) / 2, -1, 1))
    distance = np.linalg.norm(poses[:, :, 3], axis=1)
    return int(np.argmin(turn + distance / max(float(distance.max()), 1e-12)))
