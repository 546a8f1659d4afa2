"""Sums small dense blocks into the sparse matrix and the gradient of normal equations."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array


class BlockSums:
    """A square sparse matrix and a gradient (count, width), for count * width unknowns, to which terms are added."""

    def __init__(self, count: int, width: int) -> None:
        self.gradient = np.zeros((count, width))
        self._rows: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._values: list[Array] = []

    def add(self, index: NDArray[np.int64], blocks: Array, gradient: Array | None = None) -> None:
        """Add blocks (n, k, k) to the matrix, and parts (n, k) to the gradient, at the unknowns `index` (n, k)."""
        wide = index.shape[1]
        self._rows.append(np.repeat(index, wide, axis=1).ravel())
        self._columns.append(np.tile(index, (1, wide)).ravel())
        self._values.append(blocks.ravel())
        if gradient is not None:
            np.add.at(self.gradient.reshape(-1), index.ravel(), gradient.ravel())

    def matrix(self) -> scipy.sparse.csc_matrix:
        """The sum of all blocks."""
        size = self.gradient.size
        places = np.concatenate(self._rows), np.concatenate(self._columns)
        return scipy.sparse.csc_matrix((np.concatenate(self._values), places), shape=(size, size))
