"""Bundle adjustment of a window of frames: poses, points, one focal length, a free depth scale a frame.

Levenberg-Marquardt on the normal equations, points eliminated by the Schur complement (Triggs et al., "Bundle
Adjustment: A Modern Synthesis", 2000), everything vectorised over observations; `problem` says what is made small.
Same input, same bytes: sums run in a fixed order, nothing is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from pipeline.refine.problem import Problem, cost_of, local_of, priors, relative_of, residuals, robust, shift_sigma
from pipeline.refine.rotation import exp

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_C = 7  # unknowns of a frame: turn 3, shift 3, log scale of its depth
_LENGTHS = (4, 10, 24)  # tracks are eliminated in groups of like length: short ones touch few frames


def adjust(problem: Problem, iterations: int = 12, tolerance: float = 1e-4) -> Problem:
    """The problem with poses, points, focal length and depth scales of least cost."""
    groups = _groups(problem)
    gather = _Gather.of(problem)
    damping = 1e-4
    cost = cost_of(problem)
    for _ in range(iterations):
        system = _System.of(problem, gather)
        for _ in range(6):
            step = system.solve(problem, groups, gather, damping)
            trial = None if step is None else _moved(problem, *step)
            trial_cost = np.inf if trial is None else cost_of(trial)
            if trial is not None and trial_cost < cost:
                gain = (cost - trial_cost) / max(cost, 1e-12)
                problem, cost, damping = trial, trial_cost, max(damping / 5, 1e-8)
                break
            damping *= 8
        else:
            break
        if gain < tolerance:
            break
    return problem


def frame_covariance(problem: Problem, damping: float = 1e-9) -> Array:
    """(F, 6, 6) covariance of each frame's pose (turn, shift; in its own axes), the first frame being exact."""
    groups, gather = _groups(problem), _Gather.of(problem)
    matrix = _System.of(problem, gather).reduced(problem, groups, gather, damping)[0]
    inverse = np.linalg.inv(matrix)
    places = np.arange(problem.frames) * _C
    return np.stack([inverse[p : p + 6, p : p + 6] for p in places])


def focal_deviation(problem: Problem) -> float:
    """Deviation of the log of a free focal length."""
    groups, gather = _groups(problem), _Gather.of(problem)
    matrix = _System.of(problem, gather).reduced(problem, groups, gather, 1e-9)[0]
    return float(np.sqrt(max(np.linalg.inv(matrix)[-1, -1], 0.0)))


@dataclass(frozen=True, eq=False)
class _Gather:
    """Sparse sums: by_frame (F, M) and by_point (P, M), of ones."""

    by_frame: scipy.sparse.csr_array
    by_point: scipy.sparse.csr_array

    @staticmethod
    def of(problem: Problem) -> _Gather:
        count = len(problem.frame)
        one, rows = np.ones(count), np.arange(count)
        return _Gather(
            scipy.sparse.csr_array((one, (problem.frame, rows)), (problem.frames, count)),
            scipy.sparse.csr_array((one, (problem.point, rows)), (len(problem.points), count)),
        )

    def frames(self, values: Array) -> Array:
        return np.asarray(self.by_frame @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])

    def points(self, values: Array) -> Array:
        return np.asarray(self.by_point @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])


@dataclass(frozen=True, eq=False)
class _Group:
    """Points whose tracks begin alike and are of like length: rows of observations, their place in the group."""

    rows: Ints
    point: Ints
    frame: Ints
    points: int
    first: int
    width: int


def _groups(problem: Problem) -> list[_Group]:
    starts = np.flatnonzero(np.diff(problem.point, prepend=-1))
    first = problem.frame[starts]
    last = problem.frame[np.append(starts[1:], len(problem.point)) - 1]
    kind = np.searchsorted(_LENGTHS, last - first + 1)
    of_point = problem.point[starts]
    groups = []
    for key in np.unique(first * 10 + kind):
        mine = np.flatnonzero(first * 10 + kind == key)
        number = np.full(len(problem.points), -1)
        number[of_point[mine]] = np.arange(len(mine))
        rows = np.flatnonzero(number[problem.point] >= 0)
        begin = int(first[mine[0]])
        groups.append(
            _Group(
                rows,
                number[problem.point[rows]],
                problem.frame[rows] - begin,
                len(mine),
                begin,
                int((last[mine] - begin).max()) + 1,
            )
        )
    return groups


@dataclass(frozen=True, eq=False)
class _System:
    """Whitened normal equations before points are eliminated. cross (M, 3, 7): points by frames; cross_focal (P, 3)."""

    frames: Array  # (D, D)
    gradient: Array  # (D,)
    points: Array  # (P, 3, 3)
    point_gradient: Array  # (P, 3)
    cross: Array
    cross_focal: Array

    @staticmethod
    def of(problem: Problem, gather: _Gather) -> _System:
        local = local_of(problem)
        residual, front = residuals(problem, local)
        weight, _ = robust(problem, residual, front)
        root = np.sqrt(weight)
        sigmas, count = problem.sigmas, len(local)
        z = np.where(front, local[:, 2], 1.0)
        x, y = local[:, 0] / z, local[:, 1] / z
        by_local = np.zeros((count, 3, 3))  # residual by the point in the camera's axes
        fx, fy = problem.camera[:2]
        by_local[:, 0, 0], by_local[:, 0, 2] = fx / z, -fx * x / z
        by_local[:, 1, 1], by_local[:, 1, 2] = fy / z, -fy * y / z
        by_local[:, :2] /= sigmas.pixel
        known = np.isfinite(problem.log_depth)
        by_local[:, 2, 2] = known / (z * sigmas.depth)
        by_local *= root[:, :, None]
        residual = residual * root
        by_frame = np.empty((count, 3, _C))
        by_frame[:, :, 0] = by_local[:, :, 2] * local[:, None, 1] - by_local[:, :, 1] * local[:, None, 2]
        by_frame[:, :, 1] = by_local[:, :, 0] * local[:, None, 2] - by_local[:, :, 2] * local[:, None, 0]
        by_frame[:, :, 2] = by_local[:, :, 1] * local[:, None, 0] - by_local[:, :, 0] * local[:, None, 1]
        by_frame[:, :, 3:6] = by_local
        by_frame[:, :, 6] = 0
        by_frame[:, 2, 6] = -(known / sigmas.depth) * root[:, 2]
        by_point = by_local @ problem.cam_from_window[problem.frame, :3, :3]
        by_focal = np.stack([fx * x, fy * y, np.zeros(count)], 1) / sigmas.pixel * root

        size = problem.frames * _C + 1
        matrix, gradient = np.zeros((size, size)), np.zeros(size)
        blocks = gather.frames(np.einsum("mki,mkj->mij", by_frame, by_frame))
        side = gather.frames(np.einsum("mki,mk->mi", by_frame, by_focal))
        down = gather.frames(np.einsum("mki,mk->mi", by_frame, residual))
        for f in range(problem.frames):
            part = slice(f * _C, f * _C + _C)
            matrix[part, part] = blocks[f]
            matrix[part, -1] = matrix[-1, part] = side[f]
            gradient[part] = down[f]
        matrix[-1, -1] = (by_focal**2).sum()
        gradient[-1] = (by_focal * residual).sum()
        _add_priors(problem, matrix, gradient)
        transposed = by_point.transpose(0, 2, 1)
        return _System(
            matrix,
            gradient,
            gather.points(transposed @ by_point),
            gather.points(np.einsum("mki,mk->mi", by_point, residual)),
            transposed @ by_frame,
            gather.points(np.einsum("mki,mk->mi", by_point, by_focal)),
        )

    def reduced(
        self, problem: Problem, groups: list[_Group], gather: _Gather, damping: float
    ) -> tuple[Array, Array, Array, Array]:
        """Matrix (D, D) and right side (D,) without points, and what gives the points back: inverse roots (P, 3, 3),
        whitened cross terms (M, 3, 7)."""
        diagonal = np.einsum("pii->pi", self.points)
        floor = 1e-12 * max(float(diagonal.max(initial=0.0)), 1e-30)
        damped = self.points + np.einsum("pi,ij->pij", damping * diagonal + floor, np.eye(3))
        root = _inverse_root(damped)
        cross = root[problem.point] @ self.cross
        focal = np.einsum("pij,pj->pi", root, self.cross_focal)
        right = np.einsum("pij,pj->pi", root, self.point_gradient)
        matrix, gradient = self.frames.copy(), self.gradient.copy()
        for group in groups:
            block = np.zeros((group.width, _C, group.points, 3))
            block[group.frame, :, group.point] = cross[group.rows].transpose(0, 2, 1)
            flat = block.reshape(group.width * _C, -1)
            part = slice(group.first * _C, (group.first + group.width) * _C)
            matrix[part, part] -= flat @ flat.T
        side = gather.frames(np.einsum("mki,mk->mi", cross, focal[problem.point])).ravel()
        matrix[:-1, -1] -= side
        matrix[-1, :-1] -= side
        matrix[-1, -1] -= float((focal**2).sum())
        gradient[:-1] -= gather.frames(np.einsum("mki,mk->mi", cross, right[problem.point])).ravel()
        gradient[-1] -= float((focal * right).sum())
        matrix[np.arange(6), np.arange(6)] += 1e12  # the first frame is where it is
        if not problem.free_focal:
            matrix[-1, -1] += 1e14
        return matrix, gradient, root, cross

    def solve(
        self, problem: Problem, groups: list[_Group], gather: _Gather, damping: float
    ) -> tuple[Array, Array] | None:
        """Steps of frames and camera (D,) and of points (P, 3); None where the matrix is not positive."""
        matrix, gradient, root, cross = self.reduced(problem, groups, gather, damping)
        matrix[np.diag_indices_from(matrix)] += damping * np.diag(self.frames)
        try:
            step = -scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix, lower=True), gradient)
        except (scipy.linalg.LinAlgError, ValueError):
            return None
        frames = step[:-1].reshape(-1, _C)
        pulled = gather.points(np.einsum("mki,mi->mk", cross, frames[problem.frame]))
        right = np.einsum("pij,pj->pi", root, self.point_gradient + self.cross_focal * step[-1])
        points = -np.einsum("pji,pj->pi", root, right + pulled)
        return step, points


def _add_priors(problem: Problem, matrix: Array, gradient: Array) -> None:
    sigmas, count = problem.sigmas, problem.frames
    motion, scale, steps = priors(problem)
    relative = relative_of(problem.cam_from_window)
    information = (
        np.concatenate([np.full((count - 1, 3), sigmas.turn), np.repeat(shift_sigma(problem)[:, None], 3, 1)], 1)
        ** -1.0
    )
    by_this = -information[:, :, None] * _adjoints(relative)
    corner = information[:, :, None] * np.eye(6)
    for f in range(count - 1):
        this, following = slice(f * _C, f * _C + 6), slice((f + 1) * _C, (f + 1) * _C + 6)
        matrix[this, this] += by_this[f].T @ by_this[f]
        matrix[following, following] += corner[f] ** 2
        across = by_this[f].T * information[f]
        matrix[this, following] += across
        matrix[following, this] += across.T
        gradient[this] += by_this[f].T @ motion[f]
        gradient[following] += information[f] * motion[f]
    own = np.arange(count) * _C + 6
    matrix[own, own] += sigmas.scale**-2
    gradient[own] += scale / sigmas.scale
    rate = 1 / sigmas.scale_step
    matrix[own[1:], own[1:]] += rate**2
    matrix[own[:-1], own[:-1]] += rate**2
    matrix[own[1:], own[:-1]] -= rate**2
    matrix[own[:-1], own[1:]] -= rate**2
    gradient[own[1:]] += steps * rate
    gradient[own[:-1]] -= steps * rate
    matrix[-1, -1] += sigmas.focal**-2
    gradient[-1] += np.log(problem.camera[0] / problem.camera_start[0]) / sigmas.focal**2


def _adjoints(poses: Array) -> Array:
    """(n, 6, 6): of rigid motions (n, 4, 4), for (turn, shift)."""
    answer = np.zeros((len(poses), 6, 6))
    rotation, (x, y, z) = poses[:, :3, :3], poses[:, :3, 3].T
    cross = np.zeros((len(poses), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= cross.transpose(0, 2, 1)
    answer[:, :3, :3] = answer[:, 3:, 3:] = rotation
    answer[:, 3:, :3] = cross @ rotation
    return answer


def _inverse_root(matrices: Array) -> Array:
    """Lower triangular L^-1 of A = L L^T, for (n, 3, 3) positive matrices."""
    a = np.sqrt(matrices[:, 0, 0])
    b, c = matrices[:, 1, 0] / a, matrices[:, 2, 0] / a
    d = np.sqrt(np.maximum(matrices[:, 1, 1] - b * b, 1e-12 * matrices[:, 1, 1] + 1e-300))
    e = (matrices[:, 2, 1] - b * c) / d
    f = np.sqrt(np.maximum(matrices[:, 2, 2] - c * c - e * e, 1e-12 * matrices[:, 2, 2] + 1e-300))
    root = np.zeros_like(matrices)
    root[:, 0, 0], root[:, 1, 1], root[:, 2, 2] = 1 / a, 1 / d, 1 / f
    root[:, 1, 0] = -b / (a * d)
    root[:, 2, 1] = -e / (d * f)
    root[:, 2, 0] = (b * e - c * d) / (a * d * f)
    return root


def _moved(problem: Problem, step: Array, points: Array) -> Problem | None:
    frames = step[:-1].reshape(-1, _C)
    if not (np.isfinite(step).all() and np.isfinite(points).all()) or np.abs(frames[:, :3]).max() > 1:
        return None
    turn = exp(frames[:, :3])
    poses = problem.cam_from_window.copy()
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    poses[:, :3, 3] = np.einsum("nij,nj->ni", turn, poses[:, :3, 3]) + frames[:, 3:6]
    camera = problem.camera.astype(np.float64)
    camera[:2] *= np.exp(np.clip(step[-1], -0.3, 0.3)) if problem.free_focal else 1.0
    return replace(
        problem,
        cam_from_window=poses,
        points=problem.points + points,
        camera=camera,
        log_scale=problem.log_scale + frames[:, 6],
    )
