"""The tables of a city, below `<output>/_city/<version>/`. Coordinates are of a frame: `earth` (metres east, north, up
at the origin in the manifest), or the name of the first drive of drives that links hold together (that drive's own)."""

from __future__ import annotations

import pyarrow as pa

from pipeline.schema import MADE_BY, MADE_BY_KEY

CITY_SCHEMA_VERSION = 2


def _schema(title: str, fields: list[tuple[str, pa.DataType, str]]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, metadata={"description": said}) for name, kind, said in fields],
        metadata={"title": title, "schema_version": str(CITY_SCHEMA_VERSION), MADE_BY_KEY: MADE_BY},
    )


_F, _I, _S = pa.float64(), pa.int32(), pa.string()

DRIVES = _schema(
    "one row a drive",
    [
        ("drive_index", _I, "number of the drive in this version"),
        ("drive_id", _S, "name of the drive"),
        ("key", _S, "identity and date of the result that took part"),
        ("recorded_s", _F, "when it was recorded (or else published), seconds since 1970"),
        ("frame", _S, "frame that it stands in"),
        ("on_earth", pa.bool_(), "whether that is metres east, north, up"),
        ("scale", _F, "city_from_drive: city units a unit of the drive (the mean over the drive)"),
        *[(axis, _F, f"city_from_drive: translation along city {axis}") for axis in "xyz"],
        *[(f"q{part}", _F, f"city_from_drive: unit quaternion, {part}") for part in "wxyz"],
        ("deviation", _F, "of its middle frame's position against the frame's first drive, or the fixes; city units"),
        ("scale_range", _F, "largest over smallest scale along the drive"),
        ("links", _I, "links of it that were accepted"),
        ("links_rejected", _I, "links of it that were not"),
        ("fixes", _I, "positions of its own that took part"),
        ("evidence", _S, "what holds it in its place, in words"),
    ],
)
POSES = _schema(
    "one row a frame of a drive that has a pose",
    [
        ("drive_index", _I, "number of the drive in this version"),
        ("frame_index", _I, "number of the frame in the drive"),
        *[(axis, _F, f"city_from_camera: translation along city {axis}") for axis in "xyz"],
        *[(f"q{part}", _F, f"city_from_camera: unit quaternion, {part}") for part in "wxyz"],
        ("scale", _F, "city units a unit of the drive, at this frame"),
    ],
)
LINKS = _schema(
    "one row a candidate that was looked at",
    [
        ("first_drive", _S, "name of a drive"),
        ("first_frame", _I, "frame of it"),
        ("second_drive", _S, "name of another drive"),
        ("second_frame", _I, "frame of it"),
        ("by", _S, "what proposed it: positions | descriptors"),
        ("score", _F, "of the proposal: cells shared, or summed similarity"),
        ("verified", pa.bool_(), "whether the pictures show one place"),
        ("accepted", pa.bool_(), "whether it took part in the solution"),
        ("matches", _I, "features that agree on one motion"),
        ("chi2", _F, "squared residual in its deviations, 7 degrees of freedom; NaN where it was not verified"),
        ("reason", _S, "why, in words"),
    ],
)
POINTS = _schema(
    "one row a point, one a cube over all drives, along a Morton curve",
    [
        *[(axis, pa.float32(), f"position in the city along {axis}") for axis in "xyz"],
        ("r", pa.uint8(), "red, sRGB"),
        ("g", pa.uint8(), "green, sRGB"),
        ("b", pa.uint8(), "blue, sRGB"),
        ("confidence", pa.float32(), "depth confidence, 1 + exp, >= 1"),
        ("drive_index", _I, "drive that saw it, a number of drives.parquet of the version that wrote the tile"),
        ("frame_index", _I, "frame of that drive"),
        ("class", pa.uint8(), "0 unknown | 2 ego"),
    ],
)
CHANGE = _schema(
    "one row a point that is there in one drive and seen through in another, thinned",
    [
        *[(axis, pa.float32(), f"position in the city along {axis}") for axis in "xyz"],
        ("r", pa.uint8(), "red, sRGB"),
        ("g", pa.uint8(), "green, sRGB"),
        ("b", pa.uint8(), "blue, sRGB"),
        ("class", pa.uint8(), "1 gone: only the earlier drive has it | 2 new: only the later one"),
        ("object", _S, "object that it belongs to, of changes.parquet"),
        ("frame_index", _I, "frame that saw it, of the object's drive"),
    ],
)
CHANGES = _schema(
    "one row an object that is there in one drive and seen through in another",
    [
        ("object", _S, "name of the object: frame of the city, tile, number"),
        ("frame", _S, "frame of the city that it stands in"),
        ("tile_x", _I, "tile that it stands in"),
        ("tile_y", _I, "tile that it stands in"),
        ("class", pa.uint8(), "1 gone: only the earlier drive has it | 2 new: only the later one"),
        ("drive_id", _S, "drive that has it"),
        ("other_id", _S, "drive that looked through"),
        ("points", _I, "points of it"),
        *[(f"low_{axis}", _F, f"lowest {axis}") for axis in "xyz"],
        *[(f"high_{axis}", _F, f"highest {axis}") for axis in "xyz"],
        ("drive_frame", _I, "frame of the drive that shows it"),
        ("other_frame", _I, "frame of the other drive that looks through it"),
        ("picture", _S, "file below _city/ that shows both frames, null without"),
    ],
)
