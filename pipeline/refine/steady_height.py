"""A window's scale held by the camera's height above the road: what drifts in height drifts in scale.

Tracks tell the scale of a step against the step before; over a hundred steps that walks at random. A camera on a car
keeps its height. The log of the height, smoothed as a random walk with outliers (Rauch, Tung and Striebel's smoother as
one tridiagonal system), is taken off the steps and off the depth; rotations and directions stay.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.refine.problem import inverse

Array = NDArray[np.float64]

_STEP = 0.004  # of log scale from frame to frame, as tracks leave it
_ALIKE = 6.0  # neighbouring frames see nearly the same road: so many count as one
_LEAST_SPREAD = 0.02  # of one frame's log height
_LEAST_SHARE = 0.5  # of the frames that must see a road
_LIMIT = 2.0  # deviations at which a height begins to be doubted: kerbs, ramps, cars
_ROUNDS = 6


def drift_of(log_height: Array) -> Array:
    """(F,): slow part of the log heights (F,), NaN where no road is seen, about its median; zeros where too few see
    one."""
    known = np.isfinite(log_height)
    count = len(log_height)
    if count < 2 or known.sum() < max(_LEAST_SHARE * count, 4):
        return np.zeros(count)
    values = np.where(known, log_height, 0.0)
    centre = float(np.median(log_height[known]))
    near = log_height[known] - centre
    spread = max(1.4826 * float(np.median(np.abs(np.diff(near)))) / np.sqrt(2), _LEAST_SPREAD)
    deviation = spread * np.sqrt(_ALIKE)
    drift = np.full(count, centre)
    for _ in range(_ROUNDS):
        score = (values - drift) / (_LIMIT * deviation)
        weight = known / deviation**2 / (1 + score**2)
        banded = np.zeros((2, count))
        banded[1] = weight + 1e-9
        banded[1, 1:] += _STEP**-2
        banded[1, :-1] += _STEP**-2
        banded[0, 1:] = -(_STEP**-2)
        drift = scipy.linalg.solveh_banded(banded, weight * values + 1e-9 * centre)
    return np.asarray(drift - np.median(drift))


def rescaled(cam_from_window: Array, drift: Array) -> Array:
    """Poses (F, 4, 4) whose steps are divided by exp(drift), (F,): a step by the mean of its two frames'."""
    relative = cam_from_window[1:] @ inverse(cam_from_window[:-1])
    relative[:, :3, 3] *= np.exp(-(drift[1:] + drift[:-1]) / 2)[:, None]
    poses = [cam_from_window[0]]
    for step in relative:
        poses.append(step @ poses[-1])
    return np.stack(poses)
