"""Several drives through the same streets of one city: their directions, their lights, and the car that one of them has
parked beside its route."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.synthetic.layout import CityLayout, build_city
from pipeline.synthetic.route import common_path
from pipeline.synthetic.streets import PARKING_WIDTH

_FREE_M = 2.5  # least distance from the middle of the parked car to other objects
_LARGE_M = 3.0  # larger objects are houses, which stand behind the pavement
_STRAIGHT_M = 25.0  # the street must be straight so far before and behind the car


@dataclass(frozen=True)
class CityDriveSpec:
    """The parameters of one of several drives through one city.

    city: seed of the city; streets: number of the common route; opposite: this drive goes the other way; light: seed of
    its sun and sky; parked: whether a car is parked in its street that the other drives do not have.
    """

    city: int
    streets: int = 0
    opposite: bool = False
    light: int | None = None
    parked: bool = False


def parking_place(spec: CityDriveSpec, frames: int) -> tuple[float, float, float]:
    """x, y (metres) and heading (radians) of the car that is parked in one of the drives of `frames` frames: beside
    their route, where the street is straight and nothing stands. Raises ValueError where there is no such place."""
    city = build_city(spec.city)
    path = common_path(city, frames, spec.streets)
    tangent = np.gradient(path, axis=0)
    heading = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    reach = round(_STRAIGHT_M / 0.1)
    last = min(len(path) - reach, round(0.8 * frames * 0.9 / 0.1))
    for at in range(reach + 150, last, 20):
        turned = np.ptp(heading[at - reach : at + reach])
        if turned < 0.1:
            right = np.array([np.sin(heading[at]), -np.cos(heading[at])])
            place = path[at] + right * _to_kerb(city, path[at], heading[at], right)
            away = np.hypot(city.sphere[:, 0] - place[0], city.sphere[:, 1] - place[1])
            if (away - np.minimum(city.sphere[:, 3], _LARGE_M) > _FREE_M).all():
                return float(place[0]), float(place[1]), float(heading[at])
    raise ValueError(f"city {spec.city} has no free place beside the first {frames} frames; choose another --city")


def _to_kerb(city: CityLayout, place: np.ndarray, heading: float, right: np.ndarray) -> float:
    """Metres from a point in a lane to the middle line of the parked cars on its right."""
    vertical = abs(np.sin(heading)) > 0.7
    lines, halves = (city.streets_x, city.half_x) if vertical else (city.streets_y, city.half_y)
    axis = 0 if vertical else 1
    street = int(np.argmin(np.abs(lines - place[axis])))
    kerb = lines[street] + np.sign(right[axis]) * (halves[street] - PARKING_WIDTH / 2 - 0.05)
    return float((kerb - place[axis]) * np.sign(right[axis]))
