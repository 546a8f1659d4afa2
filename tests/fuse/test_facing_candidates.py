"""Which frames of drives in opposite directions are compared: by the solution, and by similar side views."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.fuse.alike_facades import alike_sides
from pipeline.fuse.between_parts import most_alike
from pipeline.fuse.candidates import Candidate
from pipeline.fuse.evidence import Verified
from pipeline.fuse.facing_frames import facing_frames
from pipeline.fuse.opposite import without_linked
from tests.fuse.test_opposite import along

REACH = 1.25  # a camera that sees 39 degrees to the side


def leads(drives):
    return [one.frame_index for one in drives]


def facing(drives, known=(), reach=REACH, per_pair=3, budget=10, unit=1.0):
    return facing_frames(drives, {"of-a": unit}, known, [reach] * len(drives), per_pair, budget, leads(drives))


@pytest.mark.parametrize("unit", [1.0, 0.03])
def test_frames_before_drives_in_opposite_directions_meet_are_candidates(unit):
    drives = [along((0, 0, 0), (0, 0, 200), unit=unit), along((4, 0, 180), (4, 0, 0), unit=unit)]
    found = facing(drives, unit=unit)
    assert len(found) == 3 and all(one.opposite and one.by == "facing" for one in found)
    for one in found:
        away = drives[1].city_from_camera[one.second_frame] - drives[0].city_from_camera[one.first_frame]
        assert 30 * unit < away[2, 3] < 60 * unit


@pytest.mark.parametrize(
    "other",
    [
        along((3, 0, 0), (3, 0, 200)),  # the same direction
        along((-100, 0, 50), (100, 0, 50)),  # a crossing street
        along((40, 0, 200), (40, 0, 0)),  # the next street
    ],
)
def test_other_drives_do_not_face_each_other(other):
    assert facing([along((0, 0, 0), (0, 0, 200)), other]) == []


def test_cameras_that_look_farther_to_the_side_are_compared_nearer_to_each_other_and_narrow_ones_never():
    drives = [along((0, 0, 0), (0, 0, 200)), along((4, 0, 180), (4, 0, 0))]
    for one in facing(drives, reach=0.6):
        away = drives[1].city_from_camera[one.second_frame] - drives[0].city_from_camera[one.first_frame]
        assert 10 < away[2, 3] < 30
    assert facing(drives, reach=0.6) and facing(drives, reach=None) == []


def test_earlier_candidates_in_opposite_directions_count():
    drives = [along((0, 0, 0), (0, 0, 200)), along((4, 0, 180), (4, 0, 0))]
    known = [Candidate(0, n, 1, n, 1.0, "facades", True) for n in (3, 4)]
    assert len(facing(drives, known)) == 1 and facing(drives, known, budget=2) == []


def test_the_right_side_of_one_drive_and_the_left_side_of_another_are_candidates():
    rng = np.random.default_rng(0)
    right, left = (rng.normal(size=(20, 64)).astype(np.float32) for _ in range(2))
    left[13], right[13] = right[4], left[4]  # frame 4 of drive 0 and frame 3 of drive 1 face each other
    left[17] = right[15]  # but drive 1 alone
    right, left = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (right, left))
    drive, frame = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    found = most_alike(alike_sides(right, left), drive, frame, drive, 2, 0.02, "facades", True)
    (best, *_) = sorted(found, key=lambda one: -one.score)
    assert (best.first, best.first_frame, best.second, best.second_frame) == (0, 4, 1, 3)
    assert best.opposite and best.by == "facades"


def test_what_positions_reported_is_dropped_where_a_link_joins_the_pair():
    told = Verified(Candidate(0, 5, 1, 7, 9.0, "positions", True), None, 0, "not compared", False)
    other = replace(told, candidate=replace(told.candidate, second=2))
    linked = Verified(Candidate(0, 1, 1, 2, 9.0, "facing", True), object(), 30, "")
    assert without_linked([told, other, linked]) == [other, linked]
    unlinked = replace(linked, link=None)
    assert without_linked([told, unlinked]) == [told, unlinked]
