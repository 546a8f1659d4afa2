"""The metrics obey laws, and KITTI's segment errors equal those of a plain twin."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import evaluate_trajectory
from pipeline.evaluation.metrics import (
    KITTI_LENGTHS,
    check_poses,
    distance_pairs,
    frame_pairs,
    kitti_error,
    motion_errors,
    umeyama,
)
from tests.evaluation.paths import drifted, moved, walk

seeds = st.integers(0, 2**31)
scales = st.floats(0.01, 100.0)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, scale=scales)
def test_errors_after_sim3_do_not_depend_on_the_estimates_world_or_unit(seed, scale):
    truth = walk(40, seed, step=4.0)
    estimate = drifted(truth, seed + 1)
    first, second = (evaluate_trajectory(e, truth) for e in (estimate, moved(estimate, scale, seed)))
    assert second.sim3.ate.rmse == pytest.approx(first.sim3.ate.rmse, rel=1e-6)
    assert second.sim3.scale == pytest.approx(first.sim3.scale / scale, rel=1e-6)
    for name in ("over_1_frame", "over_10_frames", "over_100m"):
        one, other = getattr(first.sim3.rpe, name), getattr(second.sim3.rpe, name)
        assert other.pairs == one.pairs
        if one.pairs:
            assert other.translation_mean == pytest.approx(one.translation_mean, rel=1e-6)
            assert other.rotation_mean == pytest.approx(one.rotation_mean, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_errors_after_se3_do_not_depend_on_the_estimates_world(seed):
    truth = walk(30, seed)
    estimate = drifted(truth, seed + 1)
    first, second = (evaluate_trajectory(e, truth) for e in (estimate, moved(estimate, 1.0, seed)))
    assert second.se3.ate.rmse == pytest.approx(first.se3.ate.rmse, rel=1e-6)
    assert second.se3.rpe.over_1_frame.rotation_rmse == pytest.approx(first.se3.rpe.over_1_frame.rotation_rmse)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, scale=scales)
def test_the_truth_in_another_world_has_no_error(seed, scale):
    truth = walk(30, seed, step=6.0)
    result = evaluate_trajectory(moved(truth, scale, seed), truth)
    assert result.sim3.ate.maximum < 1e-6
    assert result.sim3.scale == pytest.approx(1 / scale)
    assert result.sim3.rpe.over_1_frame.translation_rmse < 1e-6
    assert result.sim3.rpe.over_1_frame.rotation_rmse < 1e-5
    assert result.sim3.kitti.segments > 0
    assert result.sim3.kitti.translation_percent < 1e-6


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_a_similarity_fits_at_least_as_well_as_a_rigid_motion_and_both_are_optimal(seed):
    truth = walk(25, seed)
    estimate = drifted(truth, seed + 1, position=0.4)
    result = evaluate_trajectory(estimate, truth)
    assert result.sim3.ate.rmse <= result.se3.ate.rmse + 1e-12
    here, there = estimate[:, :3, 3], truth[:, :3, 3]
    best = umeyama(here, there, with_scale=True)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        other = moved(np.eye(4)[None], 1.0, int(rng.integers(2**31)))[0]
        nudge = best.apply(here) @ _small_turn(other).T * rng.normal(1, 0.01) + rng.normal(0, 0.01, 3)
        assert np.sqrt(((nudge - there) ** 2).sum(1).mean()) >= result.sim3.ate.rmse - 1e-12


def _small_turn(pose):
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(0.01 * Rotation.from_matrix(pose[:3, :3]).as_rotvec()).as_matrix()


def test_the_least_squares_scale_is_umeyamas_and_not_the_ratio_of_spreads():
    truth = walk(60, 3)
    noisy = truth.copy()
    noisy[:, :3, 3] += np.random.default_rng(0).normal(0, 3.0, (60, 3))
    here, there = noisy[:, :3, 3], truth[:, :3, 3]
    ratio = np.sqrt(((there - there.mean(0)) ** 2).sum() / ((here - here.mean(0)) ** 2).sum())
    assert umeyama(here, there, with_scale=True).scale < 0.99 * ratio


def test_an_alignment_is_never_a_reflection():
    truth = walk(30, 1, turn=0.4)[:, :3, 3]
    alignment = umeyama(truth * (1, 1, -1), truth, with_scale=True)
    assert np.linalg.det(alignment.rotation) == pytest.approx(1)


def test_a_straight_line_can_be_aligned():
    truth = np.tile(np.eye(4), (20, 1, 1))
    truth[:, 2, 3] = np.arange(20)
    assert evaluate_trajectory(moved(truth, 3.0), truth).sim3.ate.rmse == pytest.approx(0, abs=1e-9)


def test_errors_equal_those_computed_by_hand():
    truth = np.tile(np.eye(4), (5, 1, 1))
    truth[:, 2, 3] = 10.0 * np.arange(5)
    estimate = truth.copy()
    estimate[:, 0, 3] = (0, 0, 3.0, 0, 0)  # one frame is displaced sideways by 3 m
    translation, rotation = motion_errors(estimate, truth, frame_pairs(np.arange(5), 1))
    assert translation == pytest.approx([0, 3, 3, 0])
    assert rotation == pytest.approx(np.zeros(4))
    result = evaluate_trajectory(estimate, truth)
    assert result.path_length == pytest.approx(40)
    assert result.se3.ate.percent == pytest.approx(100 * result.se3.ate.rmse / 40)
    assert result.se3.rpe.over_1_frame.translation_rmse == pytest.approx(np.sqrt(18 / 4))


def test_pairs_of_frames_do_not_span_frames_that_were_left_out():
    first, second = frame_pairs(np.array([0, 1, 2, 5, 6, 11]), 1)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (1, 2), (3, 4)]
    first, second = frame_pairs(np.array([0, 1, 10, 11, 20]), 10)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (1, 3), (2, 4)]


def test_pairs_by_distance_take_the_nearest_frame_and_the_first_of_a_stop():
    positions = np.zeros((7, 3))
    positions[:, 0] = (0, 0.95, 0.95, 0.95, 1.96, 2.6, 5.0)
    first, second = distance_pairs(positions, 1.0)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (1, 4), (2, 4), (3, 4)]


def _kitti_as_described(estimate, truth, step):
    """The plain twin: loops, as in the benchmark's description."""
    distance = [0.0]
    for a, b in itertools.pairwise(truth):
        distance.append(distance[-1] + np.linalg.norm(b[:3, 3] - a[:3, 3]))
    found = []
    for first in range(0, len(truth), step):
        for length in KITTI_LENGTHS:
            last = next((i for i in range(first, len(truth)) if distance[i] > distance[first] + length), None)
            if last is None:
                continue
            true_motion = np.linalg.inv(truth[first]) @ truth[last]
            motion = np.linalg.inv(estimate[first]) @ estimate[last]
            error = np.linalg.inv(motion) @ true_motion
            angle = np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1))
            found.append((np.linalg.norm(error[:3, 3]) / length, np.degrees(angle) / length))
    return len(found), *(100 * np.mean(found, axis=0))


@pytest.mark.parametrize("step", [1, 10])
def test_kitti_segments_are_those_of_the_benchmarks_description(step):
    truth = walk(120, 2, step=3.0)
    estimate = drifted(truth, 4)
    count, translation, rotation = _kitti_as_described(estimate, truth, step)
    result = kitti_error(estimate, truth, step)
    assert result.segments == count == sum(one.segments for one in result.by_length)
    assert result.translation_percent == pytest.approx(translation)
    assert result.rotation_per_100m == pytest.approx(rotation)


def test_a_short_drive_has_no_kitti_segments():
    result = evaluate_trajectory(walk(20), walk(20))
    assert (result.sim3.kitti.segments, result.sim3.kitti.translation_percent) == (0, None)
    assert (result.sim3.rpe.over_100m.pairs, result.sim3.rpe.over_100m.rotation_mean) == (0, None)


def _with(change):
    poses = walk(6)
    change(poses)
    return poses


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (walk(5), "as many estimated poses as true ones, got 5 and 6"),
        (np.eye(4), r"expected poses \(frames, 4, 4\)"),
        (_with(lambda p: p.__setitem__((3, 0, 3), np.nan)), "frame 3 is not finite"),
        (_with(lambda p: p.__setitem__((2, 0, 0), 2.0)), "a rotation in frame 2"),
        (_with(lambda p: p.__setitem__((slice(None), slice(3), 3), 1.0)), "estimate does not move"),
        (np.diag([1, 1, -1, 1.0]) @ walk(6), "a rotation in frame 0"),
    ],
)
def test_trajectories_that_cannot_be_compared_are_reported_in_one_line(estimate, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_trajectory(estimate, walk(6))
    assert "\n" not in str(caught.value)


def test_two_poses_are_too_few_and_frame_numbers_must_rise():
    with pytest.raises(ValueError, match="at least 3 poses are needed, got 2"):
        check_poses(walk(2), "estimate")
    with pytest.raises(ValueError, match="6 rising frame numbers"):
        evaluate_trajectory(walk(6), walk(6), [0, 1, 2, 2, 3, 4])
    with pytest.raises(ValueError, match="truth does not move"):
        evaluate_trajectory(walk(6), np.tile(np.eye(4), (6, 1, 1)))
