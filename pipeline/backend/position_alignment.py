"""Aligns a trajectory with its fixes by one robust Sim(3) and a clock offset, from which the pose graph starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array, Sim3, nearest_rotation

_ROUNDS = 12  # of re-weighting for one offset
_STEP_S = 0.5  # between candidate offsets; the pose graph refines the offset
_AS_GOOD = 1.5  # offsets whose cost is at most this many times the least cost count as equally good
_LEVEL = 0.02  # weight of the cameras' up direction in the rotation; it matters if the fixes do not determine the roll
_EXTENTS = 3.0  # least ratio of the fixes' extent to their noise; below, they determine neither heading nor scale


@dataclass(frozen=True, eq=False)
class Alignment:
    """enu_from_world; offset_s: the receiver's clock minus the drive's; residual (m,): metres, NaN for fixes outside
    the drive at that offset; spread: robust deviation of the residuals per axis, metres."""

    enu_from_world: Sim3
    offset_s: float
    residual: Array
    spread: float


def align_to_fixes(
    time_s: Array,
    position: Array,
    up: Array,
    fix_time_s: Array,
    enu: Array,
    accuracy: Array,
    window_s: float,
    *,
    scale: bool = True,
) -> Alignment | str:
    """Align positions (n, 3) at time_s (n,) with fixes enu (m, 3) at fix_time_s (m,). Returns the reason as text if
    that is impossible.

    up (3,): mean of the cameras' up directions in the trajectory's world; accuracy (m,): claimed deviations, metres;
    window_s: largest clock offset that is tried. Method: Umeyama 1991 with Geman-McClure weights, whose width shrinks
    to the spread of the residuals. The up direction is one more pair of vectors, so that a straight drive does not
    roll.
    """
    offsets = _offsets(window_s, float(fix_time_s[-1] - fix_time_s[0]))
    fits: list[tuple[float, Alignment]] = []
    reason = "no fix lies within the drive's time"
    for offset in offsets:
        at = fix_time_s - offset
        inside = (at >= time_s[0]) & (at <= time_s[-1])
        if inside.sum() < 2:
            continue
        point = np.stack([np.interp(at[inside], time_s, position[:, c]) for c in range(3)], 1)
        found = _robust_fit(point, enu[inside], up, accuracy[inside], scale)
        if isinstance(found, str):
            reason = found
            continue
        fit, residual, spread = found
        limit = max(3 * spread, float(np.median(accuracy)))
        # Truncated squares over all fixes. Fixes outside the drive cost as much as outliers; otherwise an offset that
        # moves bad fixes outside would win.
        cost = float((np.minimum(residual / limit, 1.0) ** 2).sum()) + float((~inside).sum())
        cost *= limit**2 + 1e-12
        every = np.full(len(enu), np.nan)
        every[inside] = residual
        fits.append((cost, Alignment(fit, float(offset), every, spread)))
    if not fits:
        return reason
    # On a straight road at constant speed all offsets have the same cost except for noise: the smallest is taken.
    enough = _AS_GOOD * min(cost for cost, _ in fits)
    return next(fit for cost, fit in fits if cost <= enough)


def _offsets(window_s: float, length_s: float) -> Array:
    """Candidate offsets (k,), seconds, the nearest to zero first."""
    step = max(_STEP_S, window_s / 60)
    count = int(np.floor(window_s / step))
    every = step * np.arange(-count, count + 1)
    return np.asarray(every[np.argsort(np.abs(every), kind="stable")])


def _robust_fit(point: Array, enu: Array, up: Array, accuracy: Array, scale: bool) -> tuple[Sim3, Array, float] | str:
    noise = float(np.median(accuracy))
    centre = np.median(enu, axis=0)
    extent = float(np.quantile(np.linalg.norm(enu[:, :2] - centre[:2], axis=1), 0.9))
    moved = float(np.quantile(np.linalg.norm(point - np.median(point, axis=0), axis=1), 0.9))
    if extent < _EXTENTS * noise:
        return f"the fixes span {extent:.3g} m about their centre, too little at a noise of {noise:.2g} m for a heading"
    if moved < 1e-9:
        return "the drive stands still while its fixes move"
    weight = np.ones(len(enu))
    fit, residual, spread = _similarity(point, enu, up, weight, scale), np.zeros(len(enu)), extent
    for _ in range(_ROUNDS):
        residual = np.linalg.norm(fit.apply(point) - enu, axis=1)
        now = max(float(np.median(residual)) / 1.538, 0.3 * noise)  # the median length of three unit deviations
        spread = max(now, spread / 3)
        weight = 1 / (1 + (residual / (3 * spread)) ** 2) ** 2
        fit = _similarity(point, enu, up, weight, scale)
        if now >= 0.98 * spread and abs(now - spread) < 0.01 * spread:
            break
    residual = np.linalg.norm(fit.apply(point) - enu, axis=1)
    return fit, residual, max(float(np.median(residual)) / 1.538, 0.3 * noise)


def _similarity(point: Array, enu: Array, up: Array, weight: Array, scale: bool) -> Sim3:
    """Weighted Umeyama alignment, with the up direction as an additional pair of vectors."""
    share = weight / weight.sum()
    a, b = share @ point, share @ enu
    p, q = point - a, enu - b
    covariance = (q * share[:, None]).T @ p
    size = np.sqrt(float((share @ p**2).sum()) * float((share @ q**2).sum()))
    rotation = nearest_rotation(covariance + _LEVEL * size * np.outer([0.0, 0.0, 1.0], up))
    turned = p @ rotation.T
    stretch = 1.0
    if scale:
        stretch = max(float((share @ (turned * q)).sum()) / float((share @ p**2).sum()), 1e-9)
    return Sim3(stretch, rotation, b - stretch * rotation @ a)


def inside_drive(fix_time_s: Array, time_s: Array, window_s: float) -> NDArray[np.bool_]:
    """(m,) bool: fixes that lie within the drive for some offset in the window."""
    return np.asarray((fix_time_s >= time_s[0] - window_s) & (fix_time_s <= time_s[-1] + window_s))
