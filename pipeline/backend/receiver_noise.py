"""The errors of a receiver, estimated from its fixes' distances to a trajectory and from the deviations it claims."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array

# Correlation times of a receiver's slow error, seconds: east, north, up. The atmosphere changes slowest, and its share
# is mostly vertical.
WANDER_S = np.array([60.0, 60.0, 100.0])
MINUTE_S = 60.0  # fixes that are nearer in time share most of their error
WHITE_SHARE = 0.35  # quick error as a share of the stated accuracy, until it is estimated from the fixes
_LAG_S, _LONGEST_S = 10.0, 300.0  # lag of the residuals that are compared, and the longest correlation time
_LEAST_WHITE_M = 0.02  # least quick error
_LEAST_SLOW_M = 0.5  # least slow error of a receiver that states no accuracy
SCATTER_S = 0.01  # deviation of the times of fixes in a log; at 20 m/s it is 0.2 m
REGULAR_S = 0.001  # the same if the moments of measuring are known to be regular
VERTICAL = 1.8  # a receiver's vertical error over its horizontal one, if it states no vertical accuracy
_OUTLIER = 3.5  # deviations beyond which a fix is an outlier


def gate_of(residual: Array, claimed: Array, inside: NDArray[np.bool_]) -> Array:
    """(m,): Geman-McClure weights of residuals (m, 3). Their width is the usual residual of the drive, or the fix's own
    claimed deviation (m, 3) if that is larger."""
    length, limit = _lengths(residual, claimed, inside)
    return np.asarray(inside / (1 + (length / limit) ** 2) ** 2)


def wrong_upwards(residual: Array, claimed: Array, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(m,): fixes whose altitude alone is an outlier. Their horizontal position is used."""
    length, limit = _lengths(residual, claimed, inside)
    return np.asarray(inside & (length > limit) & (np.hypot(residual[:, 0], residual[:, 1]) < limit / 3))


def _lengths(residual: Array, claimed: Array, inside: NDArray[np.bool_]) -> tuple[Array, Array]:
    """(m,) each: length of a residual, whose vertical part is divided by the ratio of vertical to horizontal deviation;
    and the largest length that is not an outlier."""
    ratio = claimed[:, 2] / claimed[:, 0]
    length = np.sqrt(residual[:, 0] ** 2 + residual[:, 1] ** 2 + (residual[:, 2] / ratio) ** 2)
    usual = float(np.median(length[inside])) / 1.538 if inside.any() else 1.0
    return length, _OUTLIER * np.maximum(usual, claimed[:, 0]) * 1.25


def quick_deviation(time_s: Array, residual: Array, kept: NDArray[np.bool_], claimed: Array, scatter_m: float) -> Array:
    """(3,): deviation of the quick error, from differences of residuals (m, 3) of consecutive fixes; at least
    scatter_m, the distance that the car drives in the scatter of the times."""
    near = kept[1:] & kept[:-1] & (np.diff(time_s) < 0.1 * MINUTE_S)
    usual = np.median(claimed, axis=0)
    least = np.array([1.0, 1.0, 0.1]) * max(_LEAST_WHITE_M, scatter_m)  # roads are level
    if near.sum() < 20:
        return np.maximum(WHITE_SHARE * usual, least)
    steps = np.diff(residual, axis=0)[near]
    return np.clip(1.4826 * np.median(np.abs(steps), axis=0) / np.sqrt(2), least, np.maximum(2 * usual, least))


def slow_deviation(residual: Array, kept: NDArray[np.bool_], claimed: Array, white: Array, *, claims: bool) -> Array:
    """(3,): deviation of the slow error: the claimed one, or that of the residuals (m, 3) if it is larger or the
    receiver claims none."""
    usual = np.median(claimed, axis=0)
    seen = 1.4826 * np.median(np.abs(residual[kept]), axis=0) if kept.sum() > 20 else usual
    if claims:
        least = np.maximum(0.3 * usual, _LEAST_WHITE_M)
        return np.sqrt(np.maximum(np.maximum(usual, seen) ** 2 - white**2, least**2))
    slow = np.sqrt(np.maximum(seen**2 - white**2, _LEAST_SLOW_M**2))
    return np.array([slow[0], slow[1], max(slow[2], float(usual[2]))])  # images determine little about altitude


def slow_lasts(time_s: Array, residual: Array, kept: NDArray[np.bool_], white: Array, wander: Array) -> Array:
    """(3,): correlation time of the slow error, from the change of residuals (m, 3) over _LAG_S. It is estimated
    horizontally, and never shorter than WANDER_S."""
    time_s, value = time_s[kept], residual[kept, :2]
    later = np.searchsorted(time_s, time_s + _LAG_S)
    first = np.flatnonzero(later < len(time_s))
    later = later[first]
    near = time_s[later] - time_s[first] < 1.5 * _LAG_S
    if near.sum() < 20:
        return WANDER_S
    change = 1.4826**2 * np.median((value[later] - value[first])[near] ** 2, axis=0)
    change = np.clip((change - 2 * white[:2] ** 2) / (2 * wander[:2] ** 2), 1e-3, 0.999)
    lasting = np.clip(_LAG_S / -np.log1p(-change), WANDER_S[:2], _LONGEST_S)
    return np.array([*np.full(2, lasting.min()), WANDER_S[2]])
