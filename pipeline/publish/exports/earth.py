"""Converts a georeferenced drive from metres east, north, up to the coordinate systems of maps: degrees, UTM, any EPSG.

Points stay relative to an offset, which stands in the file once as doubles, so that millimetres are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.common.geodesy import ecef_from_enu_rotation, ecef_from_geodetic, geodetic_from_enu
from pipeline.errors import DriveError
from pipeline.publish.exports.source import ExportSource

if TYPE_CHECKING:
    from pyproj import CRS, Transformer

Array = NDArray[np.float64]

_UTM_NORTH, _UTM_SOUTH = 32600, 32700


@dataclass(frozen=True)
class Earth:
    """origin: latitude, longitude (degrees), altitude (metres) of the drive's world; datum: what altitudes are above;
    crs: the system that the user named; None: the UTM zone of the origin."""

    origin: tuple[float, float, float]
    datum: str
    crs: str | None = None

    @staticmethod
    def of(source: ExportSource) -> Earth:
        """The place of the drive that is exported. Raises DriveError where the drive is relative."""
        manifest = source.drive.manifest
        origin = source.drive.origin
        if origin is None or manifest.georeference is None:
            raise DriveError(
                f"drive {manifest.drive_id} is not georeferenced: it has no place on Earth; publish it with positions "
                "(jobs.realign --positions.file FILE, where its predictions were kept)"
            )
        return Earth(origin, str(manifest.georeference.get("vertical_datum", "WGS 84 ellipsoid")), source.crs)

    def geodetic(self, enu: Array) -> Array:
        """Metres east, north, up (n, 3) -> longitude, latitude (degrees), altitude (metres), (n, 3)."""
        latitude, longitude, altitude = geodetic_from_enu(np.asarray(enu, np.float64), self.origin)
        return np.stack([longitude, latitude, altitude], -1)

    @cached_property
    def projected(self) -> CRS:
        """The pyproj CRS that the user named, or the UTM zone. Raises ValueError for an unknown one, or one whose unit
        is not the metre."""
        pyproj = import_module("pyproj")
        latitude, longitude, _ = self.origin
        zone = int((longitude + 180) % 360 // 6) + 1
        name: str | int = self.crs or (_UTM_NORTH if latitude >= 0 else _UTM_SOUTH) + zone
        try:
            crs = pyproj.CRS.from_user_input(name)
        except Exception as error:  # CRSError, and what PROJ says of odd texts
            raise ValueError(
                f"--crs {str(name)[:60]!r} is no coordinate system that PROJ knows; give EPSG:n"
            ) from error
        if not crs.is_projected:
            raise ValueError(f"--crs {str(name)[:60]!r} is no system of metres on a map; give a projected one (UTM)")
        return crs

    def on_map(self, enu: Array) -> Array:
        """Metres east, north, up (n, 3) -> x, y of `projected` and the altitude, (n, 3)."""
        place = self.geodetic(enu)
        x, y = self._transformer.transform(place[:, 0], place[:, 1])
        out = np.stack([x, y, place[:, 2]], -1)
        if not np.isfinite(out).all():
            raise ValueError(f"--crs {self.crs}: the drive lies outside of that system's area")
        return np.asarray(out)

    @cached_property
    def _transformer(self) -> Transformer:
        pyproj = import_module("pyproj")
        return pyproj.Transformer.from_crs("EPSG:4326", self.projected, always_xy=True)

    def wkt(self) -> str:
        """OGC WKT 1 of `projected` with the vertical datum named, as LAS 1.4 wants it."""
        flat = str(self.projected.to_wkt("WKT1_GDAL"))
        name = self.projected.name.replace('"', "")
        is_ellipsoid = "ellipsoid" in self.datum
        what, kind = ("Ellipsoid (metre)", 2002) if is_ellipsoid else ("mean sea level (metre)", 2005)
        vertical = f'VERT_CS["{what}",VERT_DATUM["{self.datum}",{kind}],UNIT["metre",1],AXIS["Up",UP]]'
        return f'COMPD_CS["{name} + {what}",{flat},{vertical}]'

    def ecef_from_enu(self) -> Array:
        """(4, 4): from metres east, north, up to earth-centred metres."""
        out = np.eye(4)
        out[:3, :3] = ecef_from_enu_rotation(self.origin[0], self.origin[1])
        out[:3, 3] = ecef_from_geodetic(*self.origin)
        return out
