"""Candidates between parts of a city that no link joins: the frames of each pair of drives that are most alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from pipeline.fuse.candidates import Candidate, Floats, Numbers
from pipeline.fuse.placement import Placement

_APART = 2  # samples: two candidates of a pair of drives are farther apart in the first one


def by_drive(chosen: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    """The frames of each drive among pairs of drive and frame, drives in rising order."""
    of: dict[int, list[int]] = defaultdict(list)
    for n, place in chosen:
        of[n].append(place)
    return {n: of[n] for n in sorted(of)}


def part_of(placements: Sequence[Placement], drive: Numbers) -> Numbers:
    """The number of the part of the city that each of the drives (m,) belongs to."""
    part = {name: k for k, name in enumerate(sorted({one.frame for one in placements}))}
    return np.array([part[placements[n].frame] for n in drive], np.int64)


def most_alike(
    similar: Floats,
    drive: Numbers,
    frame: Numbers,
    part: Numbers,
    per_pair: int,
    least: float,
    by: str,
    opposite: bool = False,
) -> list[Candidate]:
    """Candidates of each pair of drives in different parts: their most similar frames.

    Args:
        similar: (m, m) similarity of frames, symmetric.
        drive, frame, part: (m,) of each frame, drives in rising order.
        per_pair: most candidates of a pair of drives.
        least: similarity of a candidate.
        by, opposite: as in Candidate.
    """
    made: list[Candidate] = []
    names, begins = np.unique(drive, return_index=True)
    ends = np.append(begins[1:], len(drive))[: len(names)]
    for a, (first, stop) in enumerate(zip(begins, ends, strict=True)):
        for b in range(a + 1, len(names)):
            if part[first] == part[begins[b]]:
                continue
            block = similar[first:stop, begins[b] : ends[b]]
            taken: list[int] = []
            for at in np.argsort(-block, axis=None, kind="stable")[: 8 * per_pair].tolist():
                i, j = divmod(at, block.shape[1])
                if len(taken) == per_pair or block[i, j] < least:
                    break
                if all(abs(i - k) > _APART for k in taken):
                    taken.append(i)
                    both = int(names[a]), int(frame[first + i]), int(names[b]), int(frame[begins[b] + j])
                    made.append(Candidate(*both, float(block[i, j]), by, opposite))
    return made
