"""Normal equations of a window's bundle adjustment, with points eliminated by the Schur complement.

Triggs et al., "Bundle Adjustment: A Modern Synthesis" (2000), section 6. The last axis of an array runs over
observations, so that each operation is one pass over memory. Sums over a frame or over pairs of frames are matrix
products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.refine.problem import Problem, linked, motion_counts, priors, relative_of, robust, shift_sigma
from pipeline.refine.radial_lens import RadialLens
from pipeline.refine.rig_frames import FRAME_UNKNOWNS, adjoints

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

UNKNOWNS = FRAME_UNKNOWNS
_LENGTHS = (6, 20)  # frames: tracks are eliminated in three groups by length, because short ones touch few frames
_PAIRS = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))  # the lower triangle of a point's matrix


@dataclass(frozen=True, eq=False)
class Layout:
    """Index arrays that stay the same while a problem is solved.

    groups: points that are eliminated together; by_frame (M,): observations sorted by frame, those of frame f at
    bounds[f] to bounds[f + 1]; bounds (F + 1,); starts (P,): first observation of each point.
    """

    groups: list[_Group]
    by_frame: Ints
    bounds: Ints
    starts: Ints

    @staticmethod
    def of(problem: Problem) -> Layout:
        """The layout of a problem in which every point has an observation."""
        by_frame = np.argsort(problem.frame, kind="stable")
        bounds = np.searchsorted(problem.frame[by_frame], np.arange(problem.frames + 1))
        starts = np.flatnonzero(np.diff(problem.point, prepend=-1))
        return Layout(_groups(problem, starts), by_frame, bounds, starts)


@dataclass(frozen=True, eq=False)
class _Group:
    """Points whose tracks begin in the same frame and have similar lengths; of a rig also end in the same camera.

    points: their numbers; rows: their observations; place: of each observation, its point's position in `points`;
    frames (w,): those that see the points, rising; frame: of each observation, its position in `frames`; unknowns:
    where theirs are.
    """

    rows: Ints
    points: Ints
    place: Ints
    frames: Ints
    frame: Ints
    unknowns: slice | Ints


def _groups(problem: Problem, starts: Ints) -> list[_Group]:
    first = problem.frame[starts]
    stops = np.append(starts[1:], len(problem.point))
    last = problem.frame[stops - 1]
    instants = problem.frames if problem.rig is None else problem.rig.instants
    # A point that two cameras of a rig see is in frames that are far apart, of which only its own count.
    ends = np.where(first // instants == last // instants, 0, last // instants)
    length = np.where(ends == 0, last - first + 1, stops - starts)
    key = (first * (len(_LENGTHS) + 1) + np.searchsorted(_LENGTHS, length)) * (problem.frames // instants) + ends
    order = np.argsort(key, kind="stable")
    groups = []
    for points in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        counts = (stops - starts)[points]
        place = np.repeat(np.arange(len(points)), counts)
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[points][place]
        if ends[points[0]]:
            frames = np.unique(problem.frame[rows])
            unknowns: slice | Ints = (frames[:, None] * UNKNOWNS + np.arange(UNKNOWNS)).ravel()
        else:
            frames = np.arange(first[points[0]], last[points].max() + 1)
            unknowns = slice(int(frames[0]) * UNKNOWNS, int(frames[-1] + 1) * UNKNOWNS)
        place_of = np.searchsorted(frames, problem.frame[rows])
        groups.append(_Group(rows, points, place, frames, place_of, unknowns))
    return groups


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """Normal equations before points are eliminated.

    frames (F * 7 + C, F * 7 + C): matrix of frames and, last, of the camera's C unknowns (`Problem.camera_unknowns`);
    gradient (F * 7 + C,); points (6, P): lower triangles of the points' matrices; point_gradient (3, P); point_camera
    (C, 3, P): points by the camera; cross (3, 7, M): points by frames, for each observation.
    """

    frames: Array
    gradient: Array
    points: Array
    point_gradient: Array
    point_camera: Array
    cross: Array

    @staticmethod
    def of(
        problem: Problem, layout: Layout, local: Array, residual: Array, front: NDArray[np.bool_]
    ) -> NormalEquations:
        """The equations at a problem: local (3, M) from `local_of`, residual (3, M) and front (M,) from `residuals`."""
        count = local.shape[1]
        weight, _ = robust(problem, residual, front)
        root = np.sqrt(weight)
        z = np.where(front, local[2], 1.0)
        x, y = local[0] / z, local[1] / z
        sigmas, (fx, fy) = problem.sigmas, problem.camera[:2]
        known = np.isfinite(problem.log_depth) * root[1] / sigmas.depth
        root_pixel = root[0] / problem.pixel_sigma
        a, b, c = fx * root_pixel / z, fy * root_pixel / z, known / z  # derivatives by the point, in camera axes
        # Jacobian of an observation's three residuals (rotation 3, translation 3, scale, camera C), then residuals.
        own = UNKNOWNS + problem.camera_unknowns
        rows = np.zeros((own + 1, 3, count))
        rows[0, 0], rows[0, 1], rows[0, 2] = -a * x * local[1], -b * (y * local[1] + z), c * local[1]
        rows[1, 0], rows[1, 1], rows[1, 2] = a * (z + x * local[0]), b * y * local[0], -c * local[0]
        rows[2, 0], rows[2, 1] = -a * local[1], b * local[0]
        rows[3, 0], rows[4, 1] = a, b
        rows[5, 0], rows[5, 1], rows[5, 2] = -a * x, -b * y, c
        rows[6, 2] = -known
        if problem.free_focal:
            rows[7, 0], rows[7, 1] = fx * x * root_pixel, fy * y * root_pixel
        if problem.free_principal:
            rows[8, 0] = rows[9, 1] = root_pixel
        rows[own, :2], rows[own, 2] = residual[:2] * root[0], residual[2] * root[1]
        by_point = np.empty((3, 3, count))  # axes: coordinate of the point, residual, observation
        turn = problem.cam_from_window[:, :3, :3].reshape(-1, 9).T[:, problem.frame].reshape(3, 3, count)
        by_point[:, 0] = a * (turn[0] - x * turn[2])
        by_point[:, 1] = b * (turn[1] - y * turn[2])
        by_point[:, 2] = c * turn[2]
        if problem.lens is not None:
            _through_lens(problem, problem.lens, residual, root_pixel, rows, by_point)

        of_point = np.stack(
            [(by_point[i] * by_point[j]).sum(0) for i, j in _PAIRS]
            + [(by_point[i] * rows[own]).sum(0) for i in range(3)]
            + [(by_point[i] * rows[row]).sum(0) for row in range(UNKNOWNS, own) for i in range(3)]
        )
        summed = np.add.reduceat(of_point, layout.starts, axis=1)
        cross = np.empty((3, UNKNOWNS, count))
        for i in range(3):
            np.multiply(by_point[i, 0], rows[:7, 0], out=cross[i])
            cross[i] += by_point[i, 1] * rows[:7, 1]
            cross[i] += by_point[i, 2] * rows[:7, 2]
        matrix, gradient = _of_frames(problem, layout, rows)
        _add_priors(problem, matrix, gradient)
        by_camera = summed[9:].reshape(problem.camera_unknowns, 3, -1)
        return NormalEquations(matrix, gradient, summed[:6], summed[6:9], by_camera, cross)

    def reduced(self, problem: Problem, layout: Layout, damping: float) -> Reduced:
        """The equations of frames and camera alone. damping: share by which the diagonals of the points' matrices
        are raised."""
        diagonal = self.points[[0, 2, 5]]
        floor = 1e-12 * max(float(diagonal.max(initial=0.0)), 1e-30)
        root = _inverse_root(self.points, damping * diagonal + floor)
        right = _lower(root, self.point_gradient)
        camera = np.stack([_lower(root, one) for one in self.point_camera])
        many = len(camera)
        cross = _lower(root[:, problem.point][:, None], self.cross)
        matrix, gradient = self.frames.copy(), self.gradient.copy()
        for group in layout.groups:
            width = len(group.frames)
            size = width * UNKNOWNS
            block = np.zeros((width + 1, UNKNOWNS, 3, len(group.points)))
            block[group.frame, :, :, group.place] = cross[:, :, group.rows].transpose(2, 1, 0)
            block[width, 0], block[width, 1 : 1 + many] = right[:, group.points], camera[:, :, group.points]
            flat = block.reshape(-1, 3 * len(group.points))[: size + 1 + many]
            product = flat @ flat.T
            part = group.unknowns
            both = (part, part) if isinstance(part, slice) else np.ix_(part, part)
            matrix[both] -= product[:size, :size]
            matrix[part, -many:] -= product[:size, -many:]
            matrix[-many:, part] -= product[:size, -many:].T
            matrix[-many:, -many:] -= product[-many:, -many:]
            gradient[part] -= product[:size, size]
            gradient[-many:] -= product[-many:, size]
        matrix[np.arange(6), np.arange(6)] += 1e12  # the pose of the first frame is held
        if not problem.free_focal:
            matrix[-many, -many] += 1e14
        return Reduced(matrix, gradient, root, cross, right, camera)


@dataclass(frozen=True, eq=False)
class Reduced:
    """Normal equations of frames and camera: matrix (F * 7 + C, F * 7 + C), gradient (F * 7 + C,).

    The other fields are for the step of the points: root (6, P): lower triangles of L^-1 where a point's matrix is
    L L^T; cross (3, 7, M), right (3, P), camera (C, 3, P): points' cross terms, gradients and camera terms times L^-1.
    """

    matrix: Array
    gradient: Array
    root: Array
    cross: Array
    right: Array
    camera: Array

    def solve(self, problem: Problem, layout: Layout, damping: Array) -> tuple[Array, Array] | None:
        """Steps of the unknowns and of points (P, 3); None where the matrix is not positive definite.

        The unknowns are those of frames and camera (F * 7 + C,), of a rig its own (N,). damping: as many
        numbers, which are added to the diagonal.
        """
        if problem.rig is None:
            matrix, gradient = self.matrix.copy(), self.gradient
        else:
            matrix, gradient = problem.rig.projected(self.matrix, self.gradient)
        matrix[np.diag_indices_from(matrix)] += damping
        try:
            factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True)
            step = -scipy.linalg.cho_solve(factor, gradient)
        except (scipy.linalg.LinAlgError, ValueError):
            return None
        of_frames = step if problem.rig is None else problem.rig.jacobian @ step
        many = problem.camera_unknowns
        of_frame = of_frames[:-many].reshape(-1, UNKNOWNS).T[:, problem.frame]
        pulled = np.add.reduceat((self.cross * of_frame).sum(1), layout.starts, axis=1)
        pulled += self.right + np.tensordot(step[-many:], self.camera, 1)
        root = self.root
        points = -np.stack(
            [
                root[0] * pulled[0] + root[1] * pulled[1] + root[3] * pulled[2],
                root[2] * pulled[1] + root[4] * pulled[2],
                root[5] * pulled[2],
            ],
            1,
        )
        return step, points


def _through_lens(
    problem: Problem, lens: RadialLens, residual: Array, root_pixel: Array, rows: Array, by_point: Array
) -> None:
    """Turn the derivatives of a pinhole's pixels into those of a lens' picture, and add those by its coefficients. The
    rows of cx and cy stay as they are: the picture is bent about them."""
    seen = problem.xy + residual[:2].T * problem.sigmas.pixel
    (a, b), (_, d) = lens.by_pixel(seen)  # symmetric
    inverse = np.stack([np.stack([d, -b]), np.stack([-b, a])]) / (a * d - b * b)
    by_bend = lens.by_bend(seen) * root_pixel
    for part in (rows[:8], by_point):
        x, y = part[:, 0].copy(), part[:, 1].copy()
        part[:, 0], part[:, 1] = inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y
    rows[10:12, 0] = -(inverse[0, 0] * by_bend[:, 0] + inverse[0, 1] * by_bend[:, 1])
    rows[10:12, 1] = -(inverse[1, 0] * by_bend[:, 0] + inverse[1, 1] * by_bend[:, 1])


def _of_frames(problem: Problem, layout: Layout, rows: Array) -> tuple[Array, Array]:
    """Matrix and gradient of frames and camera, without priors, from rows (8 + C, 3, M)."""
    many = problem.camera_unknowns
    size = problem.frames * UNKNOWNS + many
    matrix, gradient = np.zeros((size, size)), np.zeros(size)
    sorted_rows = np.take(rows, layout.by_frame, axis=2)
    for f in range(problem.frames):
        mine = sorted_rows[:, :, layout.bounds[f] : layout.bounds[f + 1]].reshape(len(rows), -1)
        product = mine @ mine.T
        part = slice(f * UNKNOWNS, (f + 1) * UNKNOWNS)
        matrix[part, part] = product[:7, :7]
        matrix[part, -many:] = product[:7, 7:-1]
        matrix[-many:, part] = product[7:-1, :7]
        gradient[part] = product[:7, -1]
        matrix[-many:, -many:] += product[7:-1, 7:-1]
        gradient[-many:] += product[7:-1, -1]
    return matrix, gradient


def _add_priors(problem: Problem, matrix: Array, gradient: Array) -> None:
    sigmas, count = problem.sigmas, problem.frames
    motion, scale, steps = priors(problem)
    shift = np.repeat(shift_sigma(problem)[:, None], 3, 1)
    information = 1 / np.concatenate([np.full((count - 1, 3), sigmas.turn), shift], 1)
    information[~motion_counts(problem)] = 0
    by_this = -information[:, :, None] * adjoints(relative_of(problem.cam_from_window))
    own_block = by_this.transpose(0, 2, 1) @ by_this
    across = by_this.transpose(0, 2, 1) * information[:, None, :]
    down = np.einsum("fij,fi->fj", by_this, motion)
    for f in range(count - 1):
        begin = f * UNKNOWNS
        this, following = slice(begin, begin + 6), slice(begin + UNKNOWNS, begin + UNKNOWNS + 6)
        matrix[this, this] += own_block[f]
        matrix[this, following] += across[f]
        matrix[following, this] += across[f].T
        gradient[this] += down[f]
        gradient[following] += information[f] * motion[f]
    places = (np.arange(1, count) * UNKNOWNS)[:, None] + np.arange(6)
    matrix[places, places] += information**2
    own = np.arange(count) * UNKNOWNS + 6
    matrix[own, own] += sigmas.scale**-2
    gradient[own] += scale / sigmas.scale
    rate = linked(problem) / sigmas.scale_step
    matrix[own[1:], own[1:]] += rate**2
    matrix[own[:-1], own[:-1]] += rate**2
    matrix[own[1:], own[:-1]] -= rate**2
    matrix[own[:-1], own[1:]] -= rate**2
    gradient[own[1:]] += steps * rate
    gradient[own[:-1]] -= steps * rate
    residual, inverse = problem.camera_prior
    last = np.arange(len(matrix) - len(inverse), len(matrix))
    matrix[last, last] += inverse**2
    gradient[last] += residual * inverse


def _inverse_root(lower: Array, added: Array) -> Array:
    """Lower triangles (6, n) of L^-1 for positive definite matrices A = L L^T. lower (6, n): their lower triangles;
    added (3, n): is added to their diagonals."""
    first, second, third = lower[0] + added[0], lower[2] + added[1], lower[5] + added[2]
    a = np.sqrt(first)
    b, c = lower[1] / a, lower[3] / a
    d = np.sqrt(np.maximum(second - b * b, 1e-12 * second + 1e-300))
    e = (lower[4] - b * c) / d
    f = np.sqrt(np.maximum(third - c * c - e * e, 1e-12 * third + 1e-300))
    return np.stack([1 / a, -b / (a * d), 1 / d, (b * e - c * d) / (a * d * f), -e / (d * f), 1 / f])


def _lower(root: Array, values: Array) -> Array:
    """Products of lower triangular matrices, given by their triangles (6, ...), with vectors `values` (3, ...)."""
    answer = np.empty_like(values)
    np.multiply(root[0], values[0], out=answer[0])
    np.multiply(root[2], values[1], out=answer[1])
    answer[1] += root[1] * values[0]
    np.multiply(root[5], values[2], out=answer[2])
    answer[2] += root[4] * values[1]
    answer[2] += root[3] * values[0]
    return answer
