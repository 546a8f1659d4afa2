"""Candidates from the solution: pairs of drives whose solved paths meet on the same road in different directions.

Forward cameras of such drives look at different things, but both see the road around the place where they pass each
other, or cross. Charts of it are compared there (`on_ground.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.fuse.candidates import GROUND, Array, Candidate, Numbers, within_budget
from pipeline.fuse.common_streets import near_each_other
from pipeline.fuse.placement import Placement

_BESIDE_M = 10.0  # most metres between two frames
_ALIKE = 0.8  # cosine of viewing directions from which on drives go in one direction
_AGAINST = -0.7  # largest cosine of opposite directions
_APART_M = 12.0  # least metres between two candidates of a pair along the first drive
_BEFORE_M, _BEHIND_M = 12.0, 4.0  # metres of a drive before and behind a frame whose chart is whole
_GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly over the unit interval


def common_ground(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Candidate],
    per_pair: int,
    budget: int,
    leads: Sequence[Numbers],
) -> list[Candidate]:
    """New candidates of pairs of drives that were at one place in different directions, those with most road in common
    first.

    Args:
        placements: of the drives in the solution.
        metres: city units in a metre, by name of the coordinate frame.
        known: candidates so far. Those on common ground count for `per_pair` and `budget`.
        per_pair: most candidates of a pair of drives, spread over the road that they have in common.
        budget: most candidates of a drive.
        leads: of each drive the frames of its reference camera, as indices.
    """
    pose = [one.city_from_camera[at] for one, at in zip(placements, leads, strict=True)]
    place = [one[:, :3, 3] / metres[of.frame] for one, of in zip(pose, placements, strict=True)]
    way = [np.append(0.0, np.cumsum(np.linalg.norm(np.diff(one, axis=0), axis=1))) for one in place]
    whole = [_whole(one) for one in way]
    mine: dict[tuple[int, int], list[int]] = defaultdict(list)
    for one in known:
        if one.by == GROUND:
            mine[one.first, one.second].append(one.first_frame)
    used = Counter(n for pair, frames in mine.items() for n in pair for _ in frames)
    made: list[Candidate] = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name and len(place[n])]
        trees = {n: cKDTree(place[n]) for n in drives}
        for a, b in near_each_other(place, drives):
            room = per_pair - len(mine[a, b])
            if room <= 0 or max(used[a], used[b]) >= budget:
                continue
            far, near = trees[b].query(place[a], distance_upper_bound=_BESIDE_M)
            there = np.flatnonzero(np.isfinite(far) & whole[a] & whole[b][np.minimum(near, len(place[b]) - 1)])
            cosine = np.einsum("nk,nk->n", pose[a][there, :3, 2], pose[b][near[there], :3, 2])
            there, cosine = there[cosine < _ALIKE], cosine[cosine < _ALIKE]
            length = float(np.diff(way[a], prepend=0.0)[there].sum())
            taken = [float(np.interp(frame, leads[a], way[a])) for frame in mine[a, b]]
            for k in _spread(way[a][there], taken, room, _GOLDEN * (a + _GOLDEN * b) % 1.0):
                i, j = int(leads[a][there[k]]), int(leads[b][near[there[k]]])
                made.append(Candidate(a, i, b, j, length, GROUND, bool(cosine[k] < _AGAINST)))
    return within_budget(made, budget, used)


def _spread(way: Array, taken: Sequence[float], room: int, begin: float) -> list[int]:
    """At most `room` indices of places at `way` (n,), metres along a path: one at the share `begin` of them, then those
    that are farthest from the others and from `taken`, metres."""
    chosen: list[int] = []
    stops = list(taken)
    for _ in range(room if len(way) else 0):
        best = int(begin * len(way))
        if stops:
            least = np.abs(way[:, None] - np.array(stops)).min(1)
            best = int(least.argmax())
            if least[best] < _APART_M:
                break
        chosen.append(best)
        stops.append(float(way[best]))
    return chosen


def _whole(way: Array) -> NDArray[np.bool_]:
    """Which places at `way` (n,), metres along a path, have a chart that pictures show as a whole: those before show
    it. Of a short path, all."""
    good = (way >= _BEFORE_M) & (way <= way[-1] - _BEHIND_M)
    return np.asarray(good if good.any() else np.ones(len(way), bool))
