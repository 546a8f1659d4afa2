"""Residuals of joints and links, their Jacobians, and the sparse normal equations of a city.

A step of a chunk is (rotation about the city's axes, translation in city units, log scale). Rotation and scale act
about the chunk's origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.normal_equations import factorised
from pipeline.backend.sim3 import cross_matrix, nearest_rotation, rotation_exp, rotation_log
from pipeline.fuse.drive_nodes import Array, Frames, Joints, Numbers, State
from pipeline.fuse.large_systems import LargeSystem

_HELD = 1e12  # information that holds a chunk in its place
_DIRECTLY = 600  # up to so many chunks the equations are factorised as a whole, without areas
_AT_ONCE = 4_096  # rows of which the normal matrix is computed at once, so that it takes little memory
_STEP = 0.5  # largest step of a chunk, in radians or log scale


@dataclass(frozen=True, eq=False)
class LinkRows:
    """m links as arrays. first, second: the frames at their ends; second_from_first as rotation (m, 3, 3), translation
    (m, 3) and log_scale (m,); information (m, 7, 7), the inverse of the covariance."""

    first: Frames
    second: Frames
    rotation: Array
    translation: Array
    log_scale: Array
    information: Array

    def __len__(self) -> int:
        return len(self.log_scale)

    def __getitem__(self, which: NDArray[np.int64]) -> LinkRows:
        return LinkRows(
            self.first[which],
            self.second[which],
            self.rotation[which],
            self.translation[which],
            self.log_scale[which],
            self.information[which],
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """Linearised residuals: residual (m, 7); jacobian (m, 7, 7k) by the steps of the k chunks `node` (m, k);
    information (m, 7, 7)."""

    residual: Array
    jacobian: Array
    node: Numbers
    information: Array


def joint_rows(state: State, joints: Joints) -> Rows:
    """Residuals of joints: rotation (in the second chunk's axes), translation (in the first chunk's axes, units of the
    drive), log scale; see Joints."""
    a, b = joints.first, joints.second
    back = state.rotation[a].transpose(0, 2, 1)
    unit = (joints.unit / state.scale[a])[:, None]
    away = state.translation[b] - state.translation[a]
    turned = np.einsum("nij,nj->ni", back, away)
    residual = np.concatenate(
        [
            rotation_log(joints.rotation.transpose(0, 2, 1) @ back @ state.rotation[b]),
            unit * turned - joints.translation,
            (np.log(state.scale[b] / state.scale[a]) - joints.log_scale)[:, None],
        ],
        1,
    )
    jacobian = np.zeros((len(a), 7, 14))
    forward = state.rotation[b].transpose(0, 2, 1)
    jacobian[:, :3, 0:3], jacobian[:, :3, 7:10] = -forward, forward
    shift = unit[:, :, None] * back
    jacobian[:, 3:6, 0:3] = shift @ cross_matrix(away)
    jacobian[:, 3:6, 3:6], jacobian[:, 3:6, 10:13] = -shift, shift
    jacobian[:, 3:6, 6] = -unit * turned
    jacobian[:, 6, 6], jacobian[:, 6, 13] = -1, 1
    if not joints.follows.any():
        return Rows(residual, jacobian, np.stack([a, b], 1), joints.information)
    after = np.flatnonzero(joints.follows)
    gain = joints.gain[after]
    wide = np.zeros((len(a), 7, 21))
    wide[:, :, 7:] = jacobian
    wide[after, :, :14] -= gain @ jacobian[after - 1]
    residual[after] -= (gain @ residual[after - 1, :, None])[:, :, 0]
    return Rows(
        residual,
        wide,
        np.stack([np.where(joints.follows, np.roll(a, 1), a), a, b], 1),
        np.where(joints.follows[:, None, None], joints.given, joints.information),
    )


def link_rows(state: State, links: LinkRows) -> Rows:
    """Residuals of links: rotation and translation in the second camera's axes, in units of its drive, and log scale;
    see Link."""
    rotation_a, position_a, log_a = links.first.place(state)
    rotation_b, position_b, log_b = links.second.place(state)
    back = rotation_b.transpose(0, 2, 1)
    unit = np.exp(-log_b)[:, None]
    away = position_a - position_b
    turned = np.einsum("nij,nj->ni", back, away)
    residual = np.concatenate(
        [
            rotation_log(back @ rotation_a @ links.rotation.transpose(0, 2, 1)),
            unit * turned - links.translation,
            (log_a - log_b - links.log_scale)[:, None],
        ],
        1,
    )
    # Jacobians of the frames' (rotation, position, log scale) by the steps of their chunks.
    first, second = frame_jacobian(state, links.first), frame_jacobian(state, links.second)
    shift = unit[:, :, None] * back
    jacobian = np.zeros((len(links), 7, 28))
    for sign, part, columns in ((1, first, slice(0, 14)), (-1, second, slice(14, 28))):
        jacobian[:, :3, columns] = sign * back @ part[:, :3]
        jacobian[:, 3:6, columns] = sign * shift @ part[:, 3:6]
        jacobian[:, 6, columns] = sign * part[:, 6]
    jacobian[:, 3:6, 14:] += shift @ cross_matrix(away) @ second[:, :3]
    jacobian[:, 3:6, 14:] -= (unit * turned)[:, :, None] * second[:, 6, None, :]
    return Rows(residual, jacobian, np.concatenate([links.first.node, links.second.node], 1), links.information)


def frame_rows(state: State, frames: Frames) -> Rows:
    """Rows for the rotation, position and log scale of frames themselves, for `CityEquations.covariance`."""
    count = len(frames.log_unit)
    return Rows(np.zeros((count, 7)), frame_jacobian(state, frames), frames.node, np.zeros((count, 7, 7)))


def frame_jacobian(state: State, frames: Frames) -> Array:
    """Jacobian (n, 7, 14) of the rotation, position and log scale of frames by the steps of their two chunks."""
    arm = frames.arm(state)
    jacobian = np.zeros((len(arm), 7, 2, 7))
    for end in (0, 1):
        jacobian[:, :3, end, :3] = np.eye(3)
        jacobian[:, 3:6, end, :3] = -cross_matrix(arm[:, end])
        jacobian[:, 3:6, end, 3:6] = np.eye(3)
        jacobian[:, 3:6, end, 6] = arm[:, end]
        jacobian[:, 6, end, 6] = 1
        jacobian[:, :, end] *= frames.share[:, end, None, None]
    return jacobian.reshape(len(arm), 7, 14)


def retract(state: State, step: Array) -> State:
    """The state after a step (n, 7)."""
    return State(
        state.scale * np.exp(step[:, 6]),
        nearest_rotation(rotation_exp(step[:, :3]) @ state.rotation),
        state.translation + step[:, 3:6],
    )


def assembled(count: int, groups: Sequence[Rows], held: Sequence[int]) -> tuple[scipy.sparse.bsr_matrix, Array]:
    """Normal matrix (7 count, 7 count) in blocks of 7 x 7, and gradient (7 count,), of `groups` over `count` chunks;
    the chunks `held` do not move."""
    parts = [
        _blocks(count, rows, slice(start, start + _AT_ONCE))
        for rows in groups
        for start in range(0, len(rows.residual), _AT_ONCE)
    ]
    fixed = np.asarray(held, np.int64)
    parts.append((fixed * (count + 1), np.tile(_HELD * np.eye(7), (len(fixed), 1, 1))))
    place = np.unique(np.concatenate([of for of, _ in parts]))
    blocks = np.zeros((len(place), 7, 7))
    while parts:  # each part's memory is free after its blocks were added; its places differ from each other
        of, some = parts.pop(0)
        blocks[np.searchsorted(place, of)] += some
    starts = np.searchsorted(place, np.arange(count + 1) * count)
    matrix = scipy.sparse.bsr_matrix((blocks, place % count, starts), shape=(7 * count, 7 * count))
    return matrix, gradient_of(count, groups)


def _blocks(count: int, rows: Rows, some: slice) -> tuple[Numbers, Array]:
    """Blocks of the normal matrix of some rows: their places, block row * count + block column, and (n, 7, 7)."""
    node, jacobian = rows.node[some], rows.jacobian[some]
    chunks = node.shape[1]
    square = jacobian.transpose(0, 2, 1) @ rows.information[some] @ jacobian
    blocks = square.reshape(-1, chunks, 7, chunks, 7).transpose(0, 1, 3, 2, 4).reshape(-1, 7, 7)
    return _summed_blocks((node[:, :, None] * count + node[:, None, :]).ravel(), blocks)


def _summed_blocks(place: Numbers, blocks: Array) -> tuple[Numbers, Array]:
    """Rising places, each once, and the sums of their blocks."""
    order = np.argsort(place, kind="stable")
    place = place[order]
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return place[starts], np.add.reduceat(blocks[order], starts) if len(place) else blocks


def gradient_of(count: int, groups: Sequence[Rows]) -> Array:
    """Gradient (7 count,) of half the weighted squares of `groups`."""
    gradient = np.zeros(7 * count)
    for rows in groups:
        gradient += _summed(rows, rows.residual, len(gradient))
    return gradient


def product_of(groups: Sequence[Rows], held: Sequence[int], vector: Array) -> Array:
    """The normal matrix of `assembled` times a vector (7 count,), without the matrix."""
    answer = np.zeros_like(vector)
    for rows in groups:
        answer += _summed(rows, (rows.jacobian @ vector[_unknowns(rows)][:, :, None])[:, :, 0], len(vector))
    fixed = (np.asarray(held, np.int64)[:, None] * 7 + np.arange(7)).ravel()
    answer[fixed] += _HELD * vector[fixed]
    return answer


def _unknowns(rows: Rows) -> Numbers:
    """Numbers (m, 7k) of the unknowns of the rows' chunks."""
    return (rows.node[:, :, None] * 7 + np.arange(7)).reshape(len(rows.node), rows.node.shape[1] * 7)


def _summed(rows: Rows, residual: Array, size: int) -> Array:
    """Jacobian^T information residual (size,) for some residuals (m, 7)."""
    pull = rows.jacobian.transpose(0, 2, 1) @ (rows.information @ residual[:, :, None])
    return np.asarray(np.bincount(_unknowns(rows).ravel(), pull.ravel(), size), np.float64)


def _shortened(step: Array) -> Array:
    """A step (7 n,) as (n, 7), scaled down so that no chunk rotates or scales by more than _STEP."""
    step = step.reshape(-1, 7)
    longest = float(np.abs(step[:, [0, 1, 2, 6]]).max())
    return np.asarray(step * min(1.0, _STEP / max(longest, 1e-300)))


class CityEquations:
    """Factorised normal equations of `groups` over `count` chunks; the chunks `held` do not move.

    step (count, 7): the Gauss-Newton step, scaled down where it is too long.
    """

    def __init__(self, count: int, groups: Sequence[Rows], held: Sequence[int]) -> None:
        blocks, gradient = assembled(count, groups, ())
        matrix = blocks.tocsc()
        self._size = 7 * count
        free = np.ones(count, bool)
        free[np.asarray(held, np.int64)] = False
        # Held chunks are left out: as unknowns they would tie all their neighbours together in the factor.
        self._free = np.flatnonzero(np.repeat(free, 7))
        self._factor = factorised(matrix[self._free][:, self._free].tocsc())
        step = np.zeros(self._size)
        step[self._free] = -self._factor.solve(gradient[self._free])
        self.step: Array = _shortened(step)

    def covariance(self, rows: Rows) -> Array:
        """Covariance (7m, 7m) of the rows' residuals that follows from the uncertainty of the solution."""
        count = len(rows.residual)
        right = np.zeros((self._size, 7 * count))
        for n in range(count):
            for k, node in enumerate(rows.node[n]):
                right[node * 7 : node * 7 + 7, n * 7 : n * 7 + 7] += rows.jacobian[n, :, k * 7 : k * 7 + 7].T
        right = right[self._free]
        return np.asarray(right.T @ self._factor.solve(right))


def settled(
    state: State,
    joints: Joints,
    links: LinkRows,
    held: Sequence[int],
    iterations: int = 15,
    more: Callable[[State], Sequence[Rows]] = lambda state: (),
    accuracy: float = 1e-6,
    system: LargeSystem | None = None,
) -> State:
    """The state of least squared residuals of joints, links and the rows of `more`, by Gauss-Newton steps from `state`.

    held: chunks that do not move; iterations: most steps; accuracy: a step with smaller rotations (radians) and log
    scales is the last one; system: with more than 600 chunks the steps are solved by it. One that has solved equations
    of the same chunks needs less time.
    """
    count = len(state.scale)
    system = system or LargeSystem()
    for _ in range(iterations):
        groups = [joint_rows(state, joints), link_rows(state, links), *more(state)]
        if count <= _DIRECTLY:
            step = CityEquations(count, groups, held).step
        else:
            product, matrix = partial(product_of, groups, held), partial(_matrix_of, count, groups, held)
            step = _shortened(system.solve(product, matrix, -gradient_of(count, groups), state.translation))
        state = retract(state, step)
        if np.abs(step[:, [0, 1, 2, 6]]).max() < accuracy:
            break
    return state


def _matrix_of(count: int, groups: Sequence[Rows], held: Sequence[int]) -> scipy.sparse.bsr_matrix:
    return assembled(count, groups, held)[0]
