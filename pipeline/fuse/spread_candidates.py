"""Chooses candidates so that those of each drive are spread evenly over its way, whichever drives they join it to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.fuse.candidates import Array, Candidate, Numbers

_MOST_PLACES = 64  # of a pair of drives, among which is chosen


@dataclass(frozen=True, eq=False)
class SharedRoad:
    """Where two drives could be compared. first, second: drives; first_frame, second_frame (n,): indices of the frames
    of each in `Ways`; opposite (n,): whether they go in opposite directions there; length: metres of road in common."""

    first: int
    second: int
    first_frame: Numbers
    second_frame: Numbers
    opposite: NDArray[np.bool_]
    length: float

    def thinned(self) -> SharedRoad:
        """At most 64 of its places."""
        kept = np.unique(np.linspace(0, len(self.first_frame) - 1, _MOST_PLACES).round().astype(np.int64))
        return SharedRoad(
            self.first,
            self.second,
            self.first_frame[kept],
            self.second_frame[kept],
            self.opposite[kept],
            self.length,
        )


class Ways:
    """The ways of the drives. place: positions (n, 3) of each drive's frames, metres; frame (n,): their indices in the
    drive's arrays; along (n,): metres from the first one; tree: of each drive's positions."""

    def __init__(self, place: Sequence[Array], frame: Sequence[Numbers]) -> None:
        self.place, self.frame = place, frame
        self.along = [
            np.append(0.0, np.cumsum(np.linalg.norm(np.diff(one, axis=0), axis=1)))[: len(one)] for one in place
        ]
        self._trees: dict[int, cKDTree] = {}

    def tree(self, drive: int) -> cKDTree:
        """The search tree of a drive's positions, made when it is first needed."""
        if drive not in self._trees:
            self._trees[drive] = cKDTree(self.place[drive])
        return self._trees[drive]

    def metres(self, drive: int, frame: int) -> float:
        """Metres along a drive to a frame, given by its index in the drive's arrays."""
        return float(np.interp(frame, self.frame[drive], self.along[drive]))


def spread_candidates(
    shared: Sequence[SharedRoad],
    ways: Ways,
    known: Sequence[Candidate],
    linked: Sequence[bool],
    per_pair: int,
    budget: int,
    apart_m: float,
    by: str,
) -> list[Candidate]:
    """Candidates of drives with a road in common. Each pair gets its first one before any gets a second, those with the
    longest common road first; each is where both drives are farthest from their other links.

    Args:
        shared: one for each pair of drives.
        known: candidates so far of this kind; linked: which of them became links. All count for `per_pair` and
            `budget`; those that failed show where nothing holds a drive yet.
        per_pair: most candidates of a pair; budget: most of a drive.
        apart_m: least metres between two candidates of a pair along the first drive.
        by: of Candidate.
    """
    of_pair: dict[tuple[int, int], list[float]] = defaultdict(list)
    held: dict[int, list[float]] = defaultdict(list)
    used: Counter[int] = Counter()
    for one, good in zip(known, linked, strict=True):
        ends = ways.metres(one.first, one.first_frame), ways.metres(one.second, one.second_frame)
        of_pair[one.first, one.second].append(ends[0])
        used.update((one.first, one.second))
        if good:
            held[one.first].append(ends[0])
            held[one.second].append(ends[1])
    made: list[Candidate] = []
    order = sorted(shared, key=lambda one: (-one.length, one.first, one.second))
    for turn in range(min(per_pair, budget)):
        before = len(made)
        for road in order:
            a, b = road.first, road.second
            mine = of_pair[a, b]
            if len(mine) > turn or max(used[a], used[b]) >= budget:
                continue
            here, there = ways.along[a][road.first_frame], ways.along[b][road.second_frame]
            gain = _distance(here, held[a]) + _distance(there, held[b])
            gain[_distance(here, mine) < apart_m] = -1.0
            best = int(gain.argmax())
            if gain[best] < 0:
                continue
            i, j = int(ways.frame[a][road.first_frame[best]]), int(ways.frame[b][road.second_frame[best]])
            made.append(Candidate(a, i, b, j, road.length, by, bool(road.opposite[best])))
            mine.append(float(here[best]))
            held[a].append(float(here[best]))
            held[b].append(float(there[best]))
            used.update((a, b))
        if len(made) == before and all(len(mine) <= turn for mine in of_pair.values()):
            break
    return sorted(made)


def _distance(along: Array, others: Sequence[float]) -> Array:
    """Distances (n,) of places `along` a way, metres, from the nearest of others; the most that a way can have without
    any."""
    if not others:
        return np.full(len(along), 1e4)
    return np.asarray(np.abs(along[:, None] - np.array(others)).min(1))
