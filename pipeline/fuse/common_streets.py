"""Candidates from the solution: pairs of drives whose solved paths run through the same streets in one direction.

Place descriptors miss many of these pairs, for example drives in different light. Where links through other drives hold
two drives in one frame, the nearest frames of both paths are known, and verification compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.fuse.candidates import GROUND, Array, Candidate, Numbers
from pipeline.fuse.placement import Placement
from pipeline.fuse.spread_candidates import SharedRoad, Ways, spread_candidates

_STREET_M = 10.0  # most metres between two paths through one street in one direction
_SHARED_M = 10.0  # least length that two drives have in common
_BESIDE_M = 2.5  # most metres between two frames along the street
_ALIKE = 0.8  # least cosine between viewing directions
_APART_M = 5.0  # least metres between two candidates of a pair along the first drive


def common_streets(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Candidate],
    linked: Sequence[bool],
    per_pair: int,
    budget: int,
    leads: Sequence[Numbers] | None = None,
) -> list[Candidate]:
    """New candidates of pairs of drives whose paths share a street, spread evenly over the way of each drive.

    Args:
        placements: of the drives in the city.
        metres: city units in a metre, by name of the coordinate frame.
        known: candidates so far. They count for `per_pair` and `budget`, and no candidate is near one of its pair.
        linked: of each of them, whether the frames show the same place.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive.
        leads: of each drive the frames of its reference camera, as indices; None: all frames.
    """
    of = [np.arange(len(one.frame_index)) for one in placements] if leads is None else leads
    place = [one.city_from_camera[at, :3, 3] / metres[one.frame] for one, at in zip(placements, of, strict=True)]
    ahead = [one.city_from_camera[at, :3, 2] for one, at in zip(placements, of, strict=True)]
    ways = Ways(place, of)
    mine = [n for n, one in enumerate(known) if not one.opposite and one.by != GROUND]
    shared = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name and len(of[n])]
        for a, b in near_each_other(place, drives):
            one = _shared(ways, ahead, a, b)
            if one is not None:
                shared.append(one.thinned())
    told = [known[n] for n in mine]
    return spread_candidates(shared, ways, told, [linked[n] for n in mine], per_pair, budget, _APART_M, "solution")


def near_each_other(place: Sequence[Array], drives: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of the numbered drives, first < second, the boxes of whose places (n, 3), in metres, touch."""
    if len(drives) < 2:
        return []
    low, high = (np.array([f(place[n], axis=0) for n in drives]) for f in (np.min, np.max))
    pairs = []
    for k, n in enumerate(drives):
        touch = ((low[k + 1 :] < high[k] + _STREET_M) & (high[k + 1 :] > low[k] - _STREET_M)).all(1)
        pairs += [(n, drives[k + 1 + int(m)]) for m in np.flatnonzero(touch)]
    return pairs


def _shared(ways: Ways, ahead: Sequence[Array], a: int, b: int) -> SharedRoad | None:
    """The street that drives a and b have in common; None where it is too short."""
    place = ways.place
    far, near = ways.tree(b).query(place[a], distance_upper_bound=_STREET_M)
    there = np.flatnonzero(np.isfinite(far))
    there = there[np.einsum("nk,nk->n", ahead[a][there], ahead[b][near[there]]) > _ALIKE]
    # Beyond the end of a path its last frame is the nearest one, but not beside the other path's.
    beside = np.einsum("nk,nk->n", place[b][near[there]] - place[a][there], ahead[a][there])
    there = there[np.abs(beside) < _BESIDE_M]
    length = float(np.diff(ways.along[a], prepend=0.0)[there].sum())
    if length < _SHARED_M:
        return None
    return SharedRoad(a, b, there, near[there], np.zeros(len(there), bool), length)
