"""The box of `--area` on Earth: which drives come into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.common.geodesy import ecef_from_geodetic, geodetic_from_enu

_WIDEST, _ALL = 180.0, 360.0  # degrees: of a box over the antimeridian; around the Earth

Box = tuple[float, float, float, float]
Origin = tuple[float, float, float]


def check_area(area: Box) -> None:
    """Raises ValueError where `area` is no west south east north in degrees. A box whose west is greater than its east
    goes over the antimeridian."""
    west, south, east, north = area
    order = f"area is west south east north (longitude latitude longitude latitude), in degrees; got {_shown(area)}"
    if not (abs(west) <= _ALL and abs(east) <= _ALL and abs(south) <= 90 and abs(north) <= 90):
        raise ValueError(f"{order}: latitudes are from -90 to 90, longitudes from -180 to 180")
    if not south < north:
        raise ValueError(f"{order}: south must be below north")
    if not west < east and not 0 < (east - west) % _ALL < _WIDEST:
        raise ValueError(f"{order}: west must be below east (above it only for a box over the antimeridian)")


def comes_into(area: Box, origin: Origin, place: NDArray[np.float64]) -> bool:
    """Whether any of these positions (N, 3), in metres east, north, up from `origin`, is in the box."""
    latitude, longitude, _ = geodetic_from_enu(place, origin)
    west, south, east, north = area
    wide = _ALL if east - west >= _ALL else (east - west) % _ALL
    inside = (latitude >= south) & (latitude <= north)
    return bool((inside & ((longitude - west) % _ALL <= wide)).any())


@dataclass
class Outside:
    """Drives that `--area` leaves out. away_m: by name, the distance in metres of the drive's origin from the middle of
    the box; unknown: names of drives without positions."""

    area: Box

    def __post_init__(self) -> None:
        """Start with none."""
        self.away_m: dict[str, tuple[float, Origin]] = {}
        self.unknown: list[str] = []

    def add(self, drive_id: str, origin: Origin | None) -> None:
        """A drive that does not come into the box."""
        if origin is None:
            self.unknown.append(drive_id)
            return
        west, south, east, north = self.area
        wide = min(_ALL, (east - west) % _ALL or _ALL)
        middle = ecef_from_geodetic((south + north) / 2, west + wide / 2, 0.0)
        self.away_m[drive_id] = float(np.linalg.norm(ecef_from_geodetic(*origin) - middle)), origin

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, in words."""
        said = []
        if self.away_m:
            said.append(f"outside the area: {shown_drives(sorted(self.away_m))}")
        if self.unknown:
            said.append(f"left out because an area needs positions on Earth: {shown_drives(self.unknown)}")
        return tuple(said)

    @property
    def nearest(self) -> str:
        """Where drives are, for an error: the nearest one, in words."""
        if not self.away_m:
            return "no drive has positions on Earth, which --area needs; leave it out"
        name, (away, origin) = min(self.away_m.items(), key=lambda one: one[1][0])
        return (
            f"the area is {_shown(self.area)} (west south east north); the nearest drive, {name}, is at longitude "
            f"{origin[1]:.5f}, latitude {origin[0]:.5f}, {away / 1000:,.0f} km from its middle"
        )


_NAMED = 5  # drives that a note names


def shown_drives(names: Sequence[str]) -> str:
    """Number and names of drives, the first five of them."""
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names):,} drive{'s' if len(names) != 1 else ''} ({shown})"


def _shown(area: Box) -> str:
    return " ".join(f"{one:g}" for one in area)
