"""Holds a window's scale by the camera's height above the road, which is constant for a camera on a car.

Tracks give the scale of a step only relative to the step before, so over a hundred steps the scale is a random walk. A
drift of the measured height is therefore a drift of scale. The log of the height is smoothed as a random walk with
outliers (the smoother of Rauch, Tung and Striebel, solved as one tridiagonal system). The steps and the depth are
divided by the result; rotations and directions do not change.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from pipeline.refine.problem import inverse

Array = NDArray[np.float64]

# Deviation of the change of log scale from frame to frame that tracks leave: of a focal length of 200 pixels, as the
# rendered drives have. An angle, and so a scale, is known better in proportion where the focal length has more pixels.
_STEP, _STEP_FOCAL = 0.004, 200.0
_ALIKE = 6.0  # number of neighbouring frames that count as one, because they see nearly the same road
_LEAST_SPREAD = 0.02  # least deviation of one frame's log height
_LEAST_SHARE = 0.5  # of the frames that must see a road
_LIMIT = 2.0  # deviations at which a height has half its weight: kerbs, ramps, cars
_ROUNDS = 6  # of robust weighting


def drift_of(log_height: Array, focal: float = _STEP_FOCAL) -> Array:
    """Slow part (F,) of log heights (F,), which are NaN where no road is seen; its median is zero. All zeros where too
    few frames see a road. focal: in pixels of the picture in which corners are followed."""
    known = np.isfinite(log_height)
    count = len(log_height)
    if count < 2 or known.sum() < max(_LEAST_SHARE * count, 4):
        return np.zeros(count)
    values = np.where(known, log_height, 0.0)
    centre = float(np.median(log_height[known]))
    near = log_height[known] - centre
    spread = max(1.4826 * float(np.median(np.abs(np.diff(near)))) / np.sqrt(2), _LEAST_SPREAD)
    deviation = spread * np.sqrt(_ALIKE)
    rate = (_STEP * min(_STEP_FOCAL / focal, 1.0)) ** -2
    drift = np.full(count, centre)
    for _ in range(_ROUNDS):
        score = (values - drift) / (_LIMIT * deviation)
        weight = known / deviation**2 / (1 + score**2)
        banded = np.zeros((2, count))
        banded[1] = weight + 1e-9
        banded[1, 1:] += rate
        banded[1, :-1] += rate
        banded[0, 1:] = -rate
        drift = scipy.linalg.solveh_banded(banded, weight * values + 1e-9 * centre)
    return np.asarray(drift - np.median(drift))


def rescaled(cam_from_window: Array, drift: Array) -> Array:
    """Poses (F, 4, 4) whose steps are divided by exp(drift); drift (F,), for a step the mean of its two frames."""
    relative = cam_from_window[1:] @ inverse(cam_from_window[:-1])
    relative[:, :3, 3] *= np.exp(-(drift[1:] + drift[:-1]) / 2)[:, None]
    poses = [cam_from_window[0]]
    for step in relative:
        poses.append(step @ poses[-1])
    return np.stack(poses)
