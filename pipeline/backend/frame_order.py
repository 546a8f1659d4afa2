"""Whether a trajectory goes to and fro as no car drives: its frames were probably not in the order of time."""

from __future__ import annotations

import numpy as np

from pipeline.backend.sim3 import Array

_AROUND = 4  # frames before and after one that tell whether the car moves there
_MOVES = 0.25  # of what is usual: less is noise of a car that stands or creeps
_BACK = -0.5  # cosine between two steps from which on the second one goes back
_FEWEST = 4  # turns to and fro; a car that parks makes a few
_SHARE = 0.05  # of the steps that move
_SHORTEST = 8  # steps


def turned_back(positions: Array) -> tuple[int, ...]:
    """The places at which a trajectory turns back on itself, where there are too many of them for a car; else none.

    Args:
        positions: (n, 3), a row a frame, in order; any unit.

    Returns:
        Numbers of the frames from which a step leads back to where the step before came from.
    """
    steps = np.diff(positions, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    if len(steps) < _SHORTEST:
        return ()
    reach = np.zeros(len(positions))  # to the farthest frame around
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
