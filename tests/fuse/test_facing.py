"""Rendered frames of drives in opposite directions are linked by facades; other frames are not."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import rotation_exp, rotation_log
from pipeline.fuse.facade_depths import by_steps, two_view
from pipeline.fuse.facing import seen_facing
from pipeline.fuse.side_views import look_aside, street_axes
from pipeline.synthetic import CityDrive

FRAMES, SCALE = 110, 2.5


class Frame:
    """A frame of a rendered drive. unit: drive units in a metre."""

    def __init__(self, drive, number, unit):
        seen = drive.render([number])
        self.pose = drive.world_from_camera[number]
        intrinsics = drive.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]]
        grey = seen.images[0].mean(-1).astype(np.uint8)
        depth = seen.depth[0][::2, ::2]
        row, column = np.nonzero(depth > 0)
        pixel = np.stack([2 * column + 0.5, 2 * row + 0.5], 1)
        ray = np.concatenate([(pixel - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixel), 1))], 1)
        axes = street_axes(drive.world_from_camera, number)
        self.look = look_aside(grey, intrinsics, axes, unit * ray * depth[row, column][:, None])


@pytest.fixture(scope="module")
def drives():
    """Two drives; frame 0 of the first one faces frame 1 of the other one, 44 m ahead of it."""
    return [CityDrive(30 + n, FRAMES, 168, 336, city_seed=7, streets=0, opposite=n == 1) for n in range(2)]


def test_frames_that_face_each_other_have_a_link_with_both_drives_units(drives):
    there, back = drives
    first, second = Frame(there, 0, 1.0), Frame(back, 1, SCALE)
    found = seen_facing(first.look, second.look)
    assert not isinstance(found, str), found
    true = np.linalg.inv(second.pose) @ first.pose
    away = found.second_from_first.translation / SCALE - true[:3, 3]
    turn = rotation_log((found.second_from_first.rotation @ true[:3, :3].T)[None])[0]
    assert np.linalg.norm(away) < 1.0 and np.degrees(np.linalg.norm(turn)) < 1.5
    assert abs(np.log(found.second_from_first.scale / SCALE)) < 0.05
    error = np.concatenate([turn, SCALE * away, [np.log(found.second_from_first.scale / SCALE)]])
    assert error @ np.linalg.solve(found.covariance, error) < 24.3  # 0.999, 7 degrees of freedom
    assert np.linalg.eigvalsh(found.covariance)[0] > 0


def test_frames_of_other_places_and_of_one_direction_are_refused(drives):
    there, back = drives
    first = Frame(there, 0, 1.0)
    for other in (Frame(back, FRAMES - 1, 1.0), Frame(back, 60, 1.0), first, Frame(there, 6, 1.0)):
        assert isinstance(seen_facing(first.look, other.look), str)


def test_depths_by_steps_have_no_error_of_the_points(drives):
    seen, before = Frame(drives[0], 9, 1.07), Frame(drives[0], 5, 1.0)  # depths of the points are 7 % too long
    true = Frame(drives[0], 9, 1.0).look
    found = by_steps(seen.look, before.look, np.linalg.inv(before.pose) @ seen.pose)
    for one, other in ((found.right, true.right), (found.left, true.left)):
        ratio = np.log(one.depth / other.depth)
        assert np.isfinite(ratio).sum() > 20 and abs(np.nanmedian(ratio)) < 0.02
    few = replace(before.look, right=before.look.left, left=before.look.right)  # nothing of the sides matches
    assert by_steps(seen.look, few, np.linalg.inv(before.pose) @ seen.pose) is seen.look


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-0.5, 0.5)] * 3), st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(1, 3)))
def test_two_views_give_the_depths_of_points_in_both(turn, shift):
    rng = np.random.default_rng(0)
    points = rng.uniform([-4, -4, 8], [4, 4, 20], (20, 3))
    rotation, shift = rotation_exp(np.array(turn)), np.array(shift)
    there = points @ rotation.T + shift
    away, a, b = two_view(rotation, shift, points / points[:, 2:], there / there[:, 2:])
    np.testing.assert_allclose(away, 0, atol=1e-9)
    np.testing.assert_allclose(a, points[:, 2], rtol=1e-5)
    np.testing.assert_allclose(b, there[:, 2], rtol=1e-5)
