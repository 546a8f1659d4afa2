"""A receiver's positions and a car's speeds, as readers give them to the pose graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fixes:
    """M positions of an antenna, WGS 84, in order of time; a few that are out of order are not used.

    time_s (M,): on the receiver's clock; latitude, longitude (M,): degrees; altitude (M,): metres above the ellipsoid,
    NaN where the receiver gave none; accuracy (M,) or one number: the horizontal deviation that the receiver claims,
    metres, NaN or None where unknown; vertical_accuracy: the same upwards, by default 1.8 times the horizontal.
    A fix that is no position (NaN, beyond the poles, null island) is kept and never used; `usable` is False for it.
    Raises ValueError where the arrays do not fit together.
    """

    time_s: Array
    latitude: Array
    longitude: Array
    altitude: Array
    accuracy: Array | None = None
    vertical_accuracy: Array | None = None

    def __post_init__(self) -> None:
        count = np.asarray(self.time_s, np.float64).reshape(-1).shape[0]
        for name in ("time_s", "latitude", "longitude", "altitude"):
            object.__setattr__(self, name, self._column(name, getattr(self, name), count))
        for name in ("accuracy", "vertical_accuracy"):
            given = getattr(self, name)
            value = np.full(count, np.nan) if given is None else self._column(name, given, count)
            object.__setattr__(self, name, np.where(value > 0, value, np.nan))

    @staticmethod
    def _column(name: str, value: ArrayLike, count: int) -> Array:
        column = np.asarray(value, np.float64)
        if column.ndim == 0:
            column = np.full(count, float(column))
        if column.shape != (count,):
            raise ValueError(f"fixes: {name} must be of {count} fixes as time_s is, got shape {column.shape}")
        return column

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def placed(self) -> NDArray[np.bool_]:
        """(M,): finite, on Earth, and not within a hundred metres of latitude 0, longitude 0, whatever the altitude."""
        finite = np.isfinite(self.time_s) & np.isfinite(self.latitude) & np.isfinite(self.longitude)
        on_earth = (np.abs(self.latitude) <= 90) & (np.abs(self.longitude) <= 360)
        null_island = (np.abs(self.latitude) < 1e-3) & (np.abs(self.longitude) < 1e-3)
        return np.asarray(finite & on_earth & ~null_island)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(M,): placed, and at a possible altitude or without one."""
        return np.asarray(self.placed & (np.isnan(self.altitude) | (np.abs(self.altitude) < 20_000)))


@dataclass(frozen=True, eq=False)
class Speed:
    """The car's speed by its wheels, its bus or a receiver, M values in any order.

    time_s (M,): on the receiver's clock, as of Fixes; speed_m_s (M,): metres a second, over ground; NaN where unknown;
    of_receiver: the receiver of the fixes measured it, so that both have the same delay; otherwise delays may differ.
    Raises ValueError if the arrays do not fit together.
    """

    time_s: Array
    speed_m_s: Array
    of_receiver: bool = True

    def __post_init__(self) -> None:
        for name in ("time_s", "speed_m_s"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64).reshape(-1))
        if self.time_s.shape != self.speed_m_s.shape:
            raise ValueError(f"speed: {len(self.time_s)} times for {len(self.speed_m_s)} speeds")

    def __len__(self) -> int:
        return len(self.time_s)
