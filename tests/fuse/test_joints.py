"""Joints of a drive's chunks: correlated errors of neighbouring joints, and chains of joints."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.backend import BackendConfig, Sim3
from pipeline.backend.joint_errors import JointErrors
from pipeline.fuse.city_equations import joint_rows
from pipeline.fuse.drive_nodes import State, joints_of, own_state, thinned
from tests.fuse.made_up_drives import drive_in, town_path

CONFIG = BackendConfig()


@pytest.fixture(scope="module")
def drive():
    """A drive of seven joints whose errors are those of a Markov chain, and the covariance (49, 49) of all of them."""
    made = drive_in(Sim3(1.7, np.eye(3), np.zeros(3)), town_path(90, 0.0))
    count = len(made.world_from_chunk) - 1
    rng = np.random.default_rng(1)
    own = [0.01 * (root @ root.T + np.eye(7)) for root in 0.2 * rng.normal(size=(count, 7, 7))]
    gain = 0.5 * np.eye(7)
    covariance = [own[0]]
    for n in range(1, count):
        covariance.append(gain @ covariance[-1] @ gain.T + own[n])
    with_next = [spread @ gain.T for spread in covariance[:-1]]
    whole = np.zeros((count, 7, count, 7))
    for n in range(count):
        left = covariance[n]
        for m in range(n, count):
            whole[n, :, m], whole[m, :, n] = left, left.T
            left = left @ gain.T
    told = JointErrors(np.array(covariance), np.array([*with_next, np.zeros((7, 7))]))
    return replace(made, joint_errors=told), whole.reshape(7 * count, -1)


def _shifted(drive, seed=2):
    state, rng = own_state(drive), np.random.default_rng(seed)
    return State(state.scale, state.rotation, state.translation + 0.1 * rng.normal(size=state.translation.shape))


def _cost(state, joints):
    rows = joint_rows(state, joints)
    return float(np.einsum("ni,nij,nj", rows.residual, rows.information, rows.residual))


def _units(drive):
    units = np.ones((len(drive.world_from_chunk) - 1, 7))
    units[:, 3:6] = own_state(drive).scale[:-1, None]
    return units.ravel()


def test_the_cost_of_joints_is_that_of_their_whole_covariance(drive):
    one, whole = drive
    joints = joints_of(one, CONFIG, 0.0)
    assert joints.follows.tolist() == [False] + [True] * (len(joints.follows) - 1)
    state, units = _shifted(one), _units(one)
    plain = joint_rows(state, replace(joints, follows=np.zeros(len(joints.follows), bool))).residual.ravel() / units
    assert _cost(state, joints) == pytest.approx(plain @ np.linalg.solve(whole, plain), rel=1e-6)


def test_the_first_joint_of_a_part_follows_nothing(drive):
    joints = joints_of(drive[0], CONFIG, 0.0)
    part = joints[np.array([1, 2, 4])]
    assert part.follows.tolist() == [False, True, False]


def test_the_derivative_of_joints_that_follow_is_that_of_the_residual(drive):
    joints, state = joints_of(drive[0], CONFIG, 0.0), _shifted(drive[0])
    rows = joint_rows(state, joints)
    step = 1e-6 * np.random.default_rng(3).normal(size=state.translation.shape)
    moved = joint_rows(State(state.scale, state.rotation, state.translation + step), joints)
    shift = np.zeros((len(step), 7))
    shift[:, 3:6] = step
    expected = np.einsum("nij,nj->ni", rows.jacobian, shift[rows.node].reshape(len(rows.node), -1))
    np.testing.assert_allclose(moved.residual - rows.residual, expected, atol=1e-10)


def test_a_chained_joint_has_the_covariance_of_all_joints_between(drive):
    one, whole = drive
    few, chained = thinned(one, joints_of(one, CONFIG, 0.0), 3)
    state = own_state(one)
    last = len(state.scale) - 1
    starts = [0, *range(3, last, 3)]
    assert len(few.world_from_chunk) == len(starts) + 1 and len(chained.first) == len(starts)
    # Log scales are added, so all joints between the ends of a chain contribute.
    scales = whole.reshape(last, 7, last, 7)[:, 6, :, 6]
    expected = [scales[a:b, a:b].sum() for a, b in zip(starts, [*starts[1:], last], strict=True)]
    np.testing.assert_allclose(np.linalg.inv(chained.information)[:, 6, 6], expected, rtol=1e-6)


def test_without_covariances_of_joining_those_of_overlaps_are_used(drive):
    told = joints_of(drive[0], CONFIG, 0.0)
    alone = joints_of(replace(drive[0], joint_errors=None), CONFIG, 0.0)
    assert not alone.follows.any() and told.follows.any()
    assert not np.allclose(alone.information, told.information)
    unknown = JointErrors(np.full_like(told.gain, np.nan), np.full_like(told.gain, np.nan))
    lost = joints_of(replace(drive[0], joint_errors=unknown), CONFIG, 0.0)
    np.testing.assert_array_equal(lost.information, alone.information)
