"""Detects how latitudes and longitudes were rounded before they were written: to decimals, or to single precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST_DECIMALS = 6  # a tenth of a metre; more say nothing that a receiver knows
_COARSE_M = 5.0  # the user is told of larger steps
_FEWEST = 3  # different positions, to tell a rounding from chance
_DEGREE_M = 111_320.0


@dataclass(frozen=True)
class Rounding:
    """step_m: the step of the coarser coordinate, metres; said: a sentence for the user."""

    step_m: float
    said: str

    @property
    def deviation_m(self) -> float:
        """The standard deviation of a position that was rounded to the step."""
        return float(self.step_m / np.sqrt(12))

    @property
    def is_coarse(self) -> bool:
        """Whether the step is so large that fixes repeat each other, and the user should know."""
        return self.step_m > _COARSE_M


def rounding_of(latitude: Array, longitude: Array) -> Rounding | None:
    """The rounding of finite degrees (m,); None where they have more than 6 decimals, or are too few."""
    places = np.unique(np.stack([latitude, longitude], 1), axis=0)
    if len(places) < _FEWEST:
        return None
    for decimals in range(_MOST_DECIMALS):
        scaled = places * 10.0**decimals
        if (np.abs(scaled - np.round(scaled)) < 1e-5).all():
            step = _DEGREE_M * 10.0**-decimals
            said = f"positions are rounded to {decimals} decimals of a degree"
            return Rounding(
                step, f"{said} (steps of {step:.0f} m), which makes each uncertain by {step / 12**0.5:.0f} m"
            )
    if (places == places.astype(np.float32)).all():
        # a degree of longitude is shorter, but the step of a longitude in single precision is up to twice as large
        north, east = np.spacing(np.abs(places).max(0).astype(np.float32)).astype(float)
        step = _DEGREE_M * max(float(north), float(east) * float(np.cos(np.radians(places[0, 0]))))
        return Rounding(step, f"positions are written in single precision (steps of {step:.1f} m)")
    return None
