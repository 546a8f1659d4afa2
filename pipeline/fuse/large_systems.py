"""Normal equations of a whole city, solved by areas, because the factor of so large a matrix has too many entries.

Chunks that are near each other form an area. Each area is factorised alone, with the chunks outside held. In addition,
small cells of chunks are treated as rigid bodies, and the equations of all bodies are factorised together. The sum of
both solutions is the preconditioner of conjugate gradients (two-level additive Schwarz; Toselli and Widlund 2005,
chapter 3). The result is the solution of the whole system, up to the tolerance of the iteration.
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

_AREA, _CELL = 120, 14  # most chunks of an area and of a cell
_ACCURACY = 1e-4  # relative residual of a step; the next Gauss-Newton step corrects the rest
_MOST = 300  # most iterations
_THREADS = 2


class Areas:
    """Preconditioner of a symmetric positive definite matrix (7 n, 7 n) of n chunks at `place` (n, 3), with the
    unknowns of CityEquations. It can also be used for matrices that differ little from it."""

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
        """The solution (7 n,) of matrix @ solution = right (7 n,)."""
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
    """The chunks of an area and those that share an equation with them: indices of their unknowns (m,), and the factor
    of their equations."""

    def __init__(self, matrix: scipy.sparse.csr_matrix, near: scipy.sparse.csr_matrix, area: Numbers) -> None:
        chunks = np.unique(near[area].indices)
        self.unknowns = (chunks[:, None].astype(np.int64) * 7 + np.arange(7)).ravel()
        self.factor = factorised(matrix[self.unknowns][:, self.unknowns].tocsc())


def _parts(chunks: Numbers, place: Array, most: int) -> list[Numbers]:
    """Chunks in parts of at most `most` neighbours: halved along their longest axis until parts are small enough."""
    if len(chunks) <= most:
        return [chunks]
    mine = place[chunks]
    axis = int(np.argmax(mine.max(0) - mine.min(0)))
    order = chunks[np.argsort(mine[:, axis], kind="stable")]
    half = len(order) // 2
    return _parts(order[:half], place, most) + _parts(order[half:], place, most)


def _rigid(body: Numbers, place: Array) -> scipy.sparse.csr_matrix:
    """Matrix (7 n, 7 bodies) from steps of bodies (rotation and log scale about the body's mean place, translation) to
    steps of their chunks. body (n,): the body of each chunk."""
    count, bodies = len(body), int(body.max()) + 1
    number = np.bincount(body)
    middle = np.stack([np.bincount(body, place[:, axis]) / number for axis in range(3)], 1)
    arm = place - middle[body]
    blocks = np.tile(np.eye(7), (count, 1, 1))
    blocks[:, 3:6, :3] = -cross_matrix(arm)
    blocks[:, 3:6, 6] = arm
    return scipy.sparse.bsr_matrix((blocks, body, np.arange(count + 1)), shape=(7 * count, 7 * bodies)).tocsr()
