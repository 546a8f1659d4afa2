"""Normal equations of a whole city, solved by areas: a factorisation of so many chunks at once fills up.

Chunks that lie together are an area. Areas are factorised alone, with what lies beyond their borders held; then small
cells of chunks are factorised together as bodies that do not bend. The sum of the answers is the preconditioner of
conjugate gradients (two-level additive Schwarz; Toselli and Widlund 2005, chapter 3), so that the solution is the same
as if all chunks had been factorised together.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from pipeline.backend.normal_equations import factorised
from pipeline.backend.sim3 import cross_matrix
from pipeline.fuse.drive_nodes import Array, Numbers

_AREA, _CELL = 120, 14  # chunks at most
_ACCURACY = 1e-4  # of a step, relative: the next Gauss-Newton step takes what is left
_MOST = 300  # iterations
_THREADS = 2


class Areas:
    """The preconditioner of a matrix (7 n, 7 n), symmetric positive definite, of n chunks at `place` (n, 3), whose
    unknowns are those of CityEquations. It serves for matrices that differ little from it, too."""

    def __init__(self, matrix: scipy.sparse.csc_matrix, place: Array) -> None:
        count, rows = len(place), matrix.tocsr()
        near = scipy.sparse.csr_matrix(
            (np.ones(matrix.nnz, np.float32), matrix.indices // 7, matrix.indptr), shape=(7 * count, count)
        )[::7]
        near.data[:] = 1.0
        every = np.arange(count)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="areas") as pool:
            self._areas = list(pool.map(lambda area: _Area(rows, near, area), _parts(every, place, _AREA)))
        cell = np.empty(count, np.int64)
        for number, part in enumerate(_parts(every, place, _CELL)):
            cell[part] = number
        self._bodies = _rigid(cell, place)
        self._together = factorised((self._bodies.T @ matrix @ self._bodies).tocsc())

    def solve(self, matrix: scipy.sparse.csc_matrix, right: Array) -> Array:
        """The solution (7 n,)."""
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="areas") as pool:

            def answer(areas: Sequence[_Area], residual: Array) -> Array:
                total = np.zeros_like(residual)
                for area in areas:
                    total[area.unknowns] += area.factor.solve(residual[area.unknowns])
                return total

            def precondition(residual: Array) -> Array:
                parts = [
                    pool.submit(answer, self._areas[first::_THREADS], np.ravel(residual)) for first in range(_THREADS)
                ]
                total = self._bodies @ self._together.solve(self._bodies.T @ np.ravel(residual))
                for part in parts:
                    total += part.result()
                return np.asarray(total)

            operator = scipy.sparse.linalg.LinearOperator(matrix.shape, precondition, dtype=np.float64)
            found, _ = scipy.sparse.linalg.cg(
                matrix.tocsr(), right, rtol=_ACCURACY, atol=0.0, maxiter=_MOST, M=operator
            )
        return np.asarray(found)


class _Area:
    """Chunks of an area and those that hang on them: unknowns (m,) and their factor."""

    def __init__(self, matrix: scipy.sparse.csr_matrix, near: scipy.sparse.csr_matrix, area: Numbers) -> None:
        chunks = np.unique(near[area].indices)
        self.unknowns = (chunks[:, None].astype(np.int64) * 7 + np.arange(7)).ravel()
        self.factor = factorised(matrix[self.unknowns][:, self.unknowns].tocsc())


def _parts(chunks: Numbers, place: Array, most: int) -> list[Numbers]:
    """Chunks in parts of at most `most` that lie together: halved along their longer side, again and again."""
    if len(chunks) <= most:
        return [chunks]
    mine = place[chunks]
    axis = int(np.argmax(mine.max(0) - mine.min(0)))
    order = chunks[np.argsort(mine[:, axis], kind="stable")]
    half = len(order) // 2
    return _parts(order[:half], place, most) + _parts(order[half:], place, most)


def _rigid(body: Numbers, place: Array) -> scipy.sparse.csr_matrix:
    """(7 n, 7 bodies): how chunks move with a turn, a shift and a log scale of their body about its middle."""
    count, bodies = len(body), int(body.max()) + 1
    number = np.bincount(body)
    middle = np.stack([np.bincount(body, place[:, axis]) / number for axis in range(3)], 1)
    arm = place - middle[body]
    blocks = np.tile(np.eye(7), (count, 1, 1))
    blocks[:, 3:6, :3] = -cross_matrix(arm)
    blocks[:, 3:6, 6] = arm
    return scipy.sparse.bsr_matrix((blocks, body, np.arange(count + 1)), shape=(7 * count, 7 * bodies)).tocsr()
