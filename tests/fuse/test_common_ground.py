"""Drives whose solved paths meet in different directions are candidates for charts of the road."""

import numpy as np
import pytest

from pipeline.fuse.candidates import GROUND, Candidate
from pipeline.fuse.common_ground import common_ground
from tests.fuse.test_opposite import along


def ground(drives, known=(), linked=(), per_pair=3, budget=15, unit=1.0):
    leads = [one.frame_index for one in drives]
    return common_ground(drives, {"of-a": unit, "of-b": 1.0}, known, linked, per_pair, budget, leads)


@pytest.mark.parametrize("unit", [1.0, 0.03])
def test_drives_in_opposite_directions_are_compared_where_they_pass_each_other(unit):
    drives = [along((0, 0, 0), (0, 0, 200), unit=unit), along((4, 0, 180), (4, 0, 0), unit=unit)]
    found = ground(drives, unit=unit)
    assert len(found) == 3 and all(one.opposite and one.by == GROUND and 140 < one.score < 180 for one in found)
    for one in found:
        away = drives[1].city_from_camera[one.second_frame] - drives[0].city_from_camera[one.first_frame]
        assert np.linalg.norm(away[:3, 3]) < 5 * unit
    # a chart shows the road before the frame as well, so the first metres of a drive are not used
    assert min(one.first_frame for one in found) >= 12 and np.ptp([one.first_frame for one in found]) > 100


def test_drives_that_cross_are_compared_there():
    found = ground([along((0, 0, 0), (0, 0, 200)), along((-100, 0, 50), (100, 0, 50))])
    assert 1 <= len(found) <= 2
    for one in found:
        assert not one.opposite and abs(one.first_frame - 50) < 12 and abs(one.second_frame - 100) < 12


@pytest.mark.parametrize(
    "other",
    [
        along((3, 0, 0), (3, 0, 200)),  # the same direction
        along((40, 0, 200), (40, 0, 0)),  # the next street
        along((3, 0, 200), (3, 0, 0), frame="of-b"),  # a frame whose place is not known
    ],
)
def test_other_drives_have_no_common_ground(other):
    assert ground([along((0, 0, 0), (0, 0, 200)), other]) == []


def test_earlier_candidates_on_the_ground_count():
    drives = [along((0, 0, 0), (0, 0, 200)), along((4, 0, 180), (4, 0, 0))]
    known = [Candidate(0, 60, 1, 120, 1.0, GROUND, True), Candidate(0, 150, 1, 30, 1.0, GROUND, True)]
    (found,) = ground(drives, known, (True, True))
    assert min(abs(found.first_frame - place) for place in (60, 150)) > 40
    assert ground(drives, known, (True, True), budget=2) == []
