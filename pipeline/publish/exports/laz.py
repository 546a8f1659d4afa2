"""LAZ (LAS 1.4, point format 7) with colour, and confidence, chunk and frame as extra dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.errors import DriveError
from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.source import ExportSource

if TYPE_CHECKING:
    import laspy

_FINENESS = 1e-5  # step, as a share of the median distance of points from their cameras; depth has errors of percents
_METRE_STEP = 1e-4  # of a georeferenced cloud: a tenth of a millimetre, and 100 km each way
_STEPS = 2.0**30  # positions are 32-bit numbers of steps from the middle
_EXTRA = {"confidence": np.float32, "chunk": np.int32, "frame": np.int32}
_COLUMNS = {"confidence": "confidence", "chunk": "chunk_index", "frame": "frame_index"}


def check_laz() -> ModuleType:
    """The laspy module. Raises ValueError, with the command to install them, where laspy or lazrs is missing."""
    try:
        import_module("lazrs")
        return import_module("laspy")
    except ImportError:
        raise ValueError("LAZ needs laspy and lazrs: pip install 'city-reconstruction[export]'") from None


def write_laz(source: ExportSource, path: Path) -> int:
    """Write the points piece by piece; returns their number. Positions are rounded to a power of ten that is at most
    1/100,000 of the median distance from camera to point, or larger if a drive is too long for 32-bit steps of that
    size. A georeferenced drive has metres of UTM (or of `source.crs`) and height; WKT names both systems."""
    laspy = check_laz()
    header, earth = laz_header(source)
    count = 0
    with laspy.open(str(path), mode="w", header=header) as writer:
        for points in laz_records(source, header, earth):
            writer.write_points(points)
            count += len(points)
    return count


def laz_header(source: ExportSource) -> tuple[laspy.LasHeader, Earth | None]:
    """The header of a file for the points, and their place on Earth; None for a relative drive."""
    earth = Earth.of(source) if source.drive.origin is not None or source.crs is not None else None
    middle, step = _grid(source)
    return new_header(middle, step, _EXTRA, earth), earth


def new_header(middle: np.ndarray, step: float, extra: Mapping[str, type], earth: Earth | None) -> laspy.LasHeader:
    """A header for points about `middle` (3,) in steps of `step`, with these extra dimensions. With `earth`, points are
    metres on its map, in steps of a tenth of a millimetre."""
    laspy = check_laz()
    header = laspy.LasHeader(version="1.4", point_format=7)
    if earth is not None:
        step = _METRE_STEP
        middle = np.round(earth.on_map(middle[None])[0])
        header.vlrs.append(laspy.vlrs.known.WktCoordinateSystemVlr(earth.wkt()))
        header.global_encoding.wkt = True
    header.scales, header.offsets = np.full(3, step), middle
    header.generating_software = "city-reconstruction"
    header.add_extra_dims([laspy.ExtraBytesParams(name, kind) for name, kind in extra.items()])
    return header


def laz_records(
    source: ExportSource, header: laspy.LasHeader, earth: Earth | None
) -> Iterator[laspy.ScaleAwarePointRecord]:
    """The points as records of `header`, piece by piece."""
    for table in source.points():
        yield records_of(table, header, earth, _COLUMNS)


def records_of(
    table: pa.Table, header: laspy.LasHeader, earth: Earth | None, columns: Mapping[str, str]
) -> laspy.ScaleAwarePointRecord:
    """Rows of a table of points (x y z r g b) as records of `header`. columns: extra dimension -> column."""
    points = check_laz().ScaleAwarePointRecord.zeros(table.num_rows, header=header)
    xyz = np.stack([table[axis].to_numpy().astype(np.float64) for axis in "xyz"], -1)
    if earth is not None:
        xyz = earth.on_map(xyz)
    for place, axis in enumerate("xyz"):
        setattr(points, axis, xyz[:, place])
    for name, column in (("red", "r"), ("green", "g"), ("blue", "b")):
        setattr(points, name, table[column].to_numpy().astype(np.uint16) * 257)  # 255 -> 65535
    for name, column in columns.items():
        points[name] = table[column].to_numpy()
    points.return_number[:] = 1  # LAS counts returns from 1
    points.number_of_returns[:] = 1
    return points


def _grid(source: ExportSource) -> tuple[np.ndarray, float]:
    """The origin (3,) of the file's positions and their step."""
    boxes = np.array([file.box for file in source.drive.manifest.point_files if file.box is not None])
    if not len(boxes):
        raise DriveError(f"drive {source.drive.manifest.drive_id} was published without points")
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    fine = 10.0 ** math.floor(math.log10(max(_FINENESS * source.drive.typical[0], 1e-12)))
    widest = float((high - low).max())
    while widest / fine > _STEPS:
        fine *= 10
    return np.round((low + high) / 2), fine
