"""Normal equations of a whole city, factorised by areas, with two threads, and solved again with the same factor.

Each area leaves a dense matrix on its border (multifrontal method; Duff and Reid 1983), so nearly all work is products
of dense matrices. The factor is stored in single precision. It is the preconditioner of conjugate gradients, which find
the solution in double precision, also of equations that changed a little.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.fuse.dissection import Part, order_of
from pipeline.fuse.drive_nodes import Array, Numbers

_PANEL = 210  # most unknowns that are eliminated with one product of matrices
_THREADS = 2
_WIDTH = 7  # unknowns of a chunk
_ACCURACY = 1e-5  # error of a solution, as a share of it, in the norm of the equations
# Most iterations with the factor of earlier equations, and with their own; least before they are given up.
_SOON, _MOST, _TRIED = 25, 400, 6
_DAMPED = (0.0, 1e-12, 1e-9, 1e-6)  # shares added to the diagonal until a factor exists


@dataclass(frozen=True, eq=False)
class _Panel:
    """Some eliminated unknowns. own (w, w): inverse of their block of the factor, a lower triangle; below (m, w): the
    rest of the factor's columns; at, rows (m,): numbers of the unknowns in the order of elimination."""

    own: NDArray[np.float32]
    below: NDArray[np.float32]
    at: slice
    rows: Numbers


class Factor:
    """The Cholesky factor of a symmetric positive definite matrix (7 n, 7 n) of n chunks at `place` (n, 3). Raises
    numpy.linalg.LinAlgError if the matrix is not positive definite."""

    def __init__(self, matrix: scipy.sparse.sparray, place: Array) -> None:
        blocks = scipy.sparse.bsr_matrix(matrix, blocksize=(_WIDTH, _WIDTH))
        order = order_of(_pattern(blocks), place)
        self._parts = order.parts
        self._chunks = order.order
        self._rank = np.empty_like(order.order)
        self._rank[order.order] = np.arange(len(order.order))
        self._order = _unknowns(order.order)
        self._panels: list[list[_Panel]] = [[] for _ in order.parts]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="areas") as pool:
            for end in order.ends:
                self._eliminated(blocks, end, pool)

    def _eliminated(
        self, blocks: scipy.sparse.bsr_matrix, number: int, pool: ThreadPoolExecutor | None = None
    ) -> Array:
        """Eliminate a part and its areas. Returns the matrix that is left on its border. pool: eliminates the second
        area at the same time as the first."""
        part = self._parts[number]
        if pool is not None and len(part.areas) == 2:
            second: Future[Array] = pool.submit(self._eliminated, blocks, part.areas[1])
            left = [self._eliminated(blocks, part.areas[0]), second.result()]
        else:
            left = [self._eliminated(blocks, area) for area in part.areas]
        own = len(part.own) * _WIDTH
        unknowns = _unknowns(np.concatenate([part.own, part.border]))
        dense = self._entries(blocks, part)
        while left:
            at = np.searchsorted(unknowns, _unknowns(self._parts[part.areas[len(left) - 1]].border))
            dense[at[:, None], at] += left.pop()
        for start in range(0, own, _PANEL):
            stop = min(start + _PANEL, own)
            inverse = np.linalg.inv(np.linalg.cholesky(dense[start:stop, start:stop]))
            below = dense[stop:, start:stop] @ inverse.T
            dense[stop:, stop:] -= below @ below.T
            here = slice(int(unknowns[start]), int(unknowns[start]) + stop - start)
            panel = _Panel(inverse.astype(np.float32), below.astype(np.float32), here, unknowns[stop:])
            self._panels[number].append(panel)
        return dense[own:, own:].copy()

    def _entries(self, blocks: scipy.sparse.bsr_matrix, part: Part) -> Array:
        """The entries of a part's own rows, in the columns and, mirrored, in the rows of its own chunks and its
        border."""
        every = np.concatenate([part.own, part.border])
        dense = np.zeros((len(every), _WIDTH, len(every), _WIDTH))
        if len(part.own):
            mine = self._chunks[part.own]
            count = blocks.indptr[mine + 1] - blocks.indptr[mine]
            row = np.repeat(np.arange(len(mine)), count)
            which = np.arange(len(row)) + np.repeat(blocks.indptr[mine] - count.cumsum() + count, count)
            column = self._rank[blocks.indices[which]]
            at = np.minimum(np.searchsorted(every, column), len(every) - 1)
            known = every[at] == column  # the others were eliminated before
            dense[at[known], :, row[known], :] = blocks.data[which[known]].transpose(0, 2, 1)
        return dense.reshape((len(every) * _WIDTH,) * 2)

    def solve(self, right: Array) -> Array:
        """The solution (7 n,) of matrix @ solution = right, in single precision."""
        value = np.asarray(right, np.float32)[self._order]
        panels = [one for part in self._panels for one in part]
        for one in panels:
            value[one.at] = one.own @ value[one.at]
            value[one.rows] -= one.below @ value[one.at]
        for one in reversed(panels):
            value[one.at] = one.own.T @ (value[one.at] - one.below.T @ value[one.rows])
        answer = np.empty(len(value))
        answer[self._order] = value
        return answer


class LargeSystem:
    """Solves equations of the same n chunks many times, e.g. for the steps of Gauss-Newton, or after some links
    changed. A new factor is computed only where the earlier one would need more than 25 iterations."""

    def __init__(self) -> None:
        self._factor: Factor | None = None

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
        self._factor = _factor_of(matrix(), place)
        return _iterated(product, self._factor, right, _MOST)[0]


def _factor_of(matrix: scipy.sparse.sparray, place: Array) -> Factor:
    for share in _DAMPED:
        try:
            more = scipy.sparse.diags_array(share * matrix.diagonal(), format="csr") if share else None
            return Factor(matrix if more is None else matrix + more, place)
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
