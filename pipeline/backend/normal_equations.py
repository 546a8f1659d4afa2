"""The least-squares problem of the pose graph: the chunks' Sim(3)s and their drift are solved together.

Unknowns of each chunk: 7 numbers of world_from_chunk, and 8 rates of drift (rotation x y z and log scale, before and
behind the reference frame). Unknowns of the drive: the 8 mean rates, the chaining and the height above the road.
Residuals: one row for each frame that two chunks have both placed. Gauss-Newton with sparse normal equations and
analytic derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from pipeline.backend.block_sums import BlockSums
from pipeline.backend.drift import DriftPrior
from pipeline.backend.pose_residuals import PoseResiduals
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import (
    Array,
    Sim3,
    cross_matrix,
    cross_rows,
    nearest_rotation,
    rotate_rows,
    rotation_exp,
    rotation_log,
)

WIDTH = 15  # unknowns of a chunk: log scale, rotation 3, translation 3, rates before 4, rates behind 4
_FIXED = 1e14  # information that holds an unknown at its value
_BIAS = 0.3  # standard deviation of a drive's mean rate, as a share of the rates' own deviation
_STEP = 0.5  # largest change of a log scale, or of a rotation in radians, in one Gauss-Newton step
_CHAINING = 0.5  # prior mean of the chaining, and its standard deviation


@dataclass(frozen=True, eq=False)
class State:
    """scale (K,), rotation (K, 3, 3), translation (K, 3): world_from_chunk; rates (K, 2, 4); mean (2, 4).

    chaining: how drift moves positions. 0: a frame's position is rotated about the reference frame like the frame
    itself. 1: each motion between frames is rotated by the drift there, and the motions add up. It is estimated too.
    """

    scale: Array
    rotation: Array
    translation: Array
    rates: Array
    mean: Array
    chaining: float
    log_height: float = 0.0
    """Log of the camera's height above the road, world units."""

    def world_from_chunk(self, number: int) -> Sim3:
        """The Sim(3) of one chunk, exact at its reference frame."""
        return Sim3(float(self.scale[number]), self.rotation[number], self.translation[number])


def place(
    state: State, chunk: NDArray[np.int64] | int, pose: Array, along: Array, moment: Array
) -> tuple[Array, Array, Array]:
    """Frames of chunks in the world, corrected for drift: rotation (n, 3, 3), position (n, 3), log of the factor from
    depth to world units (n,). chunk: numbers (n,), or one for all; other arguments as in PoseResiduals."""
    number = np.broadcast_to(np.asarray(chunk), along.shape)
    rate = state.rates[number, (along > 0).astype(int)]
    turn, stretch = -along[:, None] * rate[:, :3], -along * rate[:, 3]
    unturn = rotation_exp(turn)
    local = rotate_rows(unturn, pose[:, :3, 3]) * np.exp(stretch)[:, None]
    chained = moment - along[:, None] * pose[:, :3, 3]
    local -= state.chaining * (cross_rows(rate[:, :3], chained) + rate[:, 3:] * chained)
    position = state.scale[number][:, None] * rotate_rows(state.rotation[number], local)
    rotation = state.rotation[number] @ unturn @ pose[:, :3, :3]
    return rotation, position + state.translation[number], np.log(state.scale[number]) + stretch


def residuals(state: State, rows: PoseResiduals) -> Array:
    """(n, 7): rotation, position and log depth of each frame as the first chunk places it, minus the second's."""
    return _difference(state, rows, *_both_places(state, rows))


_Placed = tuple[Array, Array, Array]


def _both_places(state: State, rows: PoseResiduals) -> tuple[_Placed, _Placed]:
    return (
        place(state, rows.first, rows.pose_first, rows.along_first, rows.moment_first),
        place(state, rows.second, rows.pose_second, rows.along_second, rows.moment_second),
    )


def _difference(state: State, rows: PoseResiduals, by_first: _Placed, by_second: _Placed) -> Array:
    turned = rotation_log(by_first[0] @ by_second[0].transpose(0, 2, 1))
    apart = (by_first[1] - by_second[1]) * units(state, rows)[:, None]
    return np.concatenate([turned, apart, (by_first[2] - by_second[2] + rows.log_ratio)[:, None]], 1)


def units(state: State, rows: PoseResiduals) -> Array:
    """(n,): factor by which a distance in the current world is multiplied to be compared (see PoseResiduals.unit)."""
    return np.asarray(rows.unit / np.sqrt(state.scale[rows.first] * state.scale[rows.second]))


def linearised(state: State, rows: PoseResiduals) -> tuple[Array, Array]:
    """(n, 7) residuals and their derivatives (n, 7, 31): by the unknowns of both chunks and the chaining."""
    placed = _both_places(state, rows)
    residual = _difference(state, rows, *placed)
    jacobian = np.zeros((len(rows), 7, 2 * WIDTH + 1))
    chained_first = frame_derivative(
        state,
        rows.first,
        rows.pose_first,
        rows.along_first,
        rows.moment_first,
        placed[0][1],
        jacobian[:, :, :WIDTH],
    )
    chained_second = frame_derivative(
        state,
        rows.second,
        rows.pose_second,
        rows.along_second,
        rows.moment_second,
        placed[1][1],
        jacobian[:, :, WIDTH:-1],
    )
    np.negative(jacobian[:, :, WIDTH:-1], out=jacobian[:, :, WIDTH:-1])
    jacobian[:, 3:6, -1] = chained_first - chained_second
    jacobian[:, 3:6] *= units(state, rows)[:, None, None]
    jacobian[:, 3:6, 0] -= residual[:, 3:6] / 2
    jacobian[:, 3:6, WIDTH] -= residual[:, 3:6] / 2
    return residual, jacobian


def frame_derivative(
    state: State, number: NDArray[np.int64], pose: Array, along: Array, moment: Array, position: Array, out: Array
) -> Array:
    """Derivatives of frames' rotation, position and log depth.

    Writes those by the chunk's unknowns into `out` (n, 7, 15), which must be zero; returns those of the position by the
    chaining (n, 3). position (n, 3): the frame in the world. Rates are small, so the derivative of a position by a rate
    is taken at zero drift.
    """
    rotation = state.rotation[number]
    grown = state.scale[number][:, None, None] * rotation
    arm = position - state.translation[number]
    chained = moment - along[:, None] * pose[:, :3, 3]
    lever = along[:, None] * pose[:, :3, 3] + state.chaining * chained
    world_lever = rotate_rows(grown, lever)
    out[:, 3:6, 0], out[:, 6, 0] = arm, 1
    out[:, 0:3, 1:4], out[:, 3:6, 1:4] = rotation, -cross_matrix(arm) @ rotation
    out[:, 3:6, 4:7] = np.eye(3)
    swing = cross_matrix(world_lever) @ rotation
    behind = along > 0
    for mine, column in ((np.flatnonzero(~behind), 7), (np.flatnonzero(behind), 11)):
        out[mine, 0:3, column : column + 3] = -along[mine, None, None] * rotation[mine]
        out[mine, 3:6, column : column + 3] = swing[mine]
        out[mine, 3:6, column + 3] = -world_lever[mine]
        out[mine, 6, column + 3] = -along[mine]
    rate = state.rates[number, behind.astype(int)]
    return rotate_rows(grown, -(cross_rows(rate[:, :3], chained) + rate[:, 3:] * chained))


@dataclass(frozen=True, eq=False)
class LinearisedRows:
    """PoseResiduals linearised at one state. weight (n, 7): their information; residual (n, 7); jacobian (n, 7, 31)."""

    rows: PoseResiduals
    weight: Array
    residual: Array
    jacobian: Array

    @staticmethod
    def of(state: State, rows: PoseResiduals, weight: Array) -> LinearisedRows:
        """Linearise `rows` at `state`."""
        return LinearisedRows(rows, weight, *linearised(state, rows))


def assemble(
    state: State,
    groups: Sequence[LinearisedRows],
    prior: DriftPrior,
    *,
    scale: bool,
    drift: bool,
    common: bool = False,
    variance_inflation: float = 1.0,
    anchored: bool = True,
    heights: Heights | None = None,
) -> tuple[scipy.sparse.csc_matrix, Array]:
    """The normal equations of one Gauss-Newton step: matrix (15 K + 15, 15 K + 15) and gradient (K + 1, 15).

    The last block of unknowns holds the chaining (column 0), the height above the road (1) and the mean rates (7 to
    14). scale: chunks' scales are unknown, not held; drift: so are the rates; common: so are the mean rates;
    variance_inflation: of the drift prior and the heights; anchored: the first chunk's Sim(3) is held.
    """
    count = len(state.scale)
    sums = BlockSums(count + 1, WIDTH)
    for group in groups:
        index, product = _pair_blocks(group, count)
        sums.add(index, product[:, :-1, :-1], product[:, :-1, -1])
    if drift:
        each = prior.informations(count) / variance_inflation
        _add_drift_prior(sums, state, each, prior.information() / variance_inflation)
    else:
        held = np.eye(8) * _FIXED
        _add_drift_prior(sums, state, np.broadcast_to(held, (count, 8, 8)), held)
    fixed = np.zeros((count + 1, WIDTH))
    fixed[count] = 1 if common else _FIXED
    fixed[count, 0] = _CHAINING**-2 if drift else _FIXED
    sums.gradient[count, 0] += fixed[count, 0] * (state.chaining - 0.5)
    if anchored:
        fixed[0, :7] = _FIXED
    if heights is not None and len(heights) and scale:
        _add_heights(sums, state, heights, variance_inflation)
        fixed[count, 1] = 1e-6
    if not scale:
        fixed[:count, 0] = _FIXED
    sums.add(np.arange(fixed.size)[:, None], fixed.reshape(-1, 1, 1))
    return sums.matrix(), sums.gradient


def _add_drift_prior(sums: BlockSums, state: State, each: Array, usual: Array) -> None:
    """The prior of drift: rates are near the drive's mean rates, and these are near zero. each (K, 8, 8), usual (8, 8):
    information of each chunk's rates, and the usual one."""
    count = len(state.scale)
    chunks = np.arange(count)[:, None]
    own = np.arange(7, WIDTH)
    index = np.concatenate([chunks * WIDTH + own, np.broadcast_to(count * WIDTH + own, (count, 8))], 1)
    sums.add(index, np.block([[each, -each], [-each, each]]))
    off = np.einsum("ki,kij->kj", (state.rates - state.mean).reshape(count, 8), each)
    sums.gradient[:count, 7:] += off
    sums.gradient[count, 7:] += -off.sum(0) + state.mean.reshape(8) @ usual / _BIAS**2
    sums.add(count * WIDTH + own[None], usual[None] / _BIAS**2)


def _add_heights(sums: BlockSums, state: State, heights: Heights, variance_inflation: float) -> None:
    """The camera's height above the road is the same in all chunks (robust: Cauchy's weights)."""
    residual = height_residuals(state, heights)
    weight = 1 / (1 + (residual / (heights.limit * heights.deviation)) ** 2) / heights.deviation**2
    weight /= variance_inflation
    spans = [heights.chunk * WIDTH, heights.chunk * WIDTH + 10 + 4 * heights.half]
    columns = np.stack([*spans, np.full(len(heights), len(state.scale) * WIDTH + 1)], 1)
    by = np.stack([np.ones(len(heights)), -heights.along, -np.ones(len(heights))], 1)
    blocks = by[:, :, None] * by[:, None, :] * weight[:, None, None]
    sums.add(columns, blocks, by * (weight * residual)[:, None])


def _pair_blocks(group: LinearisedRows, count: int) -> tuple[NDArray[np.int64], Array]:
    """For each pair of chunks: its unknowns' numbers (p, 31), and (p, 32, 32): the normal matrix of its rows, with the
    gradient as last column. Rows of a pair lie together; padded to one length, all pairs are one batched product."""
    r, jacobian = group.residual, group.jacobian
    starts = np.nonzero(np.diff(group.rows.pair, prepend=-1))[0]
    length = np.diff([*starts, len(r)])
    place_of = np.repeat(np.arange(len(starts)), length)
    within = np.arange(len(r)) - np.repeat(starts, length)
    root = np.sqrt(group.weight)
    padded = np.zeros((len(starts), length.max(), 7, jacobian.shape[2] + 1))
    padded[place_of, within, :, :-1] = jacobian * root[:, :, None]
    padded[place_of, within, :, -1] = r * root
    padded = padded.reshape(len(starts), -1, jacobian.shape[2] + 1)
    ends = np.stack([group.rows.first[starts], group.rows.second[starts]], 1)
    index = (ends[:, :, None] * WIDTH + np.arange(WIDTH)).reshape(len(starts), -1)
    index = np.concatenate([index, np.full((len(starts), 1), count * WIDTH)], 1)
    return index, padded.transpose(0, 2, 1) @ padded


def factorised(matrix: scipy.sparse.csc_matrix) -> scipy.sparse.linalg.SuperLU:
    """SuperLU of a symmetric positive definite matrix."""
    return scipy.sparse.linalg.splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )


def damped(step: Array) -> Array:
    """A Gauss-Newton step (K + 1, 15), shortened if a scale or rotation would change too much.

    Far from the solution, as before loops are closed, a full step can overshoot: scales grow by its exponential.
    """
    return np.asarray(step * min(1.0, _STEP / max(float(np.abs(step[:-1, :4]).max()), 1e-300)))


class NormalEquations:
    """The result of `assemble`, factorised and solved: `step` (K + 1, 15), damped."""

    def __init__(
        self,
        state: State,
        groups: Sequence[LinearisedRows],
        prior: DriftPrior,
        *,
        scale: bool,
        drift: bool,
        common: bool = False,
        variance_inflation: float = 1.0,
        heights: Heights | None = None,
    ) -> None:
        matrix, gradient = assemble(
            state,
            groups,
            prior,
            scale=scale,
            drift=drift,
            common=common,
            variance_inflation=variance_inflation,
            heights=heights,
        )
        self.size = matrix.shape[0]
        self.factor = factorised(matrix)
        step: Array = -self.factor.solve(gradient.ravel()).reshape(-1, WIDTH)
        self.step = damped(step)

    def covariance(self, state: State, rows: PoseResiduals) -> Array:
        """(7n, 7n): covariance of the rows' residuals that follows from the uncertainty of the solution."""
        jacobian = linearised(state, rows)[1]
        right = np.zeros((self.size, len(rows) * 7))
        for n in range(len(rows)):
            for chunk, d in ((rows.first[n], jacobian[n, :, :WIDTH]), (rows.second[n], jacobian[n, :, WIDTH:-1])):
                right[chunk * WIDTH : (chunk + 1) * WIDTH, n * 7 : n * 7 + 7] += d.T
            right[-WIDTH, n * 7 : n * 7 + 7] += jacobian[n, :, -1]
        return np.asarray(right.T @ self.factor.solve(right))


def height_residuals(state: State, heights: Heights) -> Array:
    """(m,): log height above the road of each half chunk, world units, corrected for drift, minus the drive's."""
    stretch = -heights.along * state.rates[heights.chunk, heights.half, 3]
    return np.asarray(np.log(state.scale[heights.chunk]) + stretch + heights.log_height - state.log_height)


def retract(state: State, step: Array) -> State:
    """The state after a Gauss-Newton step (K + 1, 15)."""
    own, mean = step[:-1], step[-1, 7:].reshape(2, 4)
    return replace(
        state,
        scale=state.scale * np.exp(own[:, 0]),
        rotation=nearest_rotation(state.rotation @ rotation_exp(own[:, 1:4])),
        translation=state.translation + own[:, 4:7],
        rates=state.rates + own[:, 7:].reshape(-1, 2, 4),
        mean=state.mean + mean,
        chaining=float(np.clip(state.chaining + step[-1, 0], -0.5, 1.5)),
        log_height=state.log_height + float(step[-1, 1]),
    )
