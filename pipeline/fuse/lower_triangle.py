"""The lower triangle of a symmetric matrix in blocks of rows, and its partial Cholesky factorisation.

It takes little more than half the memory of the whole matrix, and no step of the factorisation needs a copy of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.fuse.drive_nodes import Array, Numbers


@dataclass(frozen=True, eq=False)
class LowerTriangle:
    """start (k + 1,): the first row of each of k blocks, and the number of rows; blocks: block n has the rows from
    start[n] on and the columns before start[n + 1]. Entries above the diagonal have no meaning."""

    start: Numbers
    blocks: list[Array]

    @staticmethod
    def zeros(start: Sequence[int]) -> LowerTriangle:
        """A matrix of zeros. start: as above."""
        return LowerTriangle(
            np.array(start, np.int64), [np.zeros((stop - first, stop)) for first, stop in pairwise(start)]
        )

    def put(self, row: Numbers, column: Numbers, entries: Array) -> None:
        """Set squares (m, w, w) of entries that do not lie above the diagonal's squares. row, column (m,): of each
        square, in squares; blocks of rows begin between squares."""
        width = entries.shape[1]
        order = np.argsort(row, kind="stable")
        ends = np.searchsorted(row[order] * width, self.start)
        for n, block in enumerate(self.blocks):
            some = order[ends[n] : ends[n + 1]]
            squares = block.reshape(len(block) // width, width, -1, width)
            squares[row[some] - self.start[n] // width, :, column[some]] = entries[some]

    def add(self, other: LowerTriangle, at: Numbers) -> None:
        """Add another matrix, whose row and column n is the row and column at[n], rising, of this one."""
        for first, block in zip(other.start[:-1].tolist(), other.blocks, strict=True):
            rows = at[first : first + len(block)]
            ends = np.searchsorted(rows, self.start)
            for n in np.flatnonzero(np.diff(ends)).tolist():
                some = slice(int(ends[n]), int(ends[n + 1]))
                columns = at[: first + some.stop]  # those after the last of these rows lie above the diagonal
                self.blocks[n][(rows[some] - self.start[n])[:, None], columns] += block[some, : len(columns)]

    def eliminated(self, count: int) -> Iterator[tuple[Array, Array]]:
        """Eliminate the first `count` blocks of rows. Yields for each the inverse (w, w) of its diagonal block of the
        factor, a lower triangle, and the rows (m, w) of the factor below it. What is left of the matrix is in the
        other blocks. Raises numpy.linalg.LinAlgError if the matrix is not positive definite."""
        for n in range(count):
            first, stop = int(self.start[n]), int(self.start[n + 1])
            inverse = np.linalg.inv(np.linalg.cholesky(self.blocks[n][:, first:]))
            self.blocks[n] = np.zeros((0, 0))
            later = self.blocks[n + 1 :]
            below = np.concatenate([np.zeros((0, stop - first)), *(block[:, first:stop] for block in later)])
            below = below @ inverse.T
            for block, high in zip(later, (self.start[n + 2 :] - stop).tolist(), strict=True):
                block[:, stop:] -= below[high - len(block) : high] @ below[:high].T
            yield inverse, below

    def rest(self, count: int) -> LowerTriangle:
        """The rows and columns after the first `count` blocks, which were eliminated. Frees this matrix."""
        first = self.start[count]
        del self.blocks[:count]
        blocks: list[Array] = []
        while self.blocks:
            blocks.append(self.blocks.pop(0)[:, first:].copy())
        return LowerTriangle(self.start[count:] - first, blocks)
