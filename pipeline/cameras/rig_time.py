"""Where a car is between two instants: cameras of a rig do not all take their pictures at the moment of the instant.

The car turns evenly and moves evenly in its own axes, so on an arc: at 1 m a step in a bend of 6 m radius the middle of
the chord is 2 cm beside it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

AT_ONCE = 0.05
"""Largest share of a step between two instants by which a picture is later than another one of the same place."""


def between(first: Array, second: Array, share: Array) -> Array:
    """Poses (n, 4, 4), world_from_camera, at shares (n,) of the way from `first` to `second` (n, 4, 4); below 0 and
    above 1 they go on beyond the two."""
    step = np.linalg.inv(first) @ second
    turn = _log(step[:, :3, :3])
    evenly = np.linalg.solve(turn_jacobian(turn), step[:, :3, 3:])
    part = np.tile(np.eye(4), (len(first), 1, 1))
    turned = share[:, None] * turn
    part[:, :3, :3] = _exp(turned)
    part[:, :3, 3:] = share[:, None, None] * turn_jacobian(turned) @ evenly
    return np.asarray(first @ part)


def turn_jacobian(turns: Array) -> Array:
    """The left Jacobians (n, 3, 3) of rotation vectors (n, 3): a body that turns evenly by `turn`, and moves evenly by
    `v` in its own axes, arrives at jacobian @ v."""
    angle = np.linalg.norm(turns, axis=1)[:, None, None]
    cross = cross_matrices(turns)
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    second = np.where(small, 1 / 6, (safe - np.sin(safe)) / safe**3)
    return np.asarray(np.eye(3) + first * cross + second * cross @ cross)


def cross_matrices(vectors: Array) -> Array:
    """The matrices (n, 3, 3) of cross products with vectors (n, 3)."""
    cross = np.zeros((len(vectors), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -vectors[:, 2], vectors[:, 1], -vectors[:, 0]
    return np.asarray(cross - cross.transpose(0, 2, 1))


def _exp(turns: Array) -> Array:
    return np.asarray(Rotation.from_rotvec(turns).as_matrix()).reshape(-1, 3, 3)


def _log(rotations: Array) -> Array:
    return np.asarray(Rotation.from_matrix(rotations).as_rotvec()).reshape(-1, 3)


def neighbours(number: Ints, usable: NDArray[np.bool_], late: float) -> tuple[Ints, Array]:
    """The rows (n,) of the instants towards which each one moves to be `late` steps later, and shares (n,) of the way.

    number (n,): of the instants, rising; usable (n,): which have a pose. The neighbour is the next instant, for a
    negative `late` the one before; where that is missing or not usable, it is the one on the other side, and the share
    is negative. Where both are, it is the instant itself.
    """
    count = len(number)
    row, share = np.arange(count), np.zeros(count)
    ahead = 1 if late > 0 else -1
    for side, part in ((-ahead, -abs(late)), (ahead, abs(late))):  # the second one replaces the first one
        other = np.arange(count) + side
        within = (other >= 0) & (other < count)
        near = np.clip(other, 0, count - 1)
        there = within & usable[near] & (number[near] == number + side)
        row[there], share[there] = near[there], part
    return row, share


def moved_on(world_from_camera: Array, number: Ints, usable: NDArray[np.bool_], late: float) -> Array:
    """Poses (n, 4, 4) of a trajectory `late` steps after each of its instants (`neighbours`), before them if it is
    negative. An instant without a usable neighbour, or that is not usable itself, keeps its pose."""
    row, share = neighbours(number, usable, late)
    moved = np.flatnonzero(usable & (share != 0))
    poses = world_from_camera.copy()
    if len(moved):
        poses[moved] = between(world_from_camera[moved], world_from_camera[row[moved]], share[moved])
    return poses
