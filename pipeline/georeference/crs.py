"""Converts coordinates of any EPSG system to latitude, longitude and height, by pyproj."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pipeline.common.geodesy import geodetic_from_ecef
from pipeline.georeference.positions import NoPositionsError

Array = NDArray[np.float64]

ECEF = frozenset(("ecef", "epsg:4978", "geocentric"))
_DEGREES = frozenset(("wgs84", "wgs 84", "epsg:4326", "epsg:4979", "crs84", "ogc:crs84"))


def is_degrees(crs: str | None) -> bool:
    """Whether coordinates of that system are latitude and longitude of WGS 84."""
    return crs is None or crs.strip().lower() in _DEGREES


def check_crs(crs: str) -> None:
    """Raises ValueError in one line for a system that PROJ does not know."""
    if crs.strip().lower() in ECEF | _DEGREES:
        return
    try:
        _pyproj().CRS.from_user_input(crs.strip())
    except Exception as error:  # pyproj.exceptions.CRSError, and what PROJ says of odd texts
        raise ValueError(
            f"{crs[:60]!r} is no coordinate system that PROJ knows: give EPSG:n (32632 is UTM zone 32 north) or ecef"
        ) from error


def geodetic_of(x: Array, y: Array, z: Array, crs: str) -> tuple[Array, Array, Array]:
    """Coordinates (n,) each of a system, x east or first and y north or second as written, to latitude, longitude
    (degrees) and height; a z of NaN stays NaN. Raises NoPositionsError for an unknown system."""
    x, y, z = (np.asarray(one, np.float64) for one in (x, y, z))
    if crs.strip().lower() in ECEF:
        return geodetic_from_ecef(np.stack([x, y, z], -1))
    if is_degrees(crs):
        return y, x, z
    try:
        pyproj = _pyproj()
        given = pyproj.CRS.from_user_input(crs.strip())
        there = pyproj.CRS.from_epsg(4979 if len(given.axis_info) > 2 else 4326)
        way = pyproj.Transformer.from_crs(given, there, always_xy=True)
        longitude, latitude, height = way.transform(x, y, np.where(np.isnan(z), 0.0, z))
    except Exception as error:
        raise NoPositionsError(
            f"--positions.crs {crs[:60]!r} cannot be used ({str(error).splitlines()[0][:120]})"
        ) from error
    bad = ~(np.isfinite(latitude) & np.isfinite(longitude))
    return (
        np.where(bad, np.nan, latitude),
        np.where(bad, np.nan, longitude),
        np.where(np.isnan(z), np.nan, height),
    )


def _pyproj() -> ModuleType:
    return import_module("pyproj")
