"""Candidates from the solution: pairs of drives whose solved paths run through the same streets in one direction.

Place descriptors miss many of these pairs, for example drives in different light. Where links through other drives hold
two drives in one frame, the nearest frames of both paths are known, and verification compares them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from pipeline.fuse.candidates import Array, Candidate, Numbers, within_budget
from pipeline.fuse.placement import Placement

_STREET_M = 10.0  # most metres between two paths through one street in one direction
_SHARED_M = 10.0  # least length that two drives have in common
_BESIDE_M = 2.5  # most metres between two frames along the street
_ALIKE = 0.8  # least cosine between viewing directions
_GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly over the unit interval
_APART_M = 5.0  # least metres between two candidates of a pair along the first drive


def common_streets(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Candidate],
    per_pair: int,
    budget: int,
    leads: Sequence[Numbers] | None = None,
) -> list[Candidate]:
    """New candidates of pairs of drives whose paths share a street, longest common length first.

    Args:
        placements: of the drives in the city.
        metres: city units in a metre, by name of the coordinate frame.
        known: candidates so far. They count for `per_pair` and `budget`, and no candidate is near one of its pair.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive.
        leads: of each drive the frames of its reference camera, as indices; None: all frames.
    """
    of = [np.arange(len(one.frame_index)) for one in placements] if leads is None else leads
    place = [one.city_from_camera[at, :3, 3] / metres[one.frame] for one, at in zip(placements, of, strict=True)]
    ahead = [one.city_from_camera[at, :3, 2] for one, at in zip(placements, of, strict=True)]
    way = [np.append(0.0, np.cumsum(np.linalg.norm(np.diff(one, axis=0), axis=1))) for one in place]
    mine: dict[tuple[int, int], list[int]] = defaultdict(list)
    used: dict[int, int] = defaultdict(int)
    for one in known:
        if not one.opposite:
            mine[one.first, one.second].append(one.first_frame)
            used[one.first] += 1
            used[one.second] += 1
    made: list[Candidate] = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name and len(of[n])]
        for a, b in near_each_other(place, drives):
            room = per_pair - len(mine[a, b])
            if room > 0 and max(used[a], used[b]) < budget:
                taken = [float(np.interp(frame, of[a], way[a])) for frame in mine[a, b]]
                for i, j, length in _along(place, ahead, way, a, b, taken, room):
                    made.append(Candidate(a, int(of[a][i]), b, int(of[b][j]), length, "solution"))
    return within_budget(made, budget, used)


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


def _along(
    place: Sequence[Array],
    ahead: Sequence[Array],
    way: Sequence[Array],
    a: int,
    b: int,
    taken: Sequence[float],
    room: int,
) -> list[tuple[int, int, float]]:
    """At most `room` pairs of frames of drives a and b along their common street, and its length in metres. Each pair
    of drives has other places, so that those of a drive with all others are spread over its way; taken: where a has
    candidates, metres."""
    far, near = cKDTree(place[b]).query(place[a], distance_upper_bound=_STREET_M)
    there = np.flatnonzero(np.isfinite(far))
    there = there[np.einsum("nk,nk->n", ahead[a][there], ahead[b][near[there]]) > _ALIKE]
    # Beyond the end of a path its last frame is the nearest one, but not beside the other path's.
    beside = np.einsum("nk,nk->n", place[b][near[there]] - place[a][there], ahead[a][there])
    there = there[np.abs(beside) < _BESIDE_M]
    if not len(there):
        return []
    length = float(np.diff(way[a], prepend=0.0)[there].sum())
    if length < _SHARED_M:
        return []
    chosen: list[tuple[int, int, float]] = []
    used = list(taken)
    for share in _shares(2 * room + len(used), _GOLDEN * (a + _GOLDEN * b)):
        n = int(there[round(share * (len(there) - 1))])
        if len(chosen) < room and all(abs(way[a][n] - other) >= _APART_M for other in used):
            chosen.append((n, int(near[n]), length))
            used.append(float(way[a][n]))
    return chosen


def _shares(count: int, begin: float) -> list[float]:
    """Places along a street, as shares of its length, spread ever more densely (van der Corput) from a first one on."""
    shares = []
    for n in range(count):
        share, part, rest = begin, 0.5, n
        while rest:
            share, part, rest = share + part * (rest % 2), part / 2, rest // 2
        shares.append(share % 1.0)
    return shares
