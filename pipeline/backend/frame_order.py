"""Finds trajectories that reverse direction more often than a car does: their frames were probably out of order."""

from __future__ import annotations

import numpy as np

from pipeline.backend.sim3 import Array

_AROUND = 4  # frames before and after, within which a motion shows that the car drives
_MOVES = 0.25  # share of the usual motion; less counts as noise of a car that stands
_BACK = -0.5  # cosine between two motions, below which the second one goes back
_FEWEST = 4  # reversals; a car that parks makes a few
_SHARE = 0.05  # of the motions between frames
_SHORTEST = 8  # motions between frames; shorter drives are not judged


def turned_back(positions: Array) -> tuple[int, ...]:
    """The frames at which a trajectory reverses direction, if there are too many of them for a car; else none.

    Args:
        positions: (n, 3), one row per frame, in order; any unit.

    Returns:
        Row numbers of the frames after which the motion goes back towards where it came from.
    """
    steps = np.diff(positions, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if len(steps) < _SHORTEST:
        return ()
    reach = np.zeros(len(positions))  # distance to the farthest of the frames around
    for apart in range(1, _AROUND + 1):
        distance = np.linalg.norm(positions[apart:] - positions[:-apart], axis=1)
        reach[apart:] = np.maximum(reach[apart:], distance)
        reach[:-apart] = np.maximum(reach[:-apart], distance)
    drives = (reach > _MOVES * np.quantile(reach, 0.9))[1:]
    if not drives.any():
        return ()
    moves = drives & (lengths > _MOVES * np.median(lengths[drives]))
    both = moves[1:] & moves[:-1]
    products = np.einsum("ni,ni->n", steps[1:], steps[:-1])
    back = both & (products < _BACK * lengths[1:] * lengths[:-1])
    places = np.flatnonzero(back) + 1
    return tuple(map(int, places)) if len(places) >= max(_FEWEST, _SHARE * both.sum()) else ()
