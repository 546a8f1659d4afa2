"""Pose encodings to cameras and back, depth to points: laws, and numbers computed by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from models.pose_encoding import (
    decode_pose,
    encode_pose,
    quaternion_from_rotation,
    rotation_from_quaternion,
    unproject,
)

part = st.floats(-1, 1, allow_subnormal=False)
quaternions = st.tuples(part, part, part, part).filter(lambda q: np.linalg.norm(q) > 0.1)
translations = st.tuples(*[st.floats(-100, 100)] * 3)
views = st.floats(0.1, 3.0)
sides = st.integers(14, 700)


@given(quaternion=quaternions, length=st.floats(0.01, 100))
@settings(max_examples=100, deadline=None)
def test_a_quaternion_of_any_length_gives_its_rotation(quaternion, length):
    """The head does not normalise; the matrix divides by the squared length."""
    expected = Rotation.from_quat(quaternion).as_matrix()
    found = rotation_from_quaternion(torch.tensor(quaternion, dtype=torch.float64) * length)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(quaternion=quaternions)
@settings(max_examples=100, deadline=None)
def test_a_quaternion_is_the_same_after_conversion_to_a_rotation_and_back(quaternion):
    unit = np.asarray(quaternion) / np.linalg.norm(quaternion)
    rotation = torch.from_numpy(Rotation.from_quat(unit).as_matrix())
    found = quaternion_from_rotation(rotation).numpy()
    assert found[3] >= 0
    assert abs(np.linalg.norm(found) - 1) < 1e-12
    np.testing.assert_allclose(abs(found @ unit), 1, atol=1e-12)  # q and -q are one rotation
    np.testing.assert_allclose(rotation_from_quaternion(torch.from_numpy(found)), rotation, atol=1e-12)


@pytest.mark.parametrize("axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 1]])
@pytest.mark.parametrize("turn", [math.pi, math.pi - 1e-6, 2.5, 1e-6, 0.0])
def test_half_turns_and_tiny_turns_are_well_conditioned_in_float32(axis, turn):
    unit = np.asarray(axis) / np.linalg.norm(axis)
    rotation = torch.tensor(Rotation.from_rotvec(turn * unit).as_matrix(), dtype=torch.float32)
    found = quaternion_from_rotation(rotation)
    torch.testing.assert_close(rotation_from_quaternion(found), rotation, rtol=0, atol=1e-6)


@given(translation=translations, quaternion=quaternions, fov_h=views, fov_w=views, height=sides, width=sides)
@settings(max_examples=100, deadline=None)
def test_an_encoding_decodes_and_encodes_to_itself(translation, quaternion, fov_h, fov_w, height, width):
    unit = np.asarray(quaternion) / np.linalg.norm(quaternion)
    unit = -unit if unit[3] < 0 else unit
    encoding = torch.tensor([*translation, *unit, fov_h, fov_w], dtype=torch.float64)
    back = encode_pose(*decode_pose(encoding, height, width), height, width)
    sign = torch.ones(9, dtype=torch.float64)
    if abs(unit[3]) < 1e-9:  # a half turn has two quaternions with w = 0
        sign[3:7] = torch.sign(back[3:7] @ encoding[3:7])
    torch.testing.assert_close(back * sign, encoding, rtol=1e-9, atol=1e-9)


@given(
    translation=translations,
    quaternion=quaternions,
    focal=st.tuples(st.floats(20, 2000), st.floats(20, 2000)),
    height=sides,
    width=sides,
)
@settings(max_examples=100, deadline=None)
def test_a_camera_encodes_and_decodes_to_itself(translation, quaternion, focal, height, width):
    pose = torch.zeros(3, 4, dtype=torch.float64)
    pose[:, :3] = torch.from_numpy(Rotation.from_quat(quaternion).as_matrix())
    pose[:, 3] = torch.tensor(translation)
    intrinsics = torch.tensor([[focal[0], 0, width / 2], [0, focal[1], height / 2], [0, 0, 1]], dtype=torch.float64)
    found_pose, found_intrinsics = decode_pose(encode_pose(pose, intrinsics, height, width), height, width)
    torch.testing.assert_close(found_pose, pose, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_intrinsics, intrinsics, rtol=1e-9, atol=1e-9)


def test_the_vertical_field_of_view_comes_first_and_gives_fy():
    encoding = torch.tensor([1.0, 2, 3, 0, 0, 0, 2, math.radians(90), math.radians(60)])
    pose, intrinsics = decode_pose(encoding, height=100, width=300)
    torch.testing.assert_close(pose, torch.cat([torch.eye(3), torch.tensor([[1.0], [2], [3]])], dim=1))
    expected = [[150 / math.tan(math.radians(30)), 0, 150], [0, 50, 50], [0, 0, 1]]
    torch.testing.assert_close(intrinsics, torch.tensor(expected))


def test_encodings_of_many_frames_keep_their_axes():
    encoding = torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(0)) + 0.1
    pose, intrinsics = decode_pose(encoding, 56, 84)
    assert pose.shape == (2, 5, 3, 4)
    assert intrinsics.shape == (2, 5, 3, 3)
    for b in range(2):
        for s in range(5):
            one_pose, one_intrinsics = decode_pose(encoding[b, s], 56, 84)
            torch.testing.assert_close(pose[b, s], one_pose)
            torch.testing.assert_close(intrinsics[b, s], one_intrinsics)
    assert encode_pose(pose, intrinsics, 56, 84).shape == (2, 5, 9)


@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_unprojected_points_project_to_the_pixel_centres(seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64) * 50 + 0.1
    intrinsics = torch.zeros(2, 3, 3, 3, dtype=torch.float64)
    intrinsics[..., 0, 0] = torch.rand(2, 3, generator=generator) * 100 + 20
    intrinsics[..., 1, 1] = torch.rand(2, 3, generator=generator) * 100 + 20
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width * 0.4, height * 0.7, 1
    points = unproject(depth, intrinsics)
    assert torch.equal(points[..., 2], depth)  # z-depth, not the ray's length
    projected = torch.einsum("...ij,...hwj->...hwi", intrinsics, points)
    pixel = projected[..., :2] / projected[..., 2:]
    for row in range(height):
        for col in range(width):
            centre = torch.tensor([col + 0.5, row + 0.5], dtype=torch.float64).expand(2, 3, 2)
            torch.testing.assert_close(pixel[:, :, row, col], centre)


def test_axes_are_opencvs_x_right_y_down_z_forward():
    intrinsics = torch.tensor([[2.0, 0, 2], [0, 2, 1], [0, 0, 1]])
    points = unproject(torch.full((2, 4), 4.0), intrinsics)
    assert points[0, 0].tolist() == [(0.5 - 2) / 2 * 4, (0.5 - 1) / 2 * 4, 4]
    assert points[1, 3].tolist() == [(3.5 - 2) / 2 * 4, (1.5 - 1) / 2 * 4, 4]
