"""Views to the sides of a street are the same from both directions, and their pixels are those of the picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import rotation_exp
from pipeline.fuse.side_views import LEFT, RIGHT, nearest_u, side_view, street_axes

SHAPE = (120, 240)


def camera(focal):
    return np.array([focal, focal, SHAPE[1] / 2, SHAPE[0] / 2])


def picture(intrinsics, street_from_camera, at, heading, distance):
    """A grey picture of a wall with waves, `distance` beside the path on the side `heading` * x > 0, from the place
    `at` along it of a camera that goes in the direction `heading` (1 or -1)."""
    column, row = np.meshgrid(np.arange(SHAPE[1]) + 0.5, np.arange(SHAPE[0]) + 0.5)
    ray = np.stack([(column - intrinsics[2]) / intrinsics[0], (row - intrinsics[3]) / intrinsics[1]], -1)
    x, y, z = np.moveaxis(np.concatenate([ray, np.ones((*SHAPE, 1))], -1) @ street_from_camera.T, -1, 0)
    length = distance / np.where(np.abs(x) > 1e-6, x * heading, 1e-6)
    along, high = at + heading * length * z, length * y
    wave = np.sin(0.9 * along) + np.cos(1.3 * high + 0.4 * along)
    return np.where(length > 0, 128 + 50 * wave, 0).clip(0, 255).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.floats(100, 240), st.floats(4, 15), *[st.tuples(*[st.floats(-0.08, 0.08)] * 3) for _ in range(2)])
def test_a_wall_parallel_to_the_street_is_the_same_picture_from_both_directions(focal, distance, one, other):
    intrinsics, turns = camera(focal), [rotation_exp(np.array(vector)) for vector in (one, other)]
    views, least = [], []
    for turn, side in zip(turns, (RIGHT, LEFT), strict=True):
        least.append(nearest_u(SHAPE, intrinsics, turn, side))
    if None in least:
        return
    # The second camera is where both views of equal size show the same part of the wall.
    fine = [min(focal / max(u, 1.0), 320.0) for u in least]
    apart = distance * (3.0 + least[1])
    for turn, side, at in zip(turns, (RIGHT, LEFT), (0.0, apart), strict=True):
        views.append(side_view(picture(intrinsics, turn, at, side, distance), intrinsics, turn, side))
    first, second = views
    column, row = np.meshgrid(np.arange(first.picture.shape[1]), np.arange(first.picture.shape[0]))
    scale = fine[1] / fine[0]
    there = np.stack([(column + 0.5) * scale - 0.5, (row + 0.5) * scale - 0.5]).round().astype(int)
    good = first.inside & (there[0] >= 0) & (there[0] < second.picture.shape[1])
    good &= (there[1] >= 0) & (there[1] < second.picture.shape[0])
    good[good] = second.inside[there[1][good], there[0][good]]
    # Far along the wall a pixel of the picture covers many of the view.
    good &= (column > 0.5 * (3.0 - least[0]) * fine[0]) & ((column + 0.5) / fine[0] < 0.5 * (3.0 + least[1]))
    if good.sum() < 200:
        return
    differ = np.abs(first.picture[good].astype(float) - second.picture[there[1][good], there[0][good]].astype(float))
    assert np.median(differ) < 12


@settings(max_examples=40, deadline=None)
@given(st.floats(80, 240), st.tuples(*[st.floats(-0.3, 0.3)] * 3), st.sampled_from([RIGHT, LEFT]))
def test_a_pixel_of_a_view_and_its_pixel_in_the_picture_have_one_ray(focal, vector, side):
    intrinsics, turn = camera(focal), rotation_exp(np.array(vector))
    view = side_view(np.zeros(SHAPE, np.uint8), intrinsics, turn, side)
    if view is None:
        return
    least = nearest_u(SHAPE, intrinsics, turn, side)
    fine = min(focal / max(least, 1.0), 320.0)
    row, column = np.nonzero(view.inside)
    pixel = view.source[row, column].astype(float)
    ray = np.concatenate([(pixel - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixel), 1))], 1) @ turn.T
    across = (column + 0.5) / fine
    assert (side * ray[:, 0] > 0).all()
    np.testing.assert_allclose(
        ray[:, 2] / np.abs(ray[:, 0]), 3.0 - across if side == RIGHT else least + across, atol=1e-3
    )
    np.testing.assert_allclose(ray[:, 1] / np.abs(ray[:, 0]), (row + 0.5) / fine - 1.0, atol=1e-3)
    assert view.inside.any()


@pytest.mark.parametrize(("degrees", "sees"), [(20, False), (24, False), (27, True), (60, True)])
def test_a_picture_that_ends_within_25_degrees_of_the_street_has_no_side_view(degrees, sees):
    intrinsics = camera(SHAPE[1] / 2 / np.tan(np.radians(degrees)))
    for side in (RIGHT, LEFT):
        least = nearest_u(SHAPE, intrinsics, np.eye(3), side)
        assert (least is not None) == sees
        if sees:
            assert least == pytest.approx(1 / np.tan(np.radians(degrees)))


def test_a_camera_to_the_right_has_a_view_to_the_right_only():
    turn = rotation_exp(np.array([0.0, np.pi / 2, 0.0]))
    assert nearest_u(SHAPE, camera(120.0), turn, RIGHT) < 0
    assert nearest_u(SHAPE, camera(120.0), turn, LEFT) is None


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.floats(-0.2, 0.2), st.floats(-2.5, 2.5), st.just(0.0)), st.floats(-0.5, 0.5))
def test_the_street_goes_where_the_car_goes_however_the_camera_is_mounted(world, yaw):
    ahead = rotation_exp(np.array(world))
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, :3, :3] = ahead @ rotation_exp(np.array([0.0, yaw, 0.0]))
    poses[:, :3, 3] = np.arange(20)[:, None] * ahead[:, 2]
    axes = street_axes(poses, 7)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(poses[7, :3, :3] @ axes[2], ahead[:, 2], atol=1e-9)
    np.testing.assert_allclose(poses[7, :3, :3] @ axes[0], ahead[:, 0], atol=1e-9)
    standing = np.tile(poses[:1], (20, 1, 1))
    np.testing.assert_array_equal(street_axes(standing, 7), np.eye(3))
