"""Drives in opposite directions along one street are reported from the solution, others are not."""

import numpy as np
import pytest

from pipeline.fuse.candidates import Candidate
from pipeline.fuse.evidence import Verified
from pipeline.fuse.opposite import opposite_pairs
from pipeline.fuse.placement import Placement


def along(start, end, frame="of-a", unit=1.0):
    """A drive straight from start to end (x, y, z in metres), one frame a metre, in a frame of `unit` units a metre."""
    start, end = np.array(start, float), np.array(end, float)
    count = int(np.linalg.norm(end - start)) + 1
    ahead = (end - start) / np.linalg.norm(end - start)
    down = np.array([0.0, 1.0, 0.0])
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = np.stack([np.cross(down, ahead), down, ahead], 1)
    poses[:, :3, 3] = unit * (start + np.arange(count)[:, None] * ahead)
    return Placement(frame, np.arange(count), poses, np.ones(count))


@pytest.mark.parametrize("unit", [1.0, 0.03])
def test_a_street_driven_both_ways_is_reported_with_its_length_and_a_place_on_it(unit):
    there, back = along((0, 0, 0), (0, 0, 200), unit=unit), along((3.5, 0, 150), (3.5, 0, -60), unit=unit)
    (one,) = opposite_pairs([there, back], {"of-a": unit}, [])
    assert one.link is None and not one.lasting and one.candidate.opposite
    assert abs(one.candidate.score - 150) <= 10 and f"along {one.candidate.score:.0f} m of street" in one.reason
    away = there.city_from_camera[one.candidate.first_frame] - back.city_from_camera[one.candidate.second_frame]
    assert np.linalg.norm(away[:3, 3]) < 10 * unit


@pytest.mark.parametrize(
    "other",
    [
        along((3, 0, 0), (3, 0, 200)),  # the same direction
        along((3, 0, 30), (3, 0, 0)),  # 30 m only
        along((-100, 0, 50), (100, 0, 50)),  # a crossing street
        along((30, 0, 200), (30, 0, 0)),  # the next street
        along((3, -15, 200), (3, -15, 0)),  # on a bridge above it
        along((3, 0, 200), (3, 0, 0), frame="of-b"),  # a frame whose place is not known
    ],
)
def test_other_paths_are_not_reported(other):
    assert opposite_pairs([along((0, 0, 0), (0, 0, 200)), other], {"of-a": 1.0, "of-b": 1.0}, []) == []


def test_a_pair_with_a_link_is_reported_only_if_the_solution_rejected_the_link():
    drives = [along((0, 0, 0), (0, 0, 200)), along((3, 0, 200), (3, 0, 0))]
    known = [Verified(Candidate(0, 5, 1, 7, 9.0, "facing", True), object(), 30, "")]
    assert opposite_pairs(drives, {"of-a": 1.0}, known) == []
    (one,) = opposite_pairs(drives, {"of-a": 1.0}, known, rejected=frozenset({0}))
    assert one.reason.startswith("not linked")


def test_a_pair_that_positions_already_show_is_not_repeated():
    drives = [along((0, 0, 0), (0, 0, 200)), along((3, 0, 200), (3, 0, 0)), along((0, 0, 0), (0, 0, 90))]
    known = Verified(Candidate(0, 5, 1, 7, 9.0, "positions", True), None, 0, "", False)
    found = opposite_pairs(drives, {"of-a": 1.0}, [known])
    assert [(one.candidate.first, one.candidate.second) for one in found] == [(1, 2)]
