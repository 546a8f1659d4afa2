"""The cost of bundle adjustment: a window's cameras, points and observations, and the residuals between them.

reprojection    (projected - pixel) / `pixel`, Cauchy loss
depth           (log z - log d - s_f) / `depth`, Cauchy loss. z: depth of the point; d: the network's depth there;
                s_f: log scale of the network's depth in frame f, which is free
scale           s_f against zero, and against s_f of the frame before: depths of one window have similar scales
motion          relative pose of neighbouring frames against the start. It is weak: it decides where tracks are few
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.radial_lens import RadialLens
from pipeline.refine.rig_frames import RigFrames
from pipeline.refine.rotation import log

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

_NEAR = 1e-6  # depth in units of the window: a point with less is behind the camera
_BEHIND = 25.0  # deviations: the reprojection error that a point behind a camera counts as


@dataclass(frozen=True)
class Sigmas:
    """Standard deviations of the residuals that the module's docstring lists."""

    pixel: float = 0.2  # corners have median errors of 0.1 to 0.3 pixels
    coarse: float = 0.4  # the same of corners that were found in the network's pictures
    robust: float = 2.0  # deviations at which Cauchy's weight is a half; twice as many for depth
    depth: float = 0.3  # of log depth
    scale: float = 0.1  # of s_f against zero
    scale_step: float = 0.03  # of s_f against the frame before
    turn: float = 0.03  # of a relative pose's rotation, radians
    shift: float = 0.3  # of a relative pose's translation, as a share of its length
    focal: float = 0.5  # of log focal length against the start
    principal: float = 0.02  # of the principal point against the start, as a share of the picture's width
    bend: float = 0.5  # of a lens' coefficients against zero


@dataclass(frozen=True, eq=False)
class Problem:
    """F frames, P points, M observations sorted by point, then frame.

    cam_from_window (F, 4, 4); points (P, 3) in window axes; frame, point (M,): of each observation; xy (M, 2): source
    pixels; camera (4,): fx fy cx cy in source pixels; log_depth (M,): log of the network's depth at the observation,
    NaN where it is unknown; log_scale (F,): s_f; free_focal: fx and fy are free, with a fixed ratio; free_principal: so
    are cx and cy, with fx and fy; start (F, 4, 4), camera_start (4,): cam_from_window and camera that `motion`, `focal`
    and `principal` compare with; rig: the frames are those of a rig, whose poses determine cam_from_window; then
    `motion` is that of the reference camera; lens: bends the picture about cx and cy, and its coefficients are free,
    with fx, fy, cx and cy; None for a pinhole; coarse (M,): observations in the network's pictures, None for none.
    """

    cam_from_window: Array
    points: Array
    frame: Ints
    point: Ints
    xy: Array
    camera: Array
    log_depth: Array
    log_scale: Array
    start: Array
    camera_start: Array
    free_focal: bool
    sigmas: Sigmas = field(default_factory=Sigmas)
    rig: RigFrames | None = None
    free_principal: bool = False
    lens: RadialLens | None = None
    coarse: NDArray[np.bool_] | None = None

    @property
    def pixel_sigma(self) -> float | Array:
        """Standard deviation of each observation, or of all, in pixels."""
        sigmas = self.sigmas
        return sigmas.pixel if self.coarse is None else np.where(self.coarse, sigmas.coarse, sigmas.pixel)

    @property
    def camera_unknowns(self) -> int:
        """The number of the last unknowns, which are the camera's: log focal length; cx and cy where they are free; a
        lens' coefficients where there is one."""
        return 5 if self.lens is not None else 3 if self.free_principal else 1

    @property
    def camera_prior(self) -> tuple[Array, Array]:
        """Residuals of the camera's unknowns in deviations, and the inverse deviations, both (camera_unknowns,)."""
        bend = np.zeros(2) if self.lens is None else self.lens.bend
        away = np.array([np.log(self.camera[0] / self.camera_start[0]), *(self.camera - self.camera_start)[2:], *bend])
        width, sigmas = 2 * self.camera_start[2], self.sigmas
        inverse = 1 / np.array([sigmas.focal, *[sigmas.principal * width] * 2, *[sigmas.bend] * 2])
        return (away * inverse)[: self.camera_unknowns], inverse[: self.camera_unknowns]

    @property
    def frames(self) -> int:
        """The number of frames F."""
        return len(self.cam_from_window)


def project(problem: Problem) -> tuple[Array, Array]:
    """Reprojection errors (M, 2) in pixels, projected minus observed, NaN behind the camera; and depths z (M,)."""
    local = local_of(problem)
    z = np.where(local[2] > _NEAR, local[2], np.nan)
    return _seen_at(problem, local, z).T - problem.xy, local[2]


def _seen_at(problem: Problem, local: Array, z: Array) -> Array:
    """Pixels (2, M) at which the camera sees points of depths z (M,), which are local (3, M) in its axes."""
    pixels = problem.camera[:2, None] * local[:2] / z + problem.camera[2:, None]
    return pixels if problem.lens is None else problem.lens.bent(pixels.T, problem.xy).T


def local_of(problem: Problem) -> Array:
    """Each observation's point in the axes of its camera (3, M)."""
    poses = problem.cam_from_window[:, :3].reshape(-1, 12).T[:, problem.frame].reshape(3, 4, -1)
    x, y, z = problem.points.T[:, problem.point]
    return np.asarray(poses[:, 0] * x + poses[:, 1] * y + poses[:, 2] * z + poses[:, 3])


def residuals(problem: Problem, local: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Residuals (3, M) in deviations: x, y, log depth (0 where it is unknown); and which observations (M,) have their
    point in front of the camera. local (3, M): from `local_of`."""
    sigmas = problem.sigmas
    front = local[2] > _NEAR
    z = np.where(front, local[2], 1.0)
    answer = np.empty_like(local)
    answer[:2] = (_seen_at(problem, local, z) - problem.xy.T) / problem.pixel_sigma
    answer[2] = (np.log(z) - problem.log_depth - problem.log_scale[problem.frame]) / sigmas.depth
    answer[2, np.isnan(answer[2])] = 0.0
    return answer, front


def robust(problem: Problem, residual: Array, front: NDArray[np.bool_]) -> tuple[Array, float]:
    """Weights (2, M) of Cauchy's loss for pixels and for depth, 0 behind the camera; and the sum of the loss."""
    limit = problem.sigmas.robust**2
    squared = np.stack([residual[0] ** 2 + residual[1] ** 2, residual[2] ** 2 / 4])
    squared[0, ~front], squared[1, ~front] = _BEHIND**2, 0.0
    weight = 1 / (1 + squared / limit)
    weight[:, ~front] = 0
    loss = limit * np.log1p(squared / limit).sum(1)
    return weight, float(loss[0] + 4 * loss[1])


def priors(problem: Problem) -> tuple[Array, Array, Array]:
    """Residuals in deviations: motion (F - 1, 6), s_f against zero (F,), s_f against the frame before (F - 1,)."""
    sigmas = problem.sigmas
    relative = relative_of(problem.cam_from_window)
    expected = relative_of(problem.start)
    turned = relative[:, :3, :3] @ expected[:, :3, :3].transpose(0, 2, 1)
    shift = relative[:, :3, 3] - np.einsum("nij,nj->ni", turned, expected[:, :3, 3])
    motion = np.concatenate([log(turned) / sigmas.turn, shift / shift_sigma(problem)[:, None]], 1)
    motion[~motion_counts(problem)] = 0
    return motion, problem.log_scale / sigmas.scale, linked(problem) * np.diff(problem.log_scale) / sigmas.scale_step


def shift_sigma(problem: Problem) -> Array:
    """Standard deviations (F - 1,) of the translations of `motion`, in units of the window."""
    step = np.linalg.norm(relative_of(problem.start)[:, :3, 3], axis=1)
    usual = float(np.median(step[motion_counts(problem)])) if len(step) else 1.0
    share = np.full(len(step), problem.sigmas.shift)
    if problem.rig is not None:
        own = problem.rig.step_sigma
        share[: len(own)] = np.where(np.isfinite(own), own, share[: len(own)])
    return np.asarray(share * np.maximum(step, max(0.3 * usual, 1e-6)))


def linked(problem: Problem) -> NDArray[np.bool_]:
    """Which frames (F - 1,) are followed by the next frame of the same camera."""
    return np.ones(problem.frames - 1, np.bool_) if problem.rig is None else problem.rig.linked


def motion_counts(problem: Problem) -> NDArray[np.bool_]:
    """To which steps (F - 1,) `motion` applies: to all, of a rig to those of its reference camera."""
    rig = problem.rig
    return linked(problem) if rig is None else rig.linked & (rig.camera[1:] == 0)


def relative_of(cam_from_window: Array) -> Array:
    """Relative poses (F - 1, 4, 4): next_camera_from_camera."""
    return np.asarray(cam_from_window[1:] @ inverse(cam_from_window[:-1]))


def inverse(poses: Array) -> Array:
    """Inverses of rigid motions (n, 4, 4)."""
    answer = np.tile(np.eye(4), (len(poses), 1, 1))
    answer[:, :3, :3] = poses[:, :3, :3].transpose(0, 2, 1)
    answer[:, :3, 3] = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    return answer


def cost_of(problem: Problem) -> float:
    """The cost that adjustment minimises."""
    residual, front = residuals(problem, local_of(problem))
    return cost_from(problem, residual, front)


def cost_from(problem: Problem, residual: Array, front: NDArray[np.bool_]) -> float:
    """The same cost, from `residuals` already computed: residual (3, M), front (M,)."""
    _, loss = robust(problem, residual, front)
    total = loss + sum(float((part**2).sum()) for part in priors(problem))
    total += float((problem.camera_prior[0] ** 2).sum())
    own = 0.0 if problem.rig is None else float((problem.rig.prior()[0] ** 2).sum())
    return total + own
