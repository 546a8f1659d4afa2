"""The metric scale of a trajectory from the car's measured speed, and the offset between their clocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.backend.sim3 import Array
from pipeline.backend.speed_factors import WHEEL
from pipeline.common.fixes import Speed

_STEP_S = 0.5  # seconds between the positions that are compared; with less, the jitter of poses adds length
_WINDOW_STEPS = 4  # such steps in one window
_OFFSET_STEP_S = 0.1
_MOST_OFFSETS = 301
_FEWEST = 3  # windows in which the car moves
_SLOW_M_S = 1.0  # windows with a lower mean speed are not used
_GAP_S = 3.0  # between two speeds; across longer gaps the distance is unknown
_MOST_SPREAD = 0.5  # of the windows' ratios; above it, the speeds belong to another drive


@dataclass(frozen=True)
class SpeedScale:
    """scale: metres per unit of the trajectory; deviation: of it, as a share; offset_s: the speed's clock minus the
    drive's."""

    scale: float
    deviation: float
    offset_s: float


def scale_of_speed(time_s: Array, position: Array, speed: Speed, window_s: float) -> SpeedScale | str:
    """The scale of positions (n, 3) at time_s (n,), rising, by a car's speed. Returns the reason as text if there is
    none.

    window_s: largest clock offset that is tried. The scale is the weighted median, over windows of two seconds, of the
    distance by the speed over the length of the trajectory.
    """
    order = np.argsort(speed.time_s, kind="stable")
    told, value = speed.time_s[order], speed.speed_m_s[order]
    good = np.isfinite(told) & np.isfinite(value)
    told, value = told[good], value[good]
    if len(told) < 2 or not (value > _SLOW_M_S).any():
        return "the car stands still according to its speeds"
    grid = np.arange(time_s[0], time_s[-1] + 1e-9, _STEP_S)
    if len(grid) < _WINDOW_STEPS * _FEWEST:
        return f"a drive of {time_s[-1] - time_s[0]:.1f} s is too short for a scale from speed"
    place = np.stack([np.interp(grid, time_s, position[:, c]) for c in range(3)], 1)
    length = np.linalg.norm(np.diff(place, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(np.diff(told) * (value[1:] + value[:-1]) / 2)])
    count = min(int(window_s / _OFFSET_STEP_S), _MOST_OFFSETS // 2)
    offsets = np.linspace(-window_s, window_s, 2 * count + 1) if count else np.zeros(1)
    best: tuple[float, SpeedScale] | None = None
    for offset in offsets[np.argsort(np.abs(offsets), kind="stable")]:
        found = _ratio(grid + offset, length, told, way)
        if found is None:
            continue
        scale, spread, windows = found
        if best is None or spread < best[0] - 1e-6:
            deviation = float(np.hypot(spread / np.sqrt(windows), WHEEL))
            best = spread, SpeedScale(scale, deviation, float(offset))
    if best is None:
        return "no speed above 1 m/s lies within the drive's time"
    if best[0] > _MOST_SPREAD:
        return f"the speeds do not follow the drive (ratios differ by {best[0]:.0%}): another drive's?"
    return best[1]


def _ratio(grid: Array, length: Array, told: Array, way: Array) -> tuple[float, float, int] | None:
    """Weighted median of metres per unit over windows, its robust spread as a share, and the number of windows; None
    with too few windows."""
    inside = (grid >= told[0]) & (grid <= told[-1])
    at = np.clip(np.searchsorted(told, grid), 1, len(told) - 1)
    known = inside & (told[at] - told[at - 1] < _GAP_S)
    travelled = np.interp(grid, told, way)
    starts = np.arange(0, len(length) - _WINDOW_STEPS + 1, _WINDOW_STEPS)
    ends = starts + _WINDOW_STEPS
    metres = travelled[ends] - travelled[starts]
    units = np.add.reduceat(np.append(length, 0.0), np.append(starts, ends[-1]))[:-1]
    whole = np.array([known[a : b + 1].all() for a, b in zip(starts, ends, strict=True)])
    use = whole & (metres > _SLOW_M_S * _STEP_S * _WINDOW_STEPS) & (units > 0)
    if use.sum() < _FEWEST:
        return None
    ratio, weight = metres[use] / units[use], metres[use]
    scale = _median(ratio, weight)
    spread = 1.4826 * _median(np.abs(ratio / scale - 1), weight)
    return scale, spread, int(use.sum())


def _median(values: Array, weight: Array) -> float:
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
