"""Where a car is between two instants."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from pipeline.cameras.rig_time import between, moved_on, neighbours


def _path(seed: int, count: int = 6) -> np.ndarray:
    """Poses of a random walk that turns by less than a half turn a step."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.4, (count, 3)), axis=0)).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 3, (count, 3))
    return poses


def _even(count: int = 6) -> np.ndarray:
    """A car on a screw: it drives along the axis about which it turns; every step is a metre."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.arange(count)[:, None] * np.array([0, 0, 0.1])).as_matrix()
    poses[:, 2, 3] = np.arange(count)
    return poses


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(-1, 1))
def test_between_two_poses_is_the_first_then_the_second_and_the_same_in_any_world(seed: int, share: float) -> None:
    path = _path(seed)
    first, second, world = path[:-1], path[1:], _path(seed + 1)[3]
    np.testing.assert_allclose(between(first, second, np.zeros(5)), first, atol=1e-12)
    np.testing.assert_allclose(between(first, second, np.ones(5)), second, atol=1e-9)
    part = between(first, second, np.full(5, share))
    np.testing.assert_allclose(between(world @ first, world @ second, np.full(5, share)), world @ part, atol=1e-9)
    np.testing.assert_allclose(between(second, first, np.full(5, 1 - share)), part, atol=1e-9)
    slow = [a @ expm(share * logm(np.linalg.inv(a) @ b).real) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(part, slow, atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(st.floats(-1, 1))
def test_an_even_motion_that_is_moved_on_and_back_is_the_same_also_at_its_ends(late: float) -> None:
    path, number, good = _even(), np.arange(6), np.ones(6, bool)
    later = moved_on(path, number, good, late)
    np.testing.assert_allclose(later[:, 2, 3], number + late, atol=1e-9)
    np.testing.assert_allclose(moved_on(later, number, good, -late), path, atol=1e-9)


def test_an_instant_without_a_usable_neighbour_on_one_side_uses_the_other_one_and_alone_it_stays() -> None:
    number = np.array([0, 1, 2, 5, 8, 9])
    good = np.array([True, True, False, True, True, True])
    row, share = neighbours(number, good, 0.25)
    assert row.tolist() == [1, 0, 1, 3, 5, 4] and share.tolist() == [0.25, -0.25, -0.25, 0, 0.25, -0.25]
    row, share = neighbours(number, good, -0.25)
    assert row.tolist() == [1, 0, 1, 3, 5, 4] and share.tolist() == [-0.25, 0.25, 0.25, 0, -0.25, 0.25]
    poses = _even()
    poses[2] = np.nan
    moved = moved_on(poses, number, good, 0.25)
    np.testing.assert_array_equal(moved[[2, 3]], poses[[2, 3]])
    np.testing.assert_allclose(moved[[0, 1, 4, 5], 2, 3], [0.25, 1.25, 4.25, 5.25])
    assert moved_on(np.zeros((0, 4, 4)), number[:0], good[:0], 0.5).shape == (0, 4, 4)
