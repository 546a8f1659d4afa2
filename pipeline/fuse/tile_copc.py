"""Writes a tile as COPC: the points of its Parquet file for viewers and GIS, each with its drive and frame."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.publish.exports.copc import write_octree
from pipeline.publish.exports.earth import Earth
from pipeline.publish.exports.laz import check_laz, new_header, records_of

_EXTRA = {"confidence": np.float32, "drive": np.int32, "frame": np.int32}
_COLUMNS = {"confidence": "confidence", "drive": "drive_index", "frame": "frame_index"}
_NAMES_USER, _NAMES_RECORD = "city-recon", 1
_FINENESS = 1e-3  # of a cube: the resolution of stored coordinates is the power of ten below this


def write_copc_tile(table: pa.Table, names: Mapping[str, str], voxel: float, earth: Earth | None, path: Path) -> None:
    """Write at least one point (city_schema.POINTS) to `path`. names: drive names by drive_index, written as JSON into
    a record of the header; voxel: side of the city's cubes; earth: place of the frame on Earth, None if it is not
    there. Raises ValueError if laspy is not installed."""
    laspy = check_laz()
    middle = np.array([round(float(np.mean(table[axis].to_numpy()))) for axis in "xyz"], np.float64)
    header = new_header(middle, 10.0 ** math.floor(math.log10(_FINENESS * voxel)), _EXTRA, earth)
    said = json.dumps(dict(names), sort_keys=True).encode()
    header.vlrs.append(laspy.VLR(_NAMES_USER, _NAMES_RECORD, "names of drives", said))
    write_octree(header, [records_of(table, header, earth, _COLUMNS)], path)
