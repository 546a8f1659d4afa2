"""Covariances of the steps between chunks are compared with the whole inverse and with the truth."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import pipeline.backend.joint_errors as joint_errors
from pipeline.backend import BackendConfig, join_chunks
from pipeline.backend.joint_errors import JointErrors
from pipeline.backend.normal_equations import WIDTH
from pipeline.backend.sim3 import rotation_log


@pytest.fixture(scope="module")
def drive(shared, tmp_path_factory):
    """A drive of KITTI 00's first 480 frames, and its true poses."""
    sys.path.insert(0, str(shared / "scenarios"))
    import chunked_drive

    path = str(shared / "data/trajectories/KITTI_00_gt.txt")
    made = chunked_drive.make_scenario(path, seed=3, limit=480, loops=0)
    return SimpleNamespace(joined=join_chunks(made.chunks), chunks=made.chunks, truth=made.world_from_cam)


def test_blocks_of_the_inverse_are_those_of_the_whole_inverse():
    rng = np.random.default_rng(0)
    count, size = 5, 6 * WIDTH
    root = np.zeros((size, size))
    for n in range(count):  # neighbours and common unknowns
        some = np.r_[n * WIDTH : min(n + 2, count) * WIDTH, count * WIDTH : size]
        root[n * WIDTH : (n + 1) * WIDTH, some] = rng.normal(size=(WIDTH, len(some)))
    matrix = root.T @ root + np.eye(size)
    block = matrix.reshape(count + 1, WIDTH, count + 1, WIDTH).transpose(0, 2, 1, 3)
    number = np.arange(count)
    after = block[number[:-1], number[1:]]
    near = joint_errors._near_blocks(block[number, number], after, block[:-1, -1], block[-1, -1])
    inverse = np.linalg.inv(matrix).reshape(count + 1, WIDTH, count + 1, WIDTH).transpose(0, 2, 1, 3)
    for apart in range(3):
        np.testing.assert_allclose(near[apart], inverse[number[: count - apart], number[apart:]], atol=1e-9)


def test_errors_of_rotations_between_chunks_agree_with_their_covariances(drive):
    told: JointErrors = drive.joined.joint_errors
    middle = [int(chunk.frame_index[0]) for chunk in drive.chunks]
    own = np.stack([one.rotation for one in drive.joined.world_from_chunk])
    true = drive.truth[middle, :3, :3]
    step = [r[:-1].transpose(0, 2, 1) @ r[1:] for r in (own, true)]
    error = rotation_log(step[1].transpose(0, 2, 1) @ step[0])
    surprise = np.einsum("ni,nij,nj->n", error, np.linalg.inv(told.covariance[:, :3, :3]), error) / 3
    assert 0.4 < surprise.mean() < 2.0
    assert 2e-4 < np.sqrt(told.covariance[:, 0, 0].mean()) < 1e-3
    roll = told.with_next[:-1, 2, 2] / np.sqrt(told.covariance[:-1, 2, 2] * told.covariance[1:, 2, 2])
    assert 0.3 < roll.mean() < 1  # a drift that chunks have in common


def test_errors_of_shifts_are_in_the_units_of_chunks(drive):
    part = drive.chunks[:3]
    larger = []
    for chunk in part:
        pose = chunk.cam_from_world.copy()
        pose[:, :3, 3] *= 5
        larger.append(SimpleNamespace(**{**vars(chunk), "cam_from_world": pose, "depth": 5 * chunk.depth}))
    told, other = (join_chunks(chunks).joint_errors for chunks in (part, larger))
    unit = np.array([1] * 3 + [5] * 3 + [1])
    np.testing.assert_allclose(other.covariance, told.covariance * np.outer(unit, unit), rtol=0.05, atol=1e-9)
    assert not told.with_next[-1].any() and told.with_next[0].any()


def test_a_drive_of_one_chunk_has_no_joint_and_a_held_scale_has_no_variance(drive):
    assert join_chunks(drive.chunks[:1]).joint_errors.covariance.shape == (0, 7, 7)
    held = join_chunks(drive.chunks[:2], config=BackendConfig(scale=False)).joint_errors
    assert held.covariance.shape == (1, 7, 7) and held.covariance[0, 6, 6] < 1e-12


def test_covariances_that_are_not_determined_are_nan(drive, monkeypatch):
    def refuse(*_):
        raise np.linalg.LinAlgError

    monkeypatch.setattr(joint_errors, "_near_blocks", refuse)
    told = join_chunks(drive.chunks[:3]).joint_errors
    assert np.isnan(told.covariance).all() and told.covariance.shape == (2, 7, 7)
