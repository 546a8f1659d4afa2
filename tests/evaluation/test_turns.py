import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.evaluation import evaluate_trajectory
from pipeline.evaluation.turns import find_turns, turn_errors
from tests.evaluation.paths import moved, streets


def test_corners_are_found_with_their_angle_and_side_at_any_frame_rate():
    for step in (0.3, 0.7, 1.5):
        truth = streets(90, -90, 80, step=step)
        turns = turn_errors(truth, truth, np.arange(len(truth)))
        assert [turn.degrees for turn in turns] == pytest.approx([90, -90, 80], abs=1)
        assert [turn.error for turn in turns] == pytest.approx([0, 0, 0], abs=1e-5)
        middle = len(streets(step=step)) + np.radians(90) * 8 / step / 2
        assert turns[0].first < middle < turns[0].last
        length = (turns[0].last - turns[0].first) * step
        arc = np.radians(90) * 8
        assert arc - step < length < arc + 4  # the window reaches 2 m to both sides


def test_bends_and_straight_roads_are_no_turns():
    assert find_turns(streets()) == ()
    assert find_turns(streets(40)) == ()
    assert find_turns(streets(90, radius=90)) == ()


def test_a_stop_within_a_turn_does_not_divide_it():
    truth = streets(90)
    middle = len(truth) // 2
    waiting = np.concatenate([truth[:middle], np.repeat(truth[middle : middle + 1], 40, 0), truth[middle:]])
    turns = find_turns(waiting)
    assert len(turns) == 1
    assert turns[0][1] - turns[0][0] > 40


def test_an_estimate_that_turns_too_little_has_the_difference_as_its_error():
    truth = streets(90, -90)
    frames, short, turns = np.arange(len(truth)), truth.copy(), find_turns(truth)
    for (first, last), way in zip(turns, (1, -1), strict=True):
        for i in range(first + 1, len(truth)):
            back = -way * 10.0 * min(i - first, last - first) / (last - first)
            short[i, :3, :3] = short[i, :3, :3] @ Rotation.from_rotvec((0, np.radians(back), 0)).as_matrix()
    errors = turn_errors(moved(short, 2.0), truth, frames + 100)
    assert [turn.error for turn in errors] == pytest.approx([10, 10])
    assert [turn.yaw_error for turn in errors] == pytest.approx([-10, 10])
    assert errors[0].first == turns[0][0] + 100
    result = evaluate_trajectory(moved(short, 2.0), truth)
    assert (result.turn_error_mean, result.turn_error_maximum) == pytest.approx((10, 10))


def test_a_drive_without_turns_has_no_error_over_them():
    result = evaluate_trajectory(streets(), streets())
    assert (result.turns, result.turn_error_mean, result.turn_error_maximum) == ((), None, None)


def test_kitti_00_has_about_two_dozen_turns(shared):
    from pipeline.evaluation import read_poses

    truth = read_poses(str(shared / "data/trajectories/KITTI_00_gt.txt")).world_from_camera
    turns = turn_errors(truth, truth, np.arange(len(truth)))
    assert 20 <= len(turns) <= 30
    assert np.median(np.abs([turn.degrees for turn in turns])) == pytest.approx(87, abs=5)
