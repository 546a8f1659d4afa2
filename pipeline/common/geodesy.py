"""WGS 84: degrees and metres above the ellipsoid <-> earth-centred metres <-> east, north, up about a place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SEMI_MAJOR_M = 6378137.0
FLATTENING = 1 / 298.257223563
_E2 = FLATTENING * (2 - FLATTENING)
_ROUNDS = 6  # of the latitude's fixed-point iteration; each gains more than two digits near the ground


def ecef_from_geodetic(latitude: ArrayLike, longitude: ArrayLike, altitude: ArrayLike) -> Array:
    """Degrees, degrees, metres above the ellipsoid (...,) -> earth-centred, earth-fixed metres (..., 3)."""
    lat, lon = np.radians(np.asarray(latitude, float)), np.radians(np.asarray(longitude, float))
    height = np.asarray(altitude, float)
    normal = SEMI_MAJOR_M / np.sqrt(1 - _E2 * np.sin(lat) ** 2)
    return np.stack(
        [
            (normal + height) * np.cos(lat) * np.cos(lon),
            (normal + height) * np.cos(lat) * np.sin(lon),
            (normal * (1 - _E2) + height) * np.sin(lat),
        ],
        -1,
    )


def geodetic_from_ecef(xyz: ArrayLike) -> tuple[Array, Array, Array]:
    """Earth-centred metres (..., 3) -> latitude, longitude (degrees), altitude above the ellipsoid (m), each (...,)."""
    x, y, z = np.moveaxis(np.asarray(xyz, float), -1, 0)
    p, lon = np.hypot(x, y), np.arctan2(y, x)
    lat = np.arctan2(z, p * (1 - _E2))
    for _ in range(_ROUNDS):
        normal = SEMI_MAJOR_M / np.sqrt(1 - _E2 * np.sin(lat) ** 2)
        lat = np.arctan2(z + _E2 * normal * np.sin(lat), p)
    normal = SEMI_MAJOR_M / np.sqrt(1 - _E2 * np.sin(lat) ** 2)
    # p / cos fails at the poles and z / sin at the equator; their projection onto the normal works everywhere.
    height = p * np.cos(lat) + z * np.sin(lat) - normal * (1 - _E2 * np.sin(lat) ** 2)
    return np.degrees(lat), np.degrees(lon), height


def ecef_from_enu_rotation(latitude: float, longitude: float) -> Array:
    """(3, 3): its columns are east, north and up at the place."""
    lat, lon = np.radians(latitude), np.radians(longitude)
    return np.array(
        [
            [-np.sin(lon), -np.sin(lat) * np.cos(lon), np.cos(lat) * np.cos(lon)],
            [np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat) * np.sin(lon)],
            [0.0, np.cos(lat), np.sin(lat)],
        ]
    )


def enu_from_geodetic(
    latitude: ArrayLike, longitude: ArrayLike, altitude: ArrayLike, origin: tuple[float, float, float]
) -> Array:
    """Degrees and metres (...,) -> metres east, north, up (..., 3) of `origin` (latitude, longitude, altitude)."""
    away = ecef_from_geodetic(latitude, longitude, altitude) - ecef_from_geodetic(*origin)
    return np.asarray(away @ ecef_from_enu_rotation(origin[0], origin[1]))


def geodetic_from_enu(enu: ArrayLike, origin: tuple[float, float, float]) -> tuple[Array, Array, Array]:
    """The inverse of `enu_from_geodetic`: latitude, longitude (degrees), altitude (m), each (...,)."""
    turned = np.asarray(enu, float) @ ecef_from_enu_rotation(origin[0], origin[1]).T
    return geodetic_from_ecef(ecef_from_geodetic(*origin) + turned)
