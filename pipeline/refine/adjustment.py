"""Bundle adjustment of a window of frames: poses, points, one camera, one depth scale for each frame.

It is Levenberg-Marquardt on the equations of `normal_equations`; `problem` defines the cost. The same input gives the
same bytes: sums run in a fixed order and nothing is random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.normal_equations import UNKNOWNS, Layout, NormalEquations
from pipeline.refine.problem import Problem, cost_from, linked, local_of, relative_of, residuals
from pipeline.refine.rig_frames import adjoints
from pipeline.refine.rotation import exp

Array = NDArray[np.float64]

_DAMPING = 1e-4  # of the first step
_LONGER = (1.0, 1.7)  # multiples of a step that are tried in this order while the cost falls
_EXACT = 1e-9  # damping of the points where covariances are computed


def adjust(problem: Problem, iterations: int = 12, tolerance: float = 1e-4) -> Problem:
    """The problem with those poses, points, depth scales and (where it is free) camera that have the least cost.

    iterations: largest number of steps; tolerance: a step that lowers the cost by a smaller share is the last one.
    """
    layout = Layout.of(problem)
    damping, state = _DAMPING, _State.of(problem)
    for _ in range(iterations):
        equations = state.equations(layout)
        own = _diagonal(state.problem, equations)
        for _ in range(6):
            step = equations.reduced(state.problem, layout, damping).solve(state.problem, layout, damping * own)
            trial = None if step is None else _best_along(state.problem, *step)
            if trial is not None and trial.cost < state.cost:
                gain = (state.cost - trial.cost) / max(state.cost, 1e-12)
                state, damping = trial, max(damping / 5, 1e-8)
                break
            damping *= 8
        else:
            break
        if gain < tolerance:
            break
    return state.problem


def step_covariance(problem: Problem) -> Array:
    """Covariances (F, 6, 6) of each frame's pose relative to the frame before it: rotation in radians and translation
    in units of the window, both in the axes of the frame's camera. NaN where the frame before it is of another camera,
    and for the first frame. Raises numpy.linalg.LinAlgError."""
    inverse = np.linalg.inv(_without_points(problem))
    if problem.rig is not None:
        jacobian = problem.rig.jacobian.toarray()
        inverse = jacobian @ inverse @ jacobian.T
    blocks = inverse[: -problem.camera_unknowns, : -problem.camera_unknowns].reshape(
        problem.frames, UNKNOWNS, problem.frames, UNKNOWNS
    )[:, :6, :, :6]
    before, after = np.arange(problem.frames - 1), np.arange(1, problem.frames)
    moved = adjoints(relative_of(problem.cam_from_window))
    own, other, both = blocks[after, :, after], blocks[before, :, before], blocks[after, :, before]
    crossed = both @ moved.transpose(0, 2, 1)
    steps = own + moved @ other @ moved.transpose(0, 2, 1) - crossed - crossed.transpose(0, 2, 1)
    answer = np.full((problem.frames, 6, 6), np.nan)
    answer[1:][linked(problem)] = steps[linked(problem)]
    return answer


def camera_deviation(problem: Problem) -> Array:
    """Standard deviations of the camera's unknowns (C,): of the log of a free focal length, then of free cx and cy in
    pixels. Raises numpy.linalg.LinAlgError."""
    return np.asarray(np.sqrt(np.maximum(np.diag(camera_covariance(problem)), 0.0)))


def camera_covariance(problem: Problem) -> Array:
    """Covariance (C, C) of the camera's unknowns: see `camera_deviation`; of a free lens also its coefficients. Raises
    numpy.linalg.LinAlgError."""
    many = problem.camera_unknowns
    return np.asarray(np.linalg.inv(_without_points(problem))[-many:, -many:])


def _without_points(problem: Problem) -> Array:
    layout = Layout.of(problem)
    reduced = _State.of(problem).equations(layout).reduced(problem, layout, _EXACT)
    return reduced.matrix if problem.rig is None else problem.rig.projected(reduced.matrix, reduced.gradient)[0]


def mount_covariance(problem: Problem) -> Array:
    """Covariance of the unknowns of a rig's mount: free rotations, then coefficients. Raises
    numpy.linalg.LinAlgError."""
    assert problem.rig is not None
    own = problem.rig.own_unknowns
    covariance = _rig_covariance(problem)
    return covariance[len(covariance) - own :, len(covariance) - own :]


def metre_deviation(problem: Problem) -> float:
    """Standard deviation of the log of a metre's length over that of the path of a rig's reference camera: what a
    window does not know of its own scale does not count. Infinite without a metre or a path. Raises
    numpy.linalg.LinAlgError."""
    rig = problem.rig
    assert rig is not None and rig.mount.is_metric
    turn = rig.rig_from_window[:, :3, :3]
    steps = np.diff(-np.einsum("nji,nj->ni", turn, rig.rig_from_window[:, :3, 3]), axis=0)
    length, metre = np.linalg.norm(steps, axis=1), abs(float(rig.mount.coefficient[0]))
    if not length.sum() > 0 or not metre > 0:
        return float("inf")
    way = steps / np.maximum(length, 1e-12)[:, None] / length.sum()
    by_centre = np.concatenate([np.zeros((1, 3)), way]) - np.concatenate([way, np.zeros((1, 3))])
    covariance = _rig_covariance(problem)
    slope = np.zeros(len(covariance))
    # A twist's translation moves the centre the other way, in the camera's axes.
    slope[: 6 * rig.instants].reshape(-1, 6)[:, 3:] = np.einsum("nij,nj->ni", turn, by_centre)
    slope[len(slope) - len(rig.mount.coefficient)] = 1 / metre
    return max(float(slope @ covariance @ slope), 0.0) ** 0.5


def _rig_covariance(problem: Problem) -> Array:
    """Of the unknowns of a rig, without the camera's."""
    inverse = np.linalg.inv(_without_points(problem))
    return np.asarray(inverse[: -problem.camera_unknowns, : -problem.camera_unknowns])


def _diagonal(problem: Problem, equations: NormalEquations) -> Array:
    """The diagonal of the equations before points are eliminated: it scales the damping."""
    if problem.rig is None:
        return np.diag(equations.frames)
    return np.diag(problem.rig.projected(equations.frames, equations.gradient)[0])


@dataclass(frozen=True, eq=False)
class _State:
    """A problem; its points in the axes of their cameras, local (3, M); its residuals (3, M); which observations (M,)
    have their point in front of the camera; its cost."""

    problem: Problem
    local: Array
    residual: Array
    front: NDArray[np.bool_]
    cost: float

    @staticmethod
    def of(problem: Problem) -> _State:
        local = local_of(problem)
        residual, front = residuals(problem, local)
        return _State(problem, local, residual, front, cost_from(problem, residual, front))

    def equations(self, layout: Layout) -> NormalEquations:
        return NormalEquations.of(self.problem, layout, self.local, self.residual, self.front)


def _best_along(problem: Problem, step: Array, points: Array) -> _State | None:
    """The problem after a step, or after a longer one if that costs less; None if the step is not usable.

    The robust weights are those at the beginning of the step. They make steps too short, by about the same factor
    each time.
    """
    best: _State | None = None
    for factor in _LONGER:
        moved = _moved(problem, factor * step, factor * points)
        trial = None if moved is None else _State.of(moved)
        if trial is None or (best is not None and trial.cost >= best.cost):
            break
        best = trial
    return best


def _moved(problem: Problem, step: Array, points: Array) -> Problem | None:
    of_frames = step if problem.rig is None else problem.rig.jacobian @ step
    of_camera = step[-problem.camera_unknowns :]
    frames = of_frames[: -problem.camera_unknowns].reshape(-1, UNKNOWNS)
    if not (np.isfinite(step).all() and np.isfinite(points).all()) or np.abs(frames[:, :3]).max() > 1:
        return None
    turn = exp(frames[:, :3])
    poses = problem.cam_from_window.copy()
    poses[:, :3, :3] = turn @ poses[:, :3, :3]
    poses[:, :3, 3] = np.einsum("nij,nj->ni", turn, poses[:, :3, 3]) + frames[:, 3:6]
    rig = None if problem.rig is None else problem.rig.moved(step)
    if rig is not None:
        poses = rig.cam_from_window
    camera = problem.camera.astype(np.float64)
    camera[:2] *= np.exp(np.clip(of_camera[0], -0.3, 0.3)) if problem.free_focal else 1.0
    if problem.free_principal:
        camera[2:] += of_camera[1:3]
    lens = problem.lens
    if lens is not None:
        lens = replace(lens, centre=camera[2:], bend=lens.bend + of_camera[3:])
    return replace(
        problem,
        cam_from_window=poses,
        points=problem.points + points,
        camera=camera,
        log_scale=problem.log_scale + frames[:, 6],
        rig=rig,
        lens=lens,
    )
