"""The car's speed as factors in the pose graph: distances driven in half a second, beside the fixes.

A speed gives the scale in tunnels, and each change of speed determines the clock offset. The circumference of wheels is
known to one percent; therefore one factor on all distances is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.frame_track import FrameTrack, placed_at
from pipeline.backend.normal_equations import State
from pipeline.backend.sim3 import Array
from pipeline.common.fixes import Speed

WHEEL = 0.01  # deviation of the scale of a measured speed: tyres wear, and CAN values are rounded
LAG_S = 0.1  # deviation of the delay of a speed that another device than the receiver measured
_STEP_S = 0.5  # duration of a step; in shorter ones, the jitter of poses adds to the distance
_GAP_S = 3.0  # longest time between two speeds over which a distance is known
_SLOW_M_S = 1.0  # slower steps have no direction
_FEWEST = 10  # steps in which the car moves
_LEAST_M_S = 0.05  # least deviation of a speed
_ALIKE = 4.0  # consecutive steps that share one error: receivers smooth, wheels slip for seconds
_MOST_OFF = 0.1  # share by which speeds and fixes may differ as a whole
_MOST_SPREAD = 0.2  # of the ratios of single steps; above it, the speeds belong to another drive


@dataclass(frozen=True, eq=False)
class SpeedRows:
    """w steps in which the car moves. residual (w,): distance by the speed minus distance along the trajectory, metres;
    columns (w, c), jacobian (w, c): derivatives of the trajectory's distance by unknowns of the pose graph; by_offset
    (w,): by the clock offset; length (w,): the trajectory's distance, metres; weight (w,): information."""

    residual: Array
    columns: NDArray[np.int64]
    jacobian: Array
    by_offset: Array
    length: Array
    weight: Array


@dataclass(frozen=True, eq=False)
class SpeedFactors:
    """border_s (n,): times on the receiver's clock; way (n - 1,): metres driven between them, NaN if unknown; lag_s:
    deviation of the speed's own delay, 0 if the receiver of the fixes measured it."""

    border_s: Array
    way: Array
    lag_s: float

    @staticmethod
    def of(speed: Speed | None) -> SpeedFactors | None:
        """The distances of a speed; None without one, or if it covers too little time."""
        if speed is None:
            return None
        good = np.isfinite(speed.time_s) & np.isfinite(speed.speed_m_s)
        order = np.flatnonzero(good)[np.argsort(speed.time_s[good], kind="stable")]
        told, value = speed.time_s[order], speed.speed_m_s[order]
        if len(told) < 2 or told[-1] - told[0] < _FEWEST * _STEP_S:
            return None
        border = np.arange(told[0], told[-1], _STEP_S)
        travelled = np.concatenate([[0.0], np.cumsum(np.diff(told) * (value[1:] + value[:-1]) / 2)])
        way = np.diff(np.interp(border, told, travelled))
        behind = np.clip(np.searchsorted(told, border, side="right"), 1, len(told) - 1)
        known = told[behind] - told[behind - 1] < _GAP_S
        return SpeedFactors(border, np.where(known[1:] & known[:-1], way, np.nan), 0.0 if speed.of_receiver else LAG_S)

    def agrees(self, state: State, track: FrameTrack, offset_s: float, lever: Array) -> bool:
        """Whether the speeds follow the trajectory, which is in metres: of this drive and in the right unit."""
        rows = self.rows(state, track, offset_s, 0.0, 1.0, lever)
        if rows is None:
            return False
        ratio = (rows.residual + rows.length) / rows.length
        middle = float(np.median(ratio))
        spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
        return abs(middle - 1) < _MOST_OFF and spread < _MOST_SPREAD

    def rows(
        self, state: State, track: FrameTrack, offset_s: float, lag_s: float, factor: float, lever: Array
    ) -> SpeedRows | None:
        """The steps within the drive, linearised; None if there are too few. lag_s: delay of the speed relative to the
        fixes; factor: distances by the speed over true ones."""
        moments = self.border_s - offset_s - lag_s
        inside = (moments >= track.time_s[0]) & (moments <= track.time_s[-1])
        use = inside[1:] & inside[:-1] & (self.way > _SLOW_M_S * _STEP_S)  # NaN is not
        if use.sum() < _FEWEST:
            return None
        first = np.flatnonzero(use)
        needed, places = np.unique(np.concatenate([first, first + 1]), return_inverse=True)
        low, high = places.reshape(2, -1)
        placed = placed_at(state, track, moments[needed], lever)
        apart = placed.place[high] - placed.place[low]
        chord = np.maximum(np.linalg.norm(apart, axis=1), 1e-6)
        direction = apart / chord[:, None]
        turn = np.einsum("ni,ni->n", placed.rotation[high, :, 2], placed.rotation[low, :, 2])
        bow = 1 + np.arccos(np.clip(turn, 0.0, 1.0)) ** 2 / 24  # an arc over its chord
        length = chord * bow
        residual = self.way[first] - factor * length
        along = (factor * bow)[:, None] * direction
        jacobian = np.concatenate(
            [np.einsum("ni,nic->nc", sign * along, placed.jacobian[at]) for sign, at in ((1, high), (-1, low))], 1
        )
        by_offset = -np.einsum("ni,ni->n", along, placed.velocity[high] - placed.velocity[low])
        spread = max(1.4826 * float(np.median(np.abs(residual))), _LEAST_M_S * _STEP_S)
        weight = 1 / (1 + (residual / (3 * spread)) ** 2) ** 2 / (_ALIKE * spread**2)
        columns = np.concatenate([placed.columns[high], placed.columns[low]], 1)
        return SpeedRows(residual, columns, jacobian, by_offset, length, weight)
