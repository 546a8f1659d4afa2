"""The benchmark of joint chunks: which pairs it takes, and how it measures the error of a link."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.benchmark.joint_chunks import JointBenchmark, _counts, _errors, _Known, _pairs
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.joint_link import Half, JointLink


def drive(gauge, aside):
    """A drive of 60 frames, a metre apart, in its own gauge."""
    true = np.tile(np.eye(4), (60, 1, 1))
    true[:, 0, 3], true[:, 2, 3] = aside, np.arange(60)
    cameras = SimpleNamespace(world_from_camera=gauge.transform_pose(true))
    return _Known(SimpleNamespace(opened=SimpleNamespace(cameras=cameras)), true)


def test_right_pairs_are_near_each_other_and_wrong_ones_far_apart():
    drives = [drive(Sim3.identity(), 0.0), drive(Sim3.identity(), 2.0)]
    rng = np.random.default_rng(3)
    for near in (True, False):
        for one in _pairs(drives, rng, 20, near=near):
            away = abs(one.first_frame - one.second_frame)
            assert (one.first, one.second) == (0, 1) and (away <= 1 if near else away >= 29)
    far = [drive(Sim3.identity(), 0.0), drive(Sim3.identity(), 500.0)]
    with pytest.raises(ValueError, match="too few common streets for 1 pairs"):
        _pairs(far, rng, 1, near=True)


def test_a_link_that_is_a_metre_a_degree_and_a_tenth_of_scale_off_has_these_errors():
    gauges = Sim3(0.5, rotation_exp(np.array([0.1, 0.2, 0.0])), np.ones(3)), Sim3(2.0, np.eye(3), np.zeros(3))
    drives = [drive(gauges[0], 0.0), drive(gauges[1], 2.0)]
    one = Candidate(0, 20, 1, 22, 1.0, "positions")
    move = Sim3(4.0 * np.exp(0.1), rotation_exp(np.array([0.0, np.radians(1), 0.0])), np.array([-4.0, 0.0, -4.0 + 2.0]))
    half = Half(Sim3.identity(), 0.0, 0.0, 1.0, 0.0, 1.0)
    found = _errors(drives, [one], {0: JointLink(move, np.eye(7), (half, half))})
    assert found["error_m"][1] == pytest.approx(1.0) and found["error_degrees"][1] == pytest.approx(1.0)
    assert found["error_log_scale"][1] == pytest.approx(0.1)


def test_the_figures_of_pairs_are_numbers_that_json_can_write():
    sides = [Half(Sim3.identity(), turn, 0.1, 1.0, 0.0, np.float64(0.9)) for turn in (0.01, 0.5)]
    links = {n: JointLink(Sim3.identity(), np.eye(7), (side, side)) for n, side in enumerate(sides)}
    found = json.loads(json.dumps(_counts("right", range(3), links | {2: "too few frames"}, [True, False, True])))
    assert (found["right_pairs"], found["right_measured"], found["right_by_features"]) == (3, 2, 2)
    assert found["right_understood"] == found["right_sure"] == 1
    assert found["right_turn_degrees"][1] == pytest.approx(np.degrees(0.255))


def test_both_places_must_be_given():
    with pytest.raises(ValueError, match=r"--joint\.rendered"):
        JointBenchmark(output="somewhere").measure(lambda line: None)
