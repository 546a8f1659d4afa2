"""Candidates from the solution: pairs of drives whose solved paths meet on the same road in different directions.

Forward cameras of such drives look at different things, but both see the road around the place where they pass each
other, or cross. Charts of it are compared there (`on_ground.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.candidates import GROUND, Array, Candidate, Numbers
from pipeline.fuse.common_streets import near_each_other
from pipeline.fuse.placement import Placement
from pipeline.fuse.spread_candidates import SharedRoad, Ways, spread_candidates

_BESIDE_M = 10.0  # most metres between two frames
ALIKE = 0.8
"""Cosine of viewing directions from which on drives go in one direction."""
AGAINST = -0.7
"""Largest cosine of opposite directions."""
_APART_M = 12.0  # least metres between two candidates of a pair along the first drive
_BEFORE_M, _BEHIND_M = 12.0, 4.0  # metres of a drive before and behind a frame whose chart is whole


def common_ground(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Candidate],
    linked: Sequence[bool],
    per_pair: int,
    budget: int,
    leads: Sequence[Numbers],
) -> list[Candidate]:
    """New candidates of pairs of drives that were at one place in different directions, spread evenly over the way of
    each drive.

    Args:
        placements: of the drives in the solution.
        metres: city units in a metre, by name of the coordinate frame.
        known: candidates so far. Those on common ground count for `per_pair` and `budget`.
        linked: of each of them, whether the frames show the same place.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive.
        leads: of each drive the frames of its reference camera, as indices.
    """
    pose = [one.city_from_camera[at] for one, at in zip(placements, leads, strict=True)]
    ways = Ways([one[:, :3, 3] / metres[of.frame] for one, of in zip(pose, placements, strict=True)], leads)
    whole = [whole_charts(one) for one in ways.along]
    mine = [n for n, one in enumerate(known) if one.by == GROUND]
    shared = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name and len(leads[n])]
        for a, b in near_each_other(ways.place, drives):
            far, near = ways.tree(b).query(ways.place[a], distance_upper_bound=_BESIDE_M)
            there = np.flatnonzero(np.isfinite(far) & whole[a])
            there = there[whole[b][near[there]]]
            cosine = np.einsum("nk,nk->n", pose[a][there, :3, 2], pose[b][near[there], :3, 2])
            there, cosine = there[cosine < ALIKE], cosine[cosine < ALIKE]
            if len(there):
                length = float(np.diff(ways.along[a], prepend=0.0)[there].sum())
                shared.append(SharedRoad(a, b, there, near[there], cosine < AGAINST, length).thinned())
    told = [known[n] for n in mine]
    return spread_candidates(shared, ways, told, [linked[n] for n in mine], per_pair, budget, _APART_M, GROUND)


def whole_charts(way: Array) -> NDArray[np.bool_]:
    """Which places at `way` (n,), metres along a path, have a chart that pictures show as a whole: those before show
    it. Of a short path, all."""
    good = (way >= _BEFORE_M) & (way <= way[-1] - _BEHIND_M)
    return np.asarray(good if good.any() else np.ones(len(way), bool))
