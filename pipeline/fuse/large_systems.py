"""Normal equations of a whole city, factorised by areas, in threads or in tasks, and solved again with the same factor.

Each area leaves a dense matrix on its border (multifrontal method; Duff and Reid 1983), so nearly all work is products
of dense matrices, of which only the lower triangles are stored. The factor is stored in single precision. It is the
preconditioner of conjugate gradients, which find the solution in double precision, also of equations that changed a
little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.fuse.dissection import Order, Part, order_of
from pipeline.fuse.drive_nodes import Array, Numbers
from pipeline.fuse.lower_triangle import LowerTriangle

_PANEL = 210  # most unknowns that are eliminated with one product of matrices, all of those of some chunks
_THREADS = 2
_WIDTH = 7  # unknowns of a chunk
_ACCURACY = 1e-5  # error of a solution, as a share of it, in the norm of the equations
# Most iterations with the factor of earlier equations, and with their own; least before they are given up.
_SOON, _MOST, _TRIED = 25, 400, 6
# With fewer chunks areas are not shipped to tasks; most chunks of an area that is.
_SHIPPED, _AREA = 6_000, 1_500
_DAMPED = (0.0, 1e-12, 1e-9, 1e-6)  # shares added to the diagonal until a factor exists


MapAreas = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Sequence[Any]]  # a generic function
"""Calls a function with each of some tuples of arguments and returns the results in their order, for example in tasks
of a cluster. The function, its arguments and its results can be pickled."""


@dataclass(frozen=True, eq=False)
class _Panel:
    """Some eliminated unknowns. own (w, w): inverse of their block of the factor, a lower triangle; below (m, w): the
    rest of the factor's columns; at, rows (m,): numbers of the unknowns in the order of elimination."""

    own: NDArray[np.float32]
    below: NDArray[np.float32]
    at: slice
    rows: Numbers


@dataclass(frozen=True, eq=False)
class _Rows:
    """Consecutive block rows of a matrix, in the order of elimination, from the one with number `first` on. start,
    count (m,): where the blocks of each row are in column (n,), the number of each block's column, and in block
    (n, 7, 7)."""

    first: int
    start: Numbers
    count: Numbers
    column: Numbers
    block: Array

    @staticmethod
    def of(blocks: scipy.sparse.bsr_matrix, order: Numbers) -> _Rows:
        """All rows of a matrix, whose blocks are not copied."""
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        count = np.diff(blocks.indptr)
        return _Rows(0, blocks.indptr[order].astype(np.int64), count[order], rank[blocks.indices], blocks.data)

    def _places(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """The index in `rows` and the place of each of their blocks."""
        start, count = self.start[rows - self.first], self.count[rows - self.first]
        row = np.repeat(np.arange(len(rows)), count)
        return row, np.arange(len(row)) + np.repeat(start - count.cumsum() + count, count)

    def some(self, first: int, stop: int) -> _Rows:
        """A copy of the rows from `first` to before `stop`."""
        _, places = self._places(np.arange(first, stop))
        count = self.count[first - self.first : stop - self.first]
        return _Rows(first, count.cumsum() - count, count, self.column[places], self.block[places])

    def entries(self, part: Part) -> LowerTriangle:
        """The entries of a part's own rows, mirrored, in the columns of its own chunks and the rows of these and its
        border. The blocks of rows are panels."""
        every = np.concatenate([part.own, part.border])
        own = len(part.own) * _WIDTH
        start = [*range(0, own, _PANEL), *range(own, len(every) * _WIDTH, _PANEL), len(every) * _WIDTH]
        entries = LowerTriangle.zeros(start)
        if len(part.own):
            row, which = self._places(part.own)
            column = self.column[which]
            at = np.minimum(np.searchsorted(every, column), len(every) - 1)
            known = (every[at] == column) & (at >= row)  # the others were eliminated before, or are above the diagonal
            entries.put(at[known], row[known], self.block[which[known]].transpose(0, 2, 1))
        return entries


class _Elimination:
    """Eliminates parts of a matrix. parts: by number; left: the matrices that eliminated areas left on their borders,
    by number; panels: by number of the part."""

    def __init__(self, rows: _Rows, parts: Mapping[int, Part] | Sequence[Part]) -> None:
        self._rows, self._parts = rows, parts
        self.left: dict[int, LowerTriangle] = {}
        self.panels: dict[int, list[_Panel]] = {}

    def run(self, number: int, pool: ThreadPoolExecutor | None = None) -> LowerTriangle:
        """Eliminate a part and its areas. Returns the matrix that is left on its border. pool: eliminates the second
        area at the same time as the first."""
        if number in self.left:
            return self.left.pop(number)
        part = self._parts[number]
        left = self._left_by(part.areas, pool)
        unknowns = _unknowns(np.concatenate([part.own, part.border]))
        front = self._rows.entries(part)
        while left:
            area = self._parts[part.areas[len(left) - 1]]
            front.add(left.pop(), np.searchsorted(unknowns, _unknowns(area.border)))
        count = -(-len(part.own) * _WIDTH // _PANEL)
        panels = self.panels[number] = []
        for (inverse, below), start in zip(front.eliminated(count), front.start[:count].tolist(), strict=True):
            stop = start + len(inverse)
            here = slice(int(unknowns[start]), int(unknowns[start]) + stop - start)
            panels.append(_Panel(inverse.astype(np.float32), below.astype(np.float32), here, unknowns[stop:]))
        return front.rest(count)

    def _left_by(self, areas: Sequence[int], pool: ThreadPoolExecutor | None) -> list[LowerTriangle]:
        """What these areas leave on their borders."""
        if pool is not None and len(areas) == 2:
            second: Future[LowerTriangle] = pool.submit(self.run, areas[1])
            return [self.run(areas[0]), second.result()]
        return [self.run(area) for area in areas]


def eliminated_area(
    rows: _Rows, parts: Mapping[int, Part], number: int
) -> tuple[LowerTriangle, dict[int, list[_Panel]]]:
    """An area of a large system, eliminated alone. rows: of its chunks; parts: those of the area, by number; number: of
    the last one. Returns the matrix that is left on its border, and the panels of each part."""
    work = _Elimination(rows, parts)
    return work.run(number), work.panels


def _shipped(order: Order) -> list[tuple[int, dict[int, Part]]]:
    """The largest areas of at most 1,500 chunks: each one's last part, and all of its parts by number."""
    found: list[tuple[int, dict[int, Part]]] = []
    open_ones = list(order.ends)
    while open_ones:
        number = open_ones.pop()
        below = [number]
        for one in below:
            below.extend(order.parts[one].areas)
        if sum(len(order.parts[one].own) for one in below) <= _AREA:
            found.append((number, {one: order.parts[one] for one in below}))
        else:
            open_ones.extend(order.parts[number].areas)
    return found


class Factor:
    """The Cholesky factor of a symmetric positive definite matrix (7 n, 7 n) of n chunks at `place` (n, 3).

    map_areas: with 6,000 chunks and more, areas are eliminated by it; None: by two threads. What the areas leave on
    their borders is eliminated here. Raises numpy.linalg.LinAlgError if the matrix is not positive definite.
    """

    def __init__(self, matrix: scipy.sparse.sparray, place: Array, map_areas: MapAreas | None = None) -> None:
        blocks = scipy.sparse.bsr_matrix(matrix, blocksize=(_WIDTH, _WIDTH))
        order = order_of(_pattern(blocks), place)
        self._order = _unknowns(order.order)
        rows = _Rows.of(blocks, order.order)
        work = _Elimination(rows, order.parts)
        if map_areas is not None and len(order.order) >= _SHIPPED:
            areas = _shipped(order)
            spans = [[one.own for one in parts.values() if len(one.own)] for _, parts in areas]
            asked = [
                (rows.some(min(int(own[0]) for own in span), max(int(own[-1]) for own in span) + 1), parts, number)
                for (number, parts), span in zip(areas, spans, strict=True)
            ]
            for (number, _), (left, panels) in zip(areas, map_areas(eliminated_area, asked), strict=True):
                work.left[number] = left
                work.panels |= panels
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="areas") as pool:
            for end in order.ends:
                work.run(end, pool)
        self._panels = [one for number in range(len(order.parts)) for one in work.panels[number]]

    def solve(self, right: Array) -> Array:
        """The solution (7 n,) of matrix @ solution = right, in single precision."""
        value = np.asarray(right, np.float32)[self._order]
        for one in self._panels:
            value[one.at] = one.own @ value[one.at]
            value[one.rows] -= one.below @ value[one.at]
        for one in reversed(self._panels):
            value[one.at] = one.own.T @ (value[one.at] - one.below.T @ value[one.rows])
        answer = np.empty(len(value))
        answer[self._order] = value
        return answer


class LargeSystem:
    """Solves equations of the same n chunks many times, e.g. for the steps of Gauss-Newton, or after some links
    changed. A new factor is computed only where the earlier one would need more than 25 iterations. map_areas: as in
    Factor."""

    def __init__(self, map_areas: MapAreas | None = None) -> None:
        self._factor: Factor | None = None
        self._map_areas = map_areas

    def solve(
        self,
        product: Callable[[Array], Array],
        matrix: Callable[[], scipy.sparse.sparray],
        right: Array,
        place: Array,
    ) -> Array:
        """The solution (7 n,) of matrix @ solution = right (7 n,). product: of the matrix and a vector; matrix: made
        only where a new factor is needed; place (n, 3): of the chunks."""
        if self._factor is not None:
            found, good = _iterated(product, self._factor, right, _SOON)
            if good:
                return found
        self._factor = None  # its memory is free while the new one is made
        self._factor = _factor_of(matrix(), place, self._map_areas)
        return _iterated(product, self._factor, right, _MOST)[0]


def _factor_of(matrix: scipy.sparse.sparray, place: Array, map_areas: MapAreas | None) -> Factor:
    for share in _DAMPED:
        try:
            more = scipy.sparse.diags_array(share * matrix.diagonal(), format="csr") if share else None
            return Factor(matrix if more is None else matrix + more, place, map_areas)
        except np.linalg.LinAlgError:
            continue  # rounding made it indefinite; iterations correct what is added
    raise np.linalg.LinAlgError("the equations of the city are not positive definite")


def _iterated(product: Callable[[Array], Array], factor: Factor, right: Array, most: int) -> tuple[Array, bool]:
    """Conjugate gradients: the solution, and whether it is accurate. They end early where `most` will not be enough."""
    found, residual = np.zeros_like(right), right.copy()
    towards = direction = factor.solve(residual)
    size = begin = float(residual @ towards)
    for done in range(most):
        if size <= _ACCURACY**2 * begin:
            return found, True
        if done >= _TRIED and size > begin * _ACCURACY ** (2 * done / most):
            break
        image = product(direction)
        length = size / float(direction @ image)
        found += length * direction
        residual -= length * image
        towards = factor.solve(residual)
        size, before = float(residual @ towards), size
        direction = towards + size / before * direction
    return found, size <= _ACCURACY**2 * begin


def _unknowns(chunks: Numbers) -> Numbers:
    return (chunks[:, None] * _WIDTH + np.arange(_WIDTH)).ravel()


def _pattern(blocks: scipy.sparse.bsr_matrix) -> scipy.sparse.csr_matrix:
    """Which chunks (n, n) have entries in common."""
    count = blocks.shape[0] // _WIDTH
    entries = (np.ones(len(blocks.indices), np.float32), blocks.indices, blocks.indptr)
    return scipy.sparse.csr_matrix(entries, shape=(count, count))
