"""The moments at which a receiver measured, from logged times that scatter.

Receivers measure at regular moments. Many logs contain the times at which messages arrived, which scatter by
milliseconds. At 20 m/s, 0.01 s is 0.2 m along the road, more than the error of a receiver changes between two fixes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array

_FEWEST = 40  # fixes
_MOST_SCATTER = 0.25  # of a period, by which a time may be off its regular moment
_ROUNDS = 3  # of a robust line
_SMOOTHER = 0.6  # factor on the roughness of the path, below which the regular moments are taken


def regular_moments(time_s: Array, enu: Array) -> Array | None:
    """Regular moments (m,) for the logged times (m,), rising, of fixes enu (m, 3); None where they fit no better.

    The moments are a line through the numbers of the periods. They are taken where the path over them is smoother than
    over the logged times: only then it was the times that scattered.
    """
    steps = np.diff(time_s)
    if len(time_s) < _FEWEST or not (steps > 0).all():
        return None
    period = float(np.median(steps))
    for _ in range(_ROUNDS):
        number = np.concatenate([[0], np.cumsum(np.maximum(np.round(steps / period), 1))])
        rate, start = _line(number, time_s)
        if not 0.8 < rate / period < 1.25:
            return None
        period = rate
    moments = start + rate * number
    if np.quantile(np.abs(time_s - moments), 0.95) > _MOST_SCATTER * period:
        return None  # no regular moments, or fixes that are missing shifted the count
    logged, regular = _roughness(time_s, enu), _roughness(moments, enu)
    return moments if regular < _SMOOTHER * logged else None


def _line(number: NDArray[np.float64], time_s: Array) -> tuple[float, float]:
    """Slope and start of a robust line of times (m,) over numbers (m,)."""
    weight = np.ones(len(time_s))
    slope, start = 1.0, 0.0
    for _ in range(_ROUNDS):
        slope, start = np.polyfit(number, time_s, 1, w=np.sqrt(weight))
        off = np.abs(time_s - start - slope * number)
        weight = 1 / (1 + (off / max(2 * float(np.median(off)), 1e-9)) ** 2)
    return float(slope), float(start)


def _roughness(time_s: Array, enu: Array) -> float:
    """Median distance of fixes from the cubic through the two before and the two behind, metres, sideways."""
    t, p = time_s, enu[:, :2]
    around = [np.arange(len(t) - 4) + k for k in (0, 1, 3, 4)]
    here = np.arange(2, len(t) - 2)
    between = np.zeros((len(here), 2))
    for one in around:
        share = np.ones(len(here))
        for other in around:
            if other is not one:
                share *= (t[here] - t[other]) / (t[one] - t[other])
        between += share[:, None] * p[one]
    return float(np.median(np.linalg.norm(p[here] - between, axis=1)))
