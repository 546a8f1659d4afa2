"""Keeps one point in each cube: the most confident of a shard, and none if an earlier shard has one already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Cubes on an axis, so 2^20 on each side of the origin: 100 km for cubes of 0.1. Points beyond share the last cube.
_BITS = 21


def voxel_keys(xyz: NDArray[np.floating], size: float) -> NDArray[np.int64]:
    """The number (n,) of the cube of side `size` that each point of xyz (3, n) lies in; cubes meet at the
    origin."""
    keys = np.zeros(xyz.shape[1], np.int64)
    half = 1 << (_BITS - 1)
    for axis in range(3):
        cell = np.clip(np.floor(xyz[axis].astype(np.float64) / size), -half, half - 1).astype(np.int64)
        keys = (keys << _BITS) | (cell + half)
    return keys


def own_voxel_keys(xyz: NDArray[np.floating], size: float) -> NDArray[np.int64]:
    """As `voxel_keys`, of the same cubes, but numbered from the lowest of these points: only keys of one call can be
    compared, wherever the points are."""
    if not xyz.shape[1]:
        return np.zeros(0, np.int64)
    cube = np.floor(xyz.astype(np.float64) / size)
    return voxel_keys(cube - cube.min(axis=1, keepdims=True), 1.0)


def best_of_each(
    keys: NDArray[np.int64], confidence: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For keys (n,) and finite confidences (n,): the different keys, rising, and for each key the index of its most
    confident point (the first of equal ones)."""
    if not len(keys):
        return keys, np.empty(0, np.int64)
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(keys)]]))
    confidence = confidence[order]
    is_best = confidence == np.repeat(np.maximum.reduceat(confidence, starts), counts)
    places = np.minimum.reduceat(np.where(is_best, order, len(keys)), starts)
    return ordered[starts], places


class VoxelFilter:
    """Thins points to one in each cube; it remembers occupied cubes in bounded memory.

    size: side of a cube; memory: the most cubes that are remembered. They are in two sets of memory / 2: when the newer
    set is full, the older one is forgotten, so that at least the last memory / 2 published cubes are known.
    """

    def __init__(self, size: float, memory: int) -> None:
        self._size = size
        self._generation = memory // 2
        self._young = np.empty(0, np.int64)
        self._old = np.empty(0, np.int64)

    def keep(self, xyz: NDArray[np.float32], confidence: NDArray[np.float32]) -> NDArray[np.int64]:
        """Indices, rising, of the points of one shard to keep: xyz (3, n), confidence (n,)."""
        keys, places = best_of_each(voxel_keys(xyz, self._size), confidence)
        fresh = ~(_holds(self._young, keys) | _holds(self._old, keys))
        return np.sort(places[fresh])

    def remember(self, xyz: NDArray[np.float32]) -> None:
        """Remember the cubes of these points as occupied; all cubes of one call are remembered."""
        keys = _distinct(voxel_keys(xyz, self._size))
        if len(self._young) and len(self._young) + len(keys) > self._generation:
            self._old, self._young = self._young, keys
        else:
            self._young = _distinct(np.concatenate([self._young, keys]))


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The different keys, rising, found by sorting: np.unique's hashing takes some fifty times as long here."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _holds(known: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For rising `known` and `keys`: which keys are known, (n,) bool."""
    if not len(known):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[places] == keys
