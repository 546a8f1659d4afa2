"""Drives whose solved paths share a street in one direction are candidates, spread over their way."""

import numpy as np
import pytest

from pipeline.fuse.candidates import Candidate
from pipeline.fuse.common_streets import common_streets
from tests.fuse.test_opposite import along


@pytest.mark.parametrize("unit", [1.0, 0.03])
def test_frames_of_one_street_beside_each_other_are_candidates(unit):
    first, second = along((0, 0, 0), (0, 0, 200), unit=unit), along((2, 0, 80), (2, 0, 260), unit=unit)
    found = common_streets([first, second], {"of-a": unit}, [], [], 4, 30)
    assert len(found) == 4 and all(one.by == "solution" and not one.opposite for one in found)
    for one in found:
        away = first.city_from_camera[one.first_frame] - second.city_from_camera[one.second_frame]
        assert abs(away[2, 3]) < 2.5 * unit and 100 < one.score < 130
    assert np.diff(sorted(one.first_frame for one in found)).min() > 15


@pytest.mark.parametrize(
    "other",
    [
        along((3, 0, 200), (3, 0, 0)),  # the opposite direction
        along((3, 0, 195), (3, 0, 300)),  # 5 m only
        along((-100, 0, 50), (100, 0, 50)),  # a crossing street
        along((30, 0, 0), (30, 0, 200)),  # the next street
        along((3, 0, 0), (3, 0, 200), frame="of-b"),  # a frame whose place is not known
    ],
)
def test_other_paths_are_not_compared(other):
    assert common_streets([along((0, 0, 0), (0, 0, 200)), other], {"of-a": 1.0, "of-b": 1.0}, [], [], 4, 30) == []


def test_earlier_candidates_count_for_the_budget_and_are_not_repeated():
    drives = [along((0, 0, 0), (0, 0, 100))] * 6
    known = [Candidate(0, n, 1, n, 9.0, "descriptors") for n in (20, 50, 80)]
    found = common_streets(drives, {"of-a": 1.0}, known, [True] * 3, 4, 10)
    every = [*known, *found]
    for n in range(6):
        assert sum(n in (one.first, one.second) for one in every) <= 10
    assert len(every) >= 6 * 10 / 2 - 2
    own = [one for one in found if (one.first, one.second) == (0, 1)]
    assert len(own) <= 1 and all(abs(one.first_frame - at) >= 5 for one in own for at in (20, 50, 80))
    # the other pairs come before a fourth candidate of the first one
    assert {(one.first, one.second) for one in found} >= {(0, n) for n in range(2, 6)}


def test_the_candidates_of_a_drive_with_many_others_are_spread_over_its_way():
    drives = [along((0.1 * n, 0, 0), (0.1 * n, 0, 100)) for n in range(16)]
    found = common_streets(drives, {"of-a": 1.0}, [], [], 2, 30)
    mine = sorted(one.first_frame for one in found if one.first == 0)
    assert len(mine) == 30 and np.histogram(mine, bins=5, range=(0, 101))[0].min() >= 3


def test_candidates_go_where_no_link_holds_a_drive():
    drives = [along((0, 0, 0), (0, 0, 100)), along((1, 0, 0), (1, 0, 100)), along((2, 0, 0), (2, 0, 100))]
    known = [Candidate(0, n, 1, n, 9.0, "solution") for n in (10, 80)]
    for linked, place in (([True, False], 100), ([True, True], 45)):  # the farthest from each link, though it failed
        found = common_streets(drives, {"of-a": 1.0}, known, linked, 1, 30)
        (one,) = (one for one in found if (one.first, one.second) == (0, 2))
        assert abs(one.first_frame - place) <= 1
