"""Candidates: drives that went through the same cells or have similar descriptors, within a budget for each drive."""

import numpy as np
import pytest

from pipeline.fuse.candidates import Candidate, Track, by_descriptors, by_positions, within_budget


def straight(drive, start, heading=0.0, frames=60):
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    place = np.asarray(start, float) + np.arange(frames)[:, None] * 2.0 * along
    return Track(drive, np.arange(frames), place, np.tile(along, (frames, 1)))


def test_drives_through_the_same_cells_are_candidates_and_opposite_ones_are_marked():
    tracks = [
        straight(4, (0, 3, 0)),
        straight(7, (40, 5, 0)),
        straight(8, (100, 4, 0), np.pi),
        straight(9, (0, 500, 0)),
    ]
    found = by_positions(tracks, 15.0, per_pair=3, budget=10)
    same = [one for one in found if not one.opposite]
    assert {(one.first, one.second) for one in same} == {(4, 7)} and len(same) == 3
    for one in same:
        assert abs(2 * one.first_frame - (40 + 2 * one.second_frame)) <= 15
    assert {(one.first, one.second) for one in found if one.opposite} == {(4, 8), (7, 8)}
    assert by_positions(tracks[:1], 15.0, 3, 10) == []


def test_similar_frames_are_candidates_and_a_single_similar_facade_is_none():
    rng = np.random.default_rng(0)
    places = rng.normal(0, 1, (80, 48))
    rows = np.concatenate([places[:40], places[25:65], rng.normal(0, 1, (40, 48))])
    rows = rows + rng.normal(0, 0.3, rows.shape)
    rows[100] = rows[3]  # a facade
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    drive, frame = np.repeat([0, 1, 2], 40), np.tile(np.arange(40) * 10, 3)
    found = by_descriptors(rows, drive, frame, 0.7, per_pair=3, budget=10)
    assert found and {(one.first, one.second) for one in found} == {(0, 1)}
    assert all(one.first_frame == one.second_frame + 250 for one in found)
    assert by_descriptors(rows[:40], drive[:40], frame[:40], 0.7, 3, 10) == []
    with pytest.raises(ValueError, match="descriptors"):
        by_descriptors(rows, drive[:5], frame, 0.7, 3, 10)


def test_no_drive_has_more_candidates_than_its_budget_and_every_pair_has_one_before_any_has_two():
    many = [Candidate(0, n, 1, n, 9.0, "positions") for n in range(8)]
    many += [Candidate(0, n, 2, n, 1.0, "positions") for n in range(8)]
    kept = within_budget(many, 4)
    assert sum(one.second == 1 for one in kept) == 2 and sum(one.second == 2 for one in kept) == 2
