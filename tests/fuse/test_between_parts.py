"""Drives of different parts of a city are compared where their frames are most alike."""

import numpy as np

from pipeline.fuse.between_parts import by_drive, most_alike, part_of
from pipeline.fuse.candidates import GROUND
from tests.fuse.test_opposite import along

DRIVE, FRAME = np.repeat([0, 1, 4], [12, 8, 4]), np.concatenate([np.arange(12), np.arange(8), np.arange(4)])
PART = np.repeat([0, 1, 0], [12, 8, 4])


def alike(*pairs):
    similar = np.full((24, 24), 0.01, np.float32)
    for a, b, value in pairs:
        similar[a, b] = similar[b, a] = value
    return similar


def found(similar, part=PART, least=0.1):
    return most_alike(similar, DRIVE, FRAME, part, 2, least, GROUND)


def test_the_most_similar_frames_of_drives_in_different_parts_are_candidates():
    (one,) = found(alike((3, 17, 0.8), (1, 20, 0.9)))  # drives 0 and 4 are of one part
    assert (one.first, one.first_frame, one.second, one.second_frame) == (0, 3, 1, 5)
    assert one.by == GROUND and not one.opposite and abs(one.score - 0.8) < 1e-6
    assert found(alike((3, 17, 0.8)), np.zeros(24, int)) == found(alike()) == []
    nothing = np.zeros(0, np.int64)
    assert most_alike(np.zeros((0, 0), np.float32), nothing, nothing, nothing, 2, 0.1, GROUND) == []


def test_candidates_of_a_pair_are_apart_and_as_many_as_asked_for():
    both = found(alike((3, 17, 0.8), (4, 18, 0.7), (9, 12, 0.6), (6, 14, 0.5)))
    assert [one.first_frame for one in both] == [3, 9]


def test_frames_are_grouped_by_drive_and_drives_by_part():
    assert by_drive([(4, 1), (0, 5), (4, 2)]) == {0: [5], 4: [1, 2]}
    places = [along((0, 0, 0), (0, 0, 5), frame=frame) for frame in ("of-b", "of-a", "of-b")]
    assert part_of(places, np.array([0, 0, 1, 2])).tolist() == [1, 1, 0, 1]
