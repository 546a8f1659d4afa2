"""The tables of a city, below `<output>/_city/<version>/`.

Coordinates belong to a frame. The frame `earth` has metres east, north, up from the origin in the manifest. Drives that
only links hold together have the frame of their first drive, under that drive's name.
"""

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
        ("key", _S, "identity and date of the drive's result that was used"),
        ("recorded_s", _F, "when it was recorded (if unknown: published), seconds since 1970"),
        ("frame", _S, "coordinate frame of its poses"),
        ("on_earth", pa.bool_(), "whether that frame is metres east, north, up"),
        ("scale", _F, "city_from_drive: city units per unit of the drive (mean over the drive)"),
        *[(axis, _F, f"city_from_drive: translation along city {axis}") for axis in "xyz"],
        *[(f"q{part}", _F, f"city_from_drive: unit quaternion, {part}") for part in "wxyz"],
        (
            "deviation",
            _F,
            "deviation of its middle frame's position, city units, relative to the first drive or to Earth",
        ),
        ("scale_range", _F, "largest over smallest scale along the drive"),
        ("links", _I, "number of its links that were accepted"),
        ("links_rejected", _I, "number of its links that were not"),
        ("fixes", _I, "number of its own positions that were used"),
        ("evidence", _S, "what its place follows from, in words"),
    ],
)
POSES = _schema(
    "one row a frame of a drive that has a pose",
    [
        ("drive_index", _I, "number of the drive in this version"),
        ("frame_index", _I, "number of the frame in the drive"),
        *[(axis, _F, f"city_from_camera: translation along city {axis}") for axis in "xyz"],
        *[(f"q{part}", _F, f"city_from_camera: unit quaternion, {part}") for part in "wxyz"],
        ("scale", _F, "city units per unit of the drive, at this frame"),
    ],
)
LINKS = _schema(
    "one row a candidate that was verified",
    [
        ("first_drive", _S, "name of a drive"),
        ("first_frame", _I, "frame of it"),
        ("second_drive", _S, "name of another drive"),
        ("second_frame", _I, "frame of it"),
        (
            "by",
            _S,
            "what proposed it: positions | descriptors | solution (paths through one street) | facades (similar side "
            "views of opposite directions) | facing (frames that face each other in the solution) | ground (the same "
            "road in other directions)",
        ),
        ("score", _F, "of the candidate: number of common cells, similarity, or metres of common street"),
        ("verified", pa.bool_(), "whether the pictures show the same place"),
        ("accepted", pa.bool_(), "whether the link is part of the solution"),
        ("matches", _I, "number of features that agree on one relative pose"),
        ("chi2", _F, "squared Mahalanobis distance, 7 degrees of freedom; NaN where it was not verified"),
        ("reason", _S, "reason of the verdict, in words"),
    ],
)
POINTS = _schema(
    "one row a point, at most one point a cube over all drives, along a Morton curve",
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
    "one row a point that one drive saw and another drive looked through, thinned",
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
    "one row an object that one drive saw and another drive looked through",
    [
        ("object", _S, "name of the object: frame of the city, tile, number"),
        ("frame", _S, "coordinate frame of the city"),
        ("tile_x", _I, "number of its tile along the first horizontal axis"),
        ("tile_y", _I, "number of its tile along the second horizontal axis"),
        ("class", pa.uint8(), "1 gone: only the earlier drive has it | 2 new: only the later one"),
        ("drive_id", _S, "drive that saw it"),
        ("other_id", _S, "drive that looked through it"),
        ("points", _I, "number of its points"),
        *[(f"low_{axis}", _F, f"lowest {axis}") for axis in "xyz"],
        *[(f"high_{axis}", _F, f"highest {axis}") for axis in "xyz"],
        ("drive_frame", _I, "frame of the drive that shows it"),
        ("other_frame", _I, "frame of the other drive that looks through it"),
        ("picture", _S, "file below _city/ that shows both frames, null where there is none"),
    ],
)
