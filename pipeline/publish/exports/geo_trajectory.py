"""The trajectory for maps: GeoParquet 1.1, GeoJSON (RFC 7946) and KML 2.3."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.source import ExportSource

Array = NDArray[np.float64]

_POINT, _LINE, _POLYGON = 1001, 1002, 1003  # WKB (ISO 13249-3) with z
_DEGREE_DIGITS, _METRE_DIGITS = 10, 5  # a hundredth of a millimetre
_MARGIN_M = 1.0  # half the width of the footprint of a straight path


def write_geoparquet(source: ExportSource, folder: Path) -> str:
    """Write trajectory.parquet (a point for each frame, with the columns of poses.parquet), path.parquet (one line) and
    footprint.parquet (the hull of cameras and points): longitude, latitude, height in OGC:CRS84h."""
    earth, cameras = Earth.of(source), source.cameras
    places = earth.geodetic(cameras.world_from_camera[:, :3, 3])
    wanted = np.isin(source.drive.poses["frame_index"].to_numpy(), cameras.frame_index)
    rows = source.drive.poses.filter(pa.array(wanted))
    points = [struct.pack("<BI3d", 1, _POINT, *place) for place in places.tolist()]
    _write_geometry(rows, points, "Point Z", places, folder / "trajectory.parquet")
    one = pa.table({"drive_id": [source.drive.manifest.drive_id]})
    line = struct.pack("<BII", 1, _LINE, len(places)) + places.astype("<f8").tobytes()
    _write_geometry(one, [line], "LineString Z", places, folder / "path.parquet")
    ring = earth.geodetic(_footprint(source))
    polygon = struct.pack("<BIII", 1, _POLYGON, 1, len(ring)) + ring.astype("<f8").tobytes()
    _write_geometry(one, [polygon], "Polygon Z", ring, folder / "footprint.parquet")
    return f"trajectory.parquet: {len(points)} points; path.parquet and footprint.parquet: a line and an area"


def write_geojson(source: ExportSource, folder: Path) -> str:
    """Write trajectory.geojson: the path as one line, then a point for each frame. Heights are the drive's; where these
    are above the ellipsoid, the file agrees with RFC 7946."""
    earth, cameras = Earth.of(source), source.cameras
    places = _rounded(earth.geodetic(cameras.world_from_camera[:, :3, 3]))
    about = {"drive_id": source.drive.manifest.drive_id, "vertical_datum": earth.datum}
    features: list[dict[str, object]] = [_feature("LineString", places if len(places) > 1 else places * 2, about)]
    times = cameras.timestamps_ns
    for number, (frame, place) in enumerate(zip(cameras.frame_index.tolist(), places, strict=True)):
        said: dict[str, object] = {"frame": frame, "filled": bool(cameras.filled[number])}
        if times is not None:
            said["timestamp_ns"] = int(times[number])
        features.append(_feature("Point", place, said))
    text = json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
    (folder / "trajectory.geojson").write_text(text + "\n")
    return f"trajectory.geojson: a line and {len(places)} points"


def write_kml(source: ExportSource, folder: Path) -> str:
    """Write trajectory.kml: the path, with the time of each frame where times count from 1970."""
    earth, cameras = Earth.of(source), source.cameras
    places = _rounded(earth.geodetic(cameras.world_from_camera[:, :3, 3]))
    times = cameras.timestamps_ns
    if times is not None and times[0] > 4e17:
        when = "".join(f"<when>{_utc(ns)}</when>" for ns in times.tolist())
        where = "".join(f"<gx:coord>{x} {y} {z}</gx:coord>" for x, y, z in places)
        geometry = f"<gx:Track><altitudeMode>absolute</altitudeMode>{when}{where}</gx:Track>"
    else:
        where = " ".join(f"{x},{y},{z}" for x, y, z in places)
        geometry = f"<LineString><altitudeMode>absolute</altitudeMode><coordinates>{where}</coordinates></LineString>"
    name = escape(source.drive.manifest.drive_id)
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2" '
        f'xmlns:gx="http://www.google.com/kml/ext/2.2"><Document><name>{name}</name>'
        f"<description>Heights are above the {escape(earth.datum)}.</description>"
        f"<Placemark><name>{name}</name>{geometry}</Placemark></Document></kml>\n"
    )
    (folder / "trajectory.kml").write_text(text)
    return f"trajectory.kml: {len(places)} positions"


def _write_geometry(rows: pa.Table, geometry: Sequence[bytes], kind: str, places: Array, path: Path) -> None:
    crs = import_module("pyproj").CRS.from_user_input("OGC:CRS84h").to_json_dict()
    column = {
        "encoding": "WKB",
        "geometry_types": [kind],
        "crs": crs,
        "bbox": [*places.min(0).tolist(), *places.max(0).tolist()],
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = rows.append_column("geometry", pa.array(geometry, pa.binary()))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"geo": json.dumps(geo).encode()})
    pq.write_table(table, path, compression="zstd")


def _footprint(source: ExportSource) -> Array:
    """A closed ring (n, 3) of metres east, north, up around cameras and boxes of points, anticlockwise."""
    position = source.cameras.world_from_camera[:, :3, 3]
    corners = [position[:, :2]]
    for file in source.drive.manifest.point_files:
        if file.box is not None:
            (x0, y0, _), (x1, y1, _) = file.box
            corners.append(np.array([[x0, y0], [x0, y1], [x1, y0], [x1, y1]]))
    flat = np.concatenate(corners)
    try:
        ring = flat[ConvexHull(flat).vertices]
    except (QhullError, ValueError):  # a straight path, or too few places
        low, high = flat.min(0) - _MARGIN_M, flat.max(0) + _MARGIN_M
        ring = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    ring = np.concatenate([ring, ring[:1]])
    return np.column_stack([ring, np.full(len(ring), float(np.median(position[:, 2])))])


def _rounded(places: Array) -> list[list[float]]:
    return [
        [round(x, _DEGREE_DIGITS), round(y, _DEGREE_DIGITS), round(z, _METRE_DIGITS)] for x, y, z in places.tolist()
    ]


def _feature(kind: str, coordinates: Sequence[object], properties: Mapping[str, object]) -> dict[str, object]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def _utc(ns: int) -> str:
    moment = datetime.fromtimestamp(ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns % 10**9 // 10**6:03d}Z"
