"""Poses as rows: quaternions, gaps, intrinsics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from pipeline.ingest.preprocess import frame_geometry
from pipeline.publish.poses import (
    fill_poses,
    path_length,
    quaternion_from_rotation,
    rotation_from_quaternion,
    slerp,
    source_intrinsics,
)

QUATERNIONS = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)


@given(QUATERNIONS)
def test_a_rotation_survives_its_quaternion(q):
    rotation = Rotation.from_quat(np.array(q), scalar_first=True).as_matrix()
    quaternion = quaternion_from_rotation(rotation)
    assert quaternion[0] >= 0 and np.linalg.norm(quaternion) == pytest.approx(1)
    assert np.allclose(rotation_from_quaternion(quaternion), rotation, atol=1e-12)
    expected = Rotation.from_matrix(rotation).as_quat(scalar_first=True)
    assert abs(quaternion @ expected) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_a_half_turn_has_a_quaternion(axis):
    rotation = -np.eye(3)
    rotation[axis, axis] = 1
    assert np.abs(quaternion_from_rotation(rotation)).tolist() == np.eye(4)[axis + 1].tolist()


@given(QUATERNIONS, QUATERNIONS, st.floats(0, 1))
def test_interpolation_between_two_rotations_takes_the_shorter_way_at_constant_speed(a, b, share):
    ends = Rotation.from_quat(np.array([a, b]), scalar_first=True)
    if (ends[0].inv() * ends[1]).magnitude() > np.pi - 1e-3:
        return  # half a turn: both ways are equally short
    expected = Slerp([0, 1], ends)(share)
    q = ends.as_quat(scalar_first=True)
    got = Rotation.from_quat(slerp(q[:1], q[1:], np.array([share])), scalar_first=True)[0]
    assert (expected.inv() * got).magnitude() < 1e-6


def poses_at(angles, positions):
    poses = np.tile(np.eye(4), (len(angles), 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(angles, [0, 1, 0]), degrees=True).as_matrix()
    poses[:, 0, 3] = positions
    return poses


def test_a_gap_is_filled_by_constant_turning_along_a_straight_line():
    poses = poses_at([0, 99, 99, 60], [0, 99, 99, 9])
    filled, nearest = fill_poses(poses, np.array([True, False, False, True]), None)
    assert np.allclose(filled, poses_at([0, 20, 40, 60], [0, 3, 6, 9]))
    assert nearest.tolist() == [0, 0, 3, 3]


def test_a_gap_is_filled_in_proportion_to_time_where_times_are_known():
    poses = poses_at([0, 0, 0, 60], [0, 0, 0, 9])
    good = np.array([True, False, False, True])
    filled, _ = fill_poses(poses, good, np.array([100, 100, 130, 160]))
    assert np.allclose(filled, poses_at([0, 0, 30, 60], [0, 0, 4.5, 9]))
    # unusable times: in proportion to frame numbers
    backwards, _ = fill_poses(poses, good, np.array([160, 130, 100, 100]))
    assert np.allclose(backwards, poses_at([0, 20, 40, 60], [0, 3, 6, 9]))


def test_frames_at_the_ends_take_the_nearest_good_pose():
    poses = poses_at([1, 2, 3, 4], [1, 2, 3, 4])
    poses[[0, 3]] = np.nan
    filled, nearest = fill_poses(poses, np.array([False, True, True, False]), np.array([0, 10, 20, 35]))
    assert np.allclose(filled, poses[[1, 1, 2, 2]])
    assert nearest.tolist() == [1, 1, 2, 2]


def test_without_a_good_frame_no_pose_is_invented():
    filled, nearest = fill_poses(poses_at([1, 2], [1, 2]), np.zeros(2, bool), None)
    assert np.isnan(filled).all() and nearest.tolist() == [-1, -1]


def test_the_path_length_is_the_sum_of_steps_and_skips_missing_positions():
    assert path_length(np.array([[0, 0, 0], [3, 4, 0], [np.nan] * 3, [3, 4, 2.0]])) == pytest.approx(7)


@pytest.mark.parametrize("source, net", [((1226, 370), (518, 154)), ((640, 480), (518, 388)), ((8, 8), (8, 8))])
def test_a_pixel_has_the_same_ray_in_the_source_image(source, net):
    k = np.array([[300.0, 0, net[0] / 2 + 1.5], [0, 310.0, net[1] / 2 - 2], [0, 0, 1]])
    fx, fy, cx, cy = source_intrinsics(k, source, net)
    resized = frame_geometry(*source, *net[::-1])
    for u, v in [(0.5, 0.5), (100.25, 30.0)]:
        # the pixel of the source that is mapped to (u, v): undo the centre crop, then the resize
        us = (u + resized.left) * source[0] / resized.resized_width
        vs = (v + resized.top) * source[1] / resized.resized_height
        assert (us - cx) / fx == pytest.approx((u - k[0, 2]) / k[0, 0], abs=1e-12)
        assert (vs - cy) / fy == pytest.approx((v - k[1, 2]) / k[1, 1], abs=1e-12)
