"""Pairs of drives that went along the same street in opposite directions, found in the solved city.

Where links hold two drives in one frame, their solved paths show it. Links between opposite directions come from
facades (`facing.py`); a few of them join all drives of both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from pipeline.fuse.candidates import Array, Candidate, Numbers
from pipeline.fuse.evidence import Verified
from pipeline.fuse.placement import Placement

OPPOSITE = "opposite directions"
"""Words in the reason of a pair that went in opposite directions."""
UNCOMPARED = "not compared"
"""How the reason of a pair begins whose frames were not compared."""
_STREET_M = 10.0  # most metres between the paths of two directions of a street
_SAMPLE_M = 5.0  # metres between compared places of a path
# Least length that two drives have in common. Those that share 50 m are wanted; without positions a metre is a step of
# a car, and links between directions may be some percent too long.
_SHARED_M = 40.0
_AGAINST = -0.7  # largest cosine between viewing directions


def opposite_pairs(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Verified],
    leads: Sequence[Numbers] | None = None,
    rejected: frozenset[int] = frozenset(),
) -> list[Verified]:
    """A verdict without a link for each pair of drives whose paths share at least 40 m in opposite directions.

    placements: of the drives; metres: city units in a metre, by name of the frame; known: verdicts so far, whose pairs
    in opposite directions are not repeated if a link or positions show them; leads: of each drive the frames of its
    reference camera, as indices; None: all frames; rejected: indices in `known` of links that the solution rejected.
    Drives in different frames are not compared: nothing shows where one
    is relative to the other.
    """
    facing = [(n, one) for n, one in enumerate(known) if one.candidate.opposite]
    told = {
        pair_of(one.candidate)
        for n, one in facing
        if one.candidate.by == "positions" or (one.link is not None and n not in rejected)
    }
    tried = {pair_of(one.candidate) for _, one in facing}
    found: list[Verified] = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name]
        for candidate in _of_frame(placements, drives, metres[name], leads) if len(drives) > 1 else []:
            if pair_of(candidate) not in told:
                how = "not linked" if pair_of(candidate) in tried else UNCOMPARED
                why = f"{how}: the drives went in {OPPOSITE} along {candidate.score:.0f} m of street"
                found.append(Verified(candidate, None, 0, why, False))
    return found


def without_linked(verified: Sequence[Verified]) -> list[Verified]:
    """The verdicts without those of pairs that positions show in opposite directions and that a link joins."""
    linked = {pair_of(one.candidate) for one in verified if one.candidate.opposite and one.link is not None}
    return [
        one
        for one in verified
        if one.link is not None
        or not (one.candidate.opposite and one.candidate.by == "positions" and pair_of(one.candidate) in linked)
    ]


def pair_of(one: Candidate) -> tuple[int, int]:
    """The numbers of its drives."""
    return one.first, one.second


def _of_frame(
    placements: Sequence[Placement], drives: Sequence[int], metre: float, leads: Sequence[Numbers] | None
) -> list[Candidate]:
    of = {n: np.arange(len(placements[n].frame_index)) if leads is None else leads[n] for n in drives}
    some = [of[n][_sampled(placements[n].city_from_camera[of[n], :3, 3] / metre)] for n in drives]
    drive = np.repeat(drives, [len(one) for one in some])
    frame = np.concatenate(some)
    poses = np.concatenate([placements[n].city_from_camera[at] for n, at in zip(drives, some, strict=True)])
    place, ahead = poses[:, :3, 3] / metre, poses[:, :3, 2]
    tree = cKDTree(place)
    made: list[Candidate] = []
    for n in drives:
        mine = np.flatnonzero(drive == n)
        near = cKDTree(place[mine]).sparse_distance_matrix(tree, _STREET_M, output_type="ndarray")
        i, j = mine[near["i"]], near["j"]
        # The other path's place must lie beside this one: beyond its end a path has nothing beside it.
        along = np.abs(np.einsum("nk,nk->n", place[j] - place[i], ahead[i]))
        against = (drive[j] > n) & (along <= _SAMPLE_M / 2)
        against &= np.einsum("nk,nk->n", ahead[i], ahead[j]) < _AGAINST
        i, j, far = i[against], j[against], near["v"][against]
        for other in np.unique(drive[j]).tolist():
            both = np.flatnonzero(drive[j] == other)
            places = np.unique(i[both])
            if len(places) * _SAMPLE_M >= _SHARED_M:
                at = both[i[both] == places[len(places) // 2]]
                best = at[np.argmin(far[at])]
                length = len(places) * _SAMPLE_M
                made.append(Candidate(n, int(frame[i[best]]), other, int(frame[j[best]]), length, "solution", True))
    return made


def _sampled(place: Array) -> Numbers:
    """Indices of the first of some positions (n, 3) in each 5 m of their path."""
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1)))
    return np.flatnonzero(np.diff(np.floor(way / _SAMPLE_M), prepend=-1) > 0)
