"""Sorts points along the Morton (Z) curve, so that points that are near in space are near in a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# On each axis; three of them fit into a 64-bit code. One far outlier leaves enough bits to sort the other points.
BITS = 21
_BLOCK = 1 << 16  # points coded at a time, so that intermediate arrays stay in the cache

# _SPREAD[v] has bit i of v at bit 3 i, for 11-bit v: a 21-bit number is spread by two look-ups.
_SPREAD = np.zeros(1 << 11, np.uint64)
for _bit in range(11):
    _SPREAD |= ((np.arange(1 << 11, dtype=np.uint64) >> np.uint64(_bit)) & np.uint64(1)) << np.uint64(3 * _bit)


def interleave(cells: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Morton codes (n,) of cells (3, n), integers in [0, 2^21): bit i of x, y, z is bit 3i, 3i + 1, 3i + 2."""
    code = np.zeros(cells.shape[1], np.uint64)
    for axis in range(3):
        low = _SPREAD[cells[axis] & 0x7FF]
        high = _SPREAD[cells[axis] >> 11]
        code |= (low | high << np.uint64(33)) << np.uint64(axis)
    return code


def morton_codes(xyz: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Morton codes (n,) of points xyz (3, n) on a grid of cubes: 2^21 of them along the longest side of the points'
    box."""
    codes = np.empty(xyz.shape[1], np.uint64)
    if not codes.size:
        return codes
    low = xyz.min(axis=1).astype(np.float64)
    side = float((xyz.max(axis=1).astype(np.float64) - low).max())
    cells_per_unit = ((1 << BITS) - 1) / side if side > 0 else 0.0
    for start in range(0, xyz.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        cells = ((xyz[:, block] - low[:, None]) * cells_per_unit).astype(np.int64)
        codes[block] = interleave(cells)
    return codes


def morton_order(xyz: NDArray[np.float32]) -> NDArray[np.int64]:
    """The permutation (n,) that sorts points xyz (3, n) along the curve."""
    return np.argsort(morton_codes(xyz))
