"""Covariances of the steps between neighbouring chunks after joining: from overlaps, drift and the road together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.normal_equations import WIDTH, LinearisedRows, State, assemble
from pipeline.backend.pose_graph import Solution
from pipeline.backend.sim3 import Array, cross_matrix

_POSE = [1, 2, 3, 4, 5, 6, 0]  # indices among a chunk's unknowns: rotation, translation, log scale


@dataclass(frozen=True, eq=False)
class JointErrors:
    """Covariances of m joints, the steps between neighbouring chunks: rotation (radians, in the second chunk's axes),
    translation (in the first chunk's axes and units), log scale.

    covariance (m, 7, 7); with_next (m, 7, 7): cross-covariance of a joint (rows) and the next one (columns), zero for
    the last. Both are NaN where the equations do not determine them.
    """

    covariance: Array
    with_next: Array


def joint_errors(solution: Solution, config: BackendConfig) -> JointErrors:
    """Covariances of the joints of a chain without loops, with its drift as an unknown: blocks of the inverse of its
    normal equations. Chunks are connected only with their neighbours and with the unknowns that all chunks share, so a
    recursion from the last chunk to the first computes these blocks (Takahashi 1973)."""
    state = solution.state
    count = len(state.scale)
    if count < 2:
        return JointErrors(np.zeros((0, 7, 7)), np.zeros((0, 7, 7)))
    matrix, _ = assemble(
        state,
        [LinearisedRows.of(state, solution.rows, solution.weight)],
        solution.prior,
        scale=config.scale,
        drift=config.drift,
        common=True,
        heights=solution.heights,
    )
    try:
        near = _near_blocks(*_blocks(matrix.tobsr((WIDTH, WIDTH)), count))
    except np.linalg.LinAlgError:
        nothing = np.full((count - 1, 7, 7), np.nan)
        return JointErrors(nothing, nothing)
    move = _moves(state)
    blocks = [near[0][:-1], near[1], near[1].transpose(0, 2, 1), near[0][1:]]  # both chunks of a joint
    covariance = _between(move, move, blocks)
    with_next = np.zeros_like(covariance)
    blocks = [near[1][:-1], near[2], near[0][1:-1], near[1][1:]]  # chunks of a joint with chunks of the next one
    with_next[:-1] = _between(move[:, :-1], move[:, 1:], blocks)
    covariance = (covariance + covariance.transpose(0, 2, 1)) / 2
    poor = np.asarray(~(np.diagonal(covariance, axis1=1, axis2=2) >= 0).all(1))
    covariance[poor] = np.nan
    with_next[poor | np.append(poor[1:], False)] = np.nan
    return JointErrors(covariance, with_next)


def _blocks(matrix: scipy.sparse.bsr_matrix, count: int) -> tuple[Array, Array, Array, Array]:
    """Blocks of a symmetric matrix: of each chunk (count, 15, 15), of each chunk with the next (count - 1, 15, 15), of
    each chunk with the common unknowns (count, 15, 15), and of the common unknowns (15, 15)."""
    row = np.repeat(np.arange(count + 1), np.diff(matrix.indptr))
    column, data = matrix.indices, matrix.data

    def found(number: int, wanted: NDArray[np.bool_]) -> Array:
        made = np.zeros((number, WIDTH, WIDTH))
        np.add.at(made, row[wanted], data[wanted])
        return made

    chunks = (row < count) & (column < count)
    return (
        found(count, chunks & (row == column)),
        found(count - 1, chunks & (column == row + 1)),
        found(count, (row < count) & (column == count)),
        found(count + 1, (row == count) & (column == count))[-1],
    )


def _near_blocks(own: Array, after: Array, common: Array, last: Array) -> tuple[Array, Array, Array]:
    """Blocks of the inverse: of each chunk (n, 15, 15), of each with the next one (n - 1, 15, 15), and of each with the
    one after that (n - 2, 15, 15). Raises LinAlgError if the matrix is not positive definite."""
    count = len(own)
    factor, gain = [], np.zeros_like(after)
    left = own[0]
    for n in range(count):  # eliminate from the first to the last
        left = own[n] - (after[n - 1].T @ gain[n - 1] if n else 0.0)
        factor.append(scipy.linalg.cho_factor((left + left.T) / 2, check_finite=False))
        if n + 1 < count:
            gain[n] = scipy.linalg.cho_solve(factor[n], after[n], check_finite=False)
    answer = common.copy()  # becomes the inverse of the chain's matrix times `common`
    for n in range(1, count):
        answer[n] -= gain[n - 1].T @ answer[n - 1]
    blocks = np.zeros((3, count, WIDTH, WIDTH))
    for n in range(count - 1, -1, -1):
        answer[n] = scipy.linalg.cho_solve(factor[n], answer[n], check_finite=False)
        blocks[0, n] = scipy.linalg.cho_solve(factor[n], np.eye(WIDTH), check_finite=False)
        if n + 1 < count:
            answer[n] -= gain[n] @ answer[n + 1]
            blocks[0, n] += gain[n] @ blocks[0, n + 1] @ gain[n].T
            blocks[1, n] = -gain[n] @ blocks[0, n + 1]
        if n + 2 < count:
            blocks[2, n] = -gain[n] @ blocks[1, n + 1]
    rest = last - np.einsum("nji,njk->ik", common, answer)
    spread = answer @ np.linalg.inv((rest + rest.T) / 2)
    for apart in range(3):
        stop = max(count - apart, 0)
        blocks[apart, :stop] += spread[:stop] @ answer[apart : apart + stop].transpose(0, 2, 1)
    return blocks[0], blocks[1, : count - 1], blocks[2, : count - 2]


def _moves(state: State) -> Array:
    """Jacobians (2, m, 7, 15) of joints by the unknowns of their first and of their second chunk."""
    first, second = slice(None, -1), slice(1, None)
    scale = state.scale[first, None, None]
    back = state.rotation[first].transpose(0, 2, 1)
    away = np.einsum("nij,nj->ni", back, state.translation[second] - state.translation[first]) / scale[:, :, 0]
    by = np.zeros((2, len(back), 7, 7))
    by[0, :, :3, :3], by[1, :, :3, :3] = -state.rotation[second].transpose(0, 2, 1) @ state.rotation[first], np.eye(3)
    by[0, :, 3:6, :3], by[0, :, 3:6, 3:6], by[0, :, 3:6, 6] = cross_matrix(away), -back / scale, -away
    by[1, :, 3:6, 3:6] = back / scale
    by[0, :, 6, 6], by[1, :, 6, 6] = -1, 1
    moves = np.zeros((2, len(back), 7, WIDTH))
    moves[:, :, :, _POSE] = by
    return moves


def _between(one: Array, other: Array, blocks: list[Array]) -> Array:
    """Cross-covariances (m, 7, 7) of joints `one` with joints `other`, given by their Jacobians (2, m, 7, 15). blocks:
    covariances (m, 15, 15) of their chunks: first-first, first-second, second-first, second-second."""
    turned = other.transpose(0, 1, 3, 2)
    pairs = ((0, 0), (0, 1), (1, 0), (1, 1))
    return np.asarray(sum(one[a] @ block @ turned[b] for (a, b), block in zip(pairs, blocks, strict=True)))
