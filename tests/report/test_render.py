"""The point renderer is compared with a pinhole camera."""

import numpy as np
import pytest

from pipeline.backend.sim3 import Sim3
from pipeline.report.render import BACKGROUND, Camera, look_at, render_points

CAMERA = Camera(np.eye(4), (100.0, 100.0, 50.0, 40.0), 100, 80)
RED, GREEN = np.array([[200, 0, 0]], np.uint8), np.array([[0, 200, 0]], np.uint8)


def test_a_point_lands_where_the_camera_projects_it():
    image = render_points(np.array([[0.1, 0.2, 1.0]], np.float32), RED, CAMERA, 1e-6)
    lit = np.argwhere((image != BACKGROUND).any(-1))
    assert lit.tolist() == [[60, 60]]


def test_the_nearer_point_is_drawn_for_any_order_of_points():
    xyz, rgb = np.array([[0, 0, 2.0], [0, 0, 1.0]], np.float32), np.concatenate([GREEN, RED])
    for order in ([0, 1], [1, 0]):
        image = render_points(xyz[order], rgb[order], CAMERA, 1e-6)
        assert image[40, 50, 0] > image[40, 50, 1]


def test_points_behind_the_camera_and_no_points_leave_the_background():
    behind = render_points(np.array([[0, 0, -1.0]], np.float32), RED, CAMERA, 0.01)
    nothing = render_points(np.empty((0, 3), np.float32), RED[:0], CAMERA, 0.01)
    assert (behind == BACKGROUND).all() and (nothing == BACKGROUND).all()


def test_a_point_twice_as_near_is_drawn_twice_as_wide():
    def width(depth):
        image = render_points(np.array([[0, 0, depth]], np.float32), RED, CAMERA, 0.04)
        return int((image != BACKGROUND).any(-1).any(0).sum())

    assert width(1.0) == 2 * width(2.0) == 4


def test_an_aligned_result_gives_the_same_picture_from_the_same_camera():
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-1, -1, 2), (1, 1, 4), (500, 3)).astype(np.float32)
    rgb = rng.integers(0, 256, (500, 3), np.uint8)
    world_from_other = Sim3(
        2.0, look_at(np.zeros(3), np.array([1.0, 0.2, 1.0]), np.array([0, -1.0, 0]))[:3, :3], np.array([1.0, 2.0, 3.0])
    )
    other = world_from_other.inverse().apply(xyz).astype(np.float32)
    straight = render_points(xyz, rgb, CAMERA, 0.02)
    moved = render_points(other, rgb, CAMERA, 0.02, world_from_other)
    assert (straight != moved).any(-1).mean() < 0.005  # a rounding may move a point by a pixel


def test_a_camera_looks_at_its_target_upright():
    pose = look_at(np.array([1.0, -2.0, 0.0]), np.array([1.0, -2.0, 5.0]), np.array([0.0, -1.0, 0.0]))
    np.testing.assert_allclose(pose[:3, :3], np.eye(3), atol=1e-12)
    with pytest.raises(ValueError, match="own up"):
        look_at(np.zeros(3), np.array([0.0, -1.0, 0.0]), np.array([0.0, -1.0, 0.0]))
