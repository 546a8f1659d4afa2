"""Candidates from the solution: frames of two drives that face each other in one street.

Drives in opposite directions see the same facade before they meet. How far from each other they see it well depends on
the width of the street and on how far to the side the cameras look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from pipeline.fuse.candidates import GROUND, Candidate, Numbers, within_budget
from pipeline.fuse.common_streets import near_each_other
from pipeline.fuse.opposite import pair_of
from pipeline.fuse.placement import Placement
from pipeline.fuse.published_drives import SeenDrive
from pipeline.fuse.side_views import LEFT, RIGHT, nearest_u

_FACADES_M = 20.0  # metres between the facades of a usual street
_BEYOND = (1.4, 1.75, 2.1)  # u at which facades are compared, in units of the smallest that a camera sees
_LEAST_U = 0.6  # where a camera looks farther to the side
_BESIDE_M = 10.0  # most metres between both paths
_SAMPLE_M = 5.0  # metres between two frames that are tried
_OFF_M = 3.0  # most metres by which their distance may differ from the wanted one
_AGAINST = -0.9  # largest cosine between viewing directions


def reach_of(drive: SeenDrive) -> float | None:
    """The smallest u (`side_views.py`) that a drive's reference camera sees on both sides; None if it sees too little
    of facades."""
    own = drive.opened.cameras.intrinsics[drive.rig.reference[0]]
    shape = (round(2 * float(own[3])), round(2 * float(own[2])))
    right, left = (nearest_u(shape, np.asarray(own, np.float64), np.eye(3), side) for side in (RIGHT, LEFT))
    return None if right is None or left is None else max(right, left, _LEAST_U)


def facing_frames(
    placements: Sequence[Placement],
    metres: Mapping[str, float],
    known: Sequence[Candidate],
    reach: Sequence[float | None],
    per_pair: int,
    budget: int,
    leads: Sequence[Numbers],
) -> list[Candidate]:
    """New candidates of pairs of drives that went through a street in opposite directions, longest common way first.

    Args:
        placements: of the drives in the city.
        metres: city units in a metre, by name of the coordinate frame.
        known: candidates so far. Those that face each other count for `per_pair` and `budget`.
        reach: of each drive the smallest u that it sees; None: it is not compared.
        per_pair: most candidates of a pair of drives.
        budget: most candidates of a drive.
        leads: of each drive the frames of its reference camera, as indices.
    """
    compared = [one for one in known if one.opposite and one.by not in ("positions", GROUND)]
    of_pair = Counter(pair_of(one) for one in compared)
    used = Counter(n for one in compared for n in pair_of(one))
    told = {(one.first, one.first_frame, one.second, one.second_frame) for one in known}
    pose = [one.city_from_camera[at] for one, at in zip(placements, leads, strict=True)]
    place = [one[:, :3, 3] / metres[of.frame] for one, of in zip(pose, placements, strict=True)]
    made: list[Candidate] = []
    for name in sorted({one.frame for one in placements}):
        drives = [n for n, one in enumerate(placements) if one.frame == name and len(place[n]) > 1]
        for a, b in near_each_other(place, [n for n in drives if reach[n] is not None]):
            room = per_pair - of_pair[a, b]
            if room <= 0 or max(used[a], used[b]) >= budget:
                continue
            wanted = (reach[a] or 0.0) / 2 + (reach[b] or 0.0) / 2
            pairs, length = _facing(pose[a], place[a], pose[b], place[b], wanted * _FACADES_M)
            pairs = [(int(leads[a][i]), int(leads[b][j])) for i, j in pairs]
            pairs = [(i, j) for i, j in pairs if (a, i, b, j) not in told]
            for k in np.unique(np.linspace(0, len(pairs) - 1, room).round().astype(int)) if pairs else ():
                made.append(Candidate(a, pairs[k][0], b, pairs[k][1], length, "facing", True))
    return within_budget(made, budget, used)


def _facing(
    pose: np.ndarray, place: np.ndarray, other: np.ndarray, there: np.ndarray, distance: float
) -> tuple[list[tuple[int, int]], float]:
    """Pairs of frames that face each other over about `distance` metres, and the metres of way on which there are."""
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(place, axis=0), axis=1)))
    some = np.flatnonzero(np.diff(np.floor(way / _SAMPLE_M), prepend=-1) > 0)
    tree, found = cKDTree(there), []
    for n, i in enumerate(some.tolist()):
        far = _BEYOND[n % len(_BEYOND)] * distance
        near = np.array(tree.query_ball_point(place[i], np.hypot(far + _OFF_M, _BESIDE_M)), np.int64)
        if not len(near):
            continue
        away = there[near] - place[i]
        along = away @ pose[i, :3, 2]
        beside = np.linalg.norm(away - along[:, None] * pose[i, :3, 2], axis=1)
        good = (other[near, :3, 2] @ pose[i, :3, 2] < _AGAINST) & (beside < _BESIDE_M)
        good &= np.abs(along - far) < _OFF_M
        if good.any():
            found.append((i, int(near[good][np.argmin(np.abs(along[good] - far))])))
    return found, len(found) * _SAMPLE_M
