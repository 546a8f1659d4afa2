"""The verdict on a candidate by its joint chunk and the features of its pictures: each alone, both together, and both
against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.backend.sim3 import Sim3, rotation_exp
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.evidence import Verified
from pipeline.fuse.joint_link import Half, JointLink
from pipeline.fuse.joint_verdict import distance, judged, together
from pipeline.fuse.link import Link

ONE = Candidate(0, 3, 1, 4, 0.9, "descriptors")


def link(place=(0.0, 0.0, 1.0), deviation=0.1, turn=(0.0, 0.0, 0.0), scale=1.0):
    move = Sim3(scale, rotation_exp(np.array(turn)), np.array(place))
    return Link(0, 3, 1, 4, move, np.diag(np.array([0.01] * 3 + [deviation] * 3 + [0.05]) ** 2))


def joint(degrees, place, inliers):
    half = Half(Sim3.identity(), np.radians(degrees), place, 5.0, 0.02, inliers)
    return JointLink(Sim3.identity(), np.eye(7), (half, half))


GOOD, SOME, BAD = joint(0.3, 0.1, 0.95), joint(1.2, 0.9, 0.7), joint(8.0, 3.0, 0.3)
SEEN = Verified(ONE, link(), 40, "40 features (70%) agree on one relative pose")
DARK = Verified(ONE, None, 0, "3 of 9 matched features agree on one relative pose")


def never():
    raise AssertionError("it is not asked for")


def verdict(features, chunk, by_network=never, few=lambda: DARK):
    return judged(features, chunk, by_network, few)


def test_features_and_a_joint_chunk_that_agree_give_one_link_that_is_surer_than_both():
    found = verdict(SEEN, GOOD, lambda: link((0.0, 0.0, 1.2), 0.1), never)
    assert found.link is not None and "gives the same relative pose" in found.reason
    assert found.link.second_from_first.translation[2] == pytest.approx(1.1)
    assert (np.diag(found.link.covariance) < np.diag(SEEN.link.covariance)).all()


def test_a_joint_chunk_that_contradicts_the_features_rejects_the_candidate_and_says_why():
    found = verdict(SEEN, GOOD, lambda: link((0.0, 0.0, 9.0)), never)
    assert found.link is None and found.lasting
    assert found.reason.startswith(SEEN.reason) and "its joint chunk gives another one" in found.reason


def test_a_wrong_pair_whose_halves_do_not_fit_stays_rejected_with_both_reasons():
    found = verdict(DARK, BAD, never, never)
    assert found.link is None
    assert DARK.reason in found.reason and "8.0 degrees" in found.reason and "too little to say more" in found.reason


def test_a_joint_chunk_that_the_network_did_not_understand_leaves_the_verdict_of_the_features():
    found = verdict(SEEN, BAD, never, never)
    assert found.link is SEEN.link and "8.0 degrees" in found.reason


def test_few_features_are_enough_where_the_joint_chunk_gives_their_pose_and_not_where_it_gives_another():
    few = Verified(ONE, link(), 9, "9 features (30%) agree on one relative pose")
    found = verdict(DARK, GOOD, lambda: link((0.0, 0.0, 1.1)), lambda: few)
    assert found.link is not None and found.matches == 9 and "9 features" in found.reason
    found = verdict(DARK, GOOD, lambda: link((0.0, 0.0, 5.0)), lambda: few)
    assert found.link is None and "gives another one" in found.reason
    found = verdict(DARK, SOME, lambda: link(), never)  # three wrong pairs of 400 had 8 to 14 such features
    assert found.link is None and "too little without features" in found.reason


def test_without_features_only_a_joint_chunk_whose_halves_agree_very_well_is_a_link():
    own = link((0.0, 0.0, 1.0), 2.0)
    found = verdict(DARK, GOOD, lambda: own)
    assert found.link is own and found.reason.startswith("by the network alone") and DARK.reason in found.reason
    found = verdict(DARK, SOME, lambda: own)
    assert found.link is None and "too little without features" in found.reason


def test_without_a_prediction_the_features_decide_and_the_reason_is_added():
    said = "the first drive's half of the joint chunk has too few usable frames"
    assert verdict(SEEN, said, never, never).link is SEEN.link
    found = verdict(DARK, said, never, never)
    assert found.link is None and said in found.reason and DARK.reason in found.reason


places = st.tuples(*[st.floats(-0.3, 0.3)] * 3)


@given(places, places, st.floats(0.05, 2.0), st.floats(0.05, 2.0), places)
@settings(deadline=None, max_examples=60)
def test_the_mean_of_two_links_lies_between_them_in_either_order_and_nearer_to_the_surer_one(a, b, s, t, turn):
    small = tuple(0.02 * value for value in turn)
    first, second = link(a, s), link(b, t, small, 1.02)
    mean, other = together(first, second), together(second, first)
    np.testing.assert_allclose(mean.second_from_first.matrix(), other.second_from_first.matrix(), atol=1e-4)
    np.testing.assert_allclose(mean.covariance, other.covariance, atol=1e-9)
    assert np.linalg.eigvalsh(mean.covariance)[0] > 0
    assert distance(mean, first) <= distance(first, second) + 1e-9
    expected = (np.array(a) / s**2 + np.array(b) / t**2) / (1 / s**2 + 1 / t**2)
    np.testing.assert_allclose(mean.second_from_first.translation, expected, atol=1e-6)
