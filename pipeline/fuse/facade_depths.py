"""Depths of facades by the steps of their own drive: features of two frames of it, triangulated.

Dense depth at the sides of a picture is often some percent longer or shorter than the steps of its drive. Links between
opposite directions see only a short part of a street, and their scale would have that error.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import cross_matrix
from pipeline.fuse.side_views import BothSides
from pipeline.fuse.two_drives import Look, matches

Array = NDArray[np.float64]

STEP_SHARE = 0.2  # of the facades' depth: distance between both frames
_AWAY_PX = 1.5  # pixels: largest distance from the epipolar line
_LEAST_ANGLE = np.radians(1.0)  # between both rays
_LEAST = 10  # features of both sides that are needed
_RATIO = 0.3  # largest log ratio of a depth by steps and by points, relative to the frame's usual ratio


def two_view(rotation: Array, shift: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Distances from the epipolar line (Sampson; as tangents), and depths in both cameras at which rays are nearest.

    rotation (3, 3), shift (3,): second_from_first; first, second (m, 3): rays with z = 1. Depths have the shift's unit.
    """
    essential = cross_matrix(shift[None])[0] @ rotation
    line, back = first @ essential.T, second @ essential
    norm = np.sqrt((line[:, :2] ** 2).sum(1) + (back[:, :2] ** 2).sum(1) + 1e-30)
    one = first @ rotation.T
    # Depths a, b that bring a * one + shift next to b * second.
    squared, both, other = (one * one).sum(1), (one * second).sum(1), (second * second).sum(1)
    along, beside = one @ shift, second @ shift
    size = np.maximum(squared * other - both**2, 1e-12)
    a, b = (both * beside - other * along) / size, (squared * beside - both * along) / size
    return np.asarray((line * second).sum(1) / norm), np.asarray(a), np.asarray(b)


def facade_depth(seen: BothSides) -> float:
    """The median depth of a frame's features, NaN without depths."""
    depth = np.concatenate([seen.right.depth, seen.left.depth])
    depth = depth[np.isfinite(depth)]
    return float(np.median(depth)) if len(depth) else float("nan")


def by_steps(seen: BothSides, other: BothSides, other_from_seen: Array) -> BothSides:
    """A frame whose features have depths by the steps of its drive. other: another frame of the drive; other_from_seen
    (4, 4): by the drive's poses. Features that the other frame does not show have the depth of the points, multiplied
    by the usual ratio. Without ten features in both frames nothing changes."""
    sides = [(one, _triangulated(one, two, other_from_seen)) for one, two in _sides(seen, other)]
    logs = [np.log(depth) - np.log(one.depth) for one, depth in sides]
    known = np.concatenate(logs)
    known = known[np.isfinite(known)]
    if len(known) < _LEAST:
        return seen
    usual = float(np.median(known))
    made = []
    for (one, depth), log in zip(sides, logs, strict=True):
        # A feature without points has nothing that confirms its match.
        good = np.abs(log - usual) < _RATIO
        made.append(replace(one, depth=np.where(good, depth, one.depth * np.exp(usual))))
    return replace(seen, right=made[0], left=made[1])


def _sides(seen: BothSides, other: BothSides) -> tuple[tuple[Look, Look], tuple[Look, Look]]:
    return (seen.right, other.right), (seen.left, other.left)


def _triangulated(one: Look, two: Look, other_from_seen: Array) -> Array:
    """Depths (n,) of the features of `one`, NaN where unknown."""
    depth = np.full(len(one.depth), np.nan)
    i, j = matches(one.descriptor, two.descriptor)
    rotation, shift = other_from_seen[:3, :3], other_from_seen[:3, 3]
    away, a, b = two_view(rotation, shift, one.ray[i], two.ray[j])
    turned = one.ray[i] @ rotation.T
    angle = np.linalg.norm(np.cross(turned, two.ray[j]), axis=1)
    angle /= np.linalg.norm(turned, axis=1) * np.linalg.norm(two.ray[j], axis=1)
    good = (np.abs(away) * one.focal < _AWAY_PX) & (a > 0) & (b > 0) & (angle > np.sin(_LEAST_ANGLE))
    depth[i[good]] = a[good]
    return depth
