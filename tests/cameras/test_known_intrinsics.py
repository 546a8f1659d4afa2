import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera
from pipeline.cameras.known_intrinsics import one_focal, with_known_camera

TRUE = Camera("pinhole", 128, 64, 70.0, 70.0, 64.0, 32.0)


def chunk(scale=1.0, shift=(0.0, 0.0), turn=0.0):
    """Poses (S, 3, 4) that drive ahead, turning, the middle one the identity; intrinsics as a network says them."""
    steps = np.arange(-3, 4)
    poses = np.zeros((7, 3, 4))
    poses[:, :, :3] = Rotation.from_rotvec(np.stack([0 * steps, turn * steps, 0 * steps], -1)).as_matrix()
    poses[:, :, 3] = np.stack([0.2 * steps, 0 * steps, -1.0 * steps], -1)
    k = TRUE.matrix.copy()
    k[:2, :2] *= scale
    k[:2, 2] += shift
    return poses, np.broadcast_to(k, (7, 3, 3))


def test_what_the_network_knew_already_stays():
    poses, k = chunk(turn=0.05)
    got, matrices = with_known_camera(poses, k, TRUE)
    np.testing.assert_allclose(got, poses, atol=1e-6)
    np.testing.assert_allclose(matrices, k, atol=1e-5)


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_a_car_that_drives_straight_is_seen_at_the_same_pixels(scale):
    poses, k = chunk(scale, shift=(3.0, -2.0))
    got, matrices = with_known_camera(poses, k, TRUE)
    v, u = (axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(0, 64, 8), np.arange(0, 128, 8), indexing="ij"))
    depth = np.linspace(5, 30, len(u))
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    before = np.linalg.solve(k[3], pixels.T * depth)  # points of the middle frame, as the network put them
    after = np.linalg.solve(matrices[3].astype(float), pixels.T * depth)
    for frame in range(7):
        a = k[frame] @ (poses[frame, :, :3] @ before + poses[frame, :, 3:])
        b = matrices[frame] @ (got[frame, :, :3] @ after + got[frame, :, 3:])
        np.testing.assert_allclose(b[:2] / b[2], a[:2] / a[2], atol=1e-3)


def test_turns_follow_the_square_root_of_the_focal_length():
    poses, k = chunk(1.44, turn=0.05)
    got, _ = with_known_camera(poses, k, TRUE)
    turned = Rotation.from_matrix(got[-1, :, :3]).as_rotvec()
    np.testing.assert_allclose(turned, (0, 1.2 * 0.15, 0), atol=1e-6)


def test_a_gauge_beside_the_identity_keeps_its_place():
    poses, k = chunk(1.3, turn=0.02)
    world = np.eye(4)
    world[:3, 3] = (1e-3, 0, 2e-3)
    moved = (np.concatenate([poses, np.tile([[[0, 0, 0, 1.0]]], (7, 1, 1))], 1) @ world)[:, :3]
    got, _ = with_known_camera(moved, k, TRUE)
    np.testing.assert_allclose(got[3], moved[3], atol=1e-6)


def test_one_camera_is_what_most_frames_say():
    said = np.tile(TRUE.matrix, (9, 1, 1))
    said[:, 1, 1] /= 2  # as on a picture far wider than the network knows
    said[:4, 0, 0] = 1e3
    assert one_focal(said) == (70.0, 70.0)
    assert one_focal(said, square_pixels=False) == (70.0, 35.0)
