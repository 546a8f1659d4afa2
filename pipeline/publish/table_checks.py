"""Checks a published drive's tables before their content is used.

The footer is checked first: it states columns, types, rows and sizes, and nothing is decoded before these are found to
be possible. Then the rows: nulls only where the schema allows them, numbers within their ranges, rows of this drive in
order. A check yields a line for each fault. Readers refuse a table at the first fault, jobs.verify reports all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline import schema
from pipeline.cameras.camera import Camera
from pipeline.publish.manifest import Counts

LARGEST_TABLE_BYTES = 2**30
"""Most bytes of a file of poses, chunks, loops or cameras: a million frames have some 60 MB."""
LARGEST_ROW_GROUP = 2**22
"""Most rows of a row group of points, which is read at once."""

_LARGEST_TABLE_ROWS = 2**24  # 150 hours of 30 frames a second
_LARGEST_CAMERAS = 64
_LARGEST_COLUMN_BYTES = 2**30  # of one column of one row group, decoded
_LONGEST_TEXT = 2**15
_LARGEST_MASK_BYTES, _LARGEST_SIDE, _LARGEST_VIEW = 2**24, 2**17, 2**25  # bytes, pixels of a side, of a picture
_OPEN = {
    "page_checksum_verification": True,
    "thrift_string_size_limit": 2**24,  # a footer states sizes, which are allocated before anything else is read
    "thrift_container_size_limit": 2**20,
}
_FARTHEST = 1e12  # units: squares and products of such coordinates are still exact enough
_SHORTEST, _LONGEST = 0.01, 1000.0  # focal lengths as a share of the picture's longer side: 179 and 0.06 degrees
_UNIT = 1e-6  # how far the length of a quaternion may be from 1: it was rounded to float64
_LENS = ("model", "width", "height", "fx", "fy", "cx", "cy", "params")
_NUMBER_OF = {
    "poses": "frame_index",
    "chunks": "chunk_index",
    "loops": "loop_index",
    "cameras": "camera_index",
    "positions": "fix_index",
    "places": "place_index",
    "tracks": "observation_index",
    "evidence": "evidence_index",
}
_LONGEST_DESCRIPTOR = 2**14

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError)
"""What pyarrow raises for bytes that are no Parquet file."""


def kind_of(path: str) -> str:
    """The name in schema.TABLES of a drive's file."""
    name = path.rpartition("/")[2].removesuffix(".parquet")
    return name if name in schema.TABLES else "points"


def open_parquet(source: str | BinaryIO | pa.BufferReader, **options: object) -> pq.ParquetFile:
    """Open a Parquet file. Its pages are compared with their checksums, and its footer cannot cause large allocations.

    Raises one of UNREADABLE; StorageError.
    """
    return pq.ParquetFile(source, **_OPEN, **options)


def footer_problems(parquet: pq.ParquetFile, kind: str, rows: int) -> Iterator[str]:
    """The faults of a table of schema.TABLES[kind] that its footer shows. rows: the expected number of rows."""
    have, metadata = parquet.schema_arrow, parquet.metadata
    for column in schema.TABLES[kind]:
        places = have.get_all_field_indices(column.name)
        if not places and column.name in schema.ADDED.get(kind, {}):
            continue
        if not places:
            yield f"has no column {column.name}"
        elif len(places) > 1:
            yield f"has more than one column {column.name}"
        elif have.field(places[0]).type != column.type:
            yield f"column {column.name} is {have.field(places[0]).type}, not {column.type}"
    if metadata.num_rows != rows:
        yield f"has {metadata.num_rows:,} rows, not {rows:,}"
    most = LARGEST_ROW_GROUP if kind == "points" else _LARGEST_CAMERAS if kind == "cameras" else _LARGEST_TABLE_ROWS
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if not 0 <= group.num_rows <= most:
            yield f"row group {number} promises {group.num_rows:,} rows, at most {most:,} are read at once"
            return
        for place in range(group.num_columns):
            one = group.column(place)
            if not 0 <= one.total_uncompressed_size <= _LARGEST_COLUMN_BYTES or not 0 <= one.num_values <= 64 * most:
                yield f"row group {number} promises {one.total_uncompressed_size:,} bytes in {one.path_in_schema[:80]}"
                return
    if sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)) != metadata.num_rows:
        yield f"says {metadata.num_rows:,} rows, its row groups have others"


def read_whole(data: bytes) -> pa.Table:
    """A small table. The lengths of texts are checked while each text is in memory once: row by row, a text may be
    repeated a million times. Raises one of UNREADABLE; ValueError for texts that are too long."""
    source = pa.BufferReader(data)
    kind = open_parquet(source).schema_arrow
    texts = [one.name for one in kind if pa.types.is_string(one.type)]
    table = open_parquet(source, read_dictionary=texts).read()
    for name in texts:
        lengths = [0] + [
            pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
            for chunk in table[name].chunks
            if pa.types.is_dictionary(chunk.type)
        ]
        if max(lengths) > _LONGEST_TEXT or max(lengths) * table.num_rows > _LARGEST_COLUMN_BYTES:
            raise ValueError(f"column {name} holds texts of {max(lengths):,} characters")
    table = table.cast(kind)
    table.validate(full=True)  # texts that are no UTF-8, offsets outside their buffer
    return table


def row_problems(kind: str, table: pa.Table, drive_id: str, counts: Counts) -> Iterator[str]:
    """The faults in the rows of poses, chunks, loops or cameras. The footer must have been checked before."""
    nulls = [one.name for one in schema.TABLES[kind] if not one.nullable and table[one.name].null_count]
    yield from (f"column {name} lacks values in {table[name].null_count:,} rows" for name in nulls)
    if nulls:
        return
    if table.num_rows and pc.any(pc.not_equal(table["drive_id"], drive_id)).as_py() is not False:
        yield f"has rows of another drive than {drive_id}"
    number = _NUMBER_OF[kind]
    values = floats(table, number)
    if not np.array_equal(values, np.arange(len(values))):
        yield f"{number} does not count 0, 1, 2 ..."
    rows_of = {"poses": _poses, "chunks": _chunks, "loops": _loops, "cameras": _cameras, "positions": _positions}
    yield from {**rows_of, "places": _places, "tracks": _tracks, "evidence": _evidence}[kind](table, counts)


def points_group(parquet: pq.ParquetFile, number: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of a row group of points. Columns that an older result lacks get their default value. Raises one of
    UNREADABLE."""
    have = set(parquet.schema_arrow.names)
    lacking = [name for name in schema.ADDED["points"] if name in columns and name not in have]
    there = [name for name in columns if name not in lacking]
    table = parquet.read_row_group(number, columns=there or ["confidence"])
    for name in lacking:
        kind = schema.POINTS.field(name).type
        table = table.append_column(name, pa.array(np.full(table.num_rows, schema.ADDED["points"][name]), kind))
    return table.select(list(columns))


def points_problems(table: pa.Table, counts: Counts) -> Iterator[tuple[int, str]]:
    """For each fault in the columns of a row group: the number of points that have it, and the fault in words."""
    nulls = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    yield from ((count, f"{name} is null") for name, count in nulls.items())
    if nulls:
        return
    column = {name: table[name].to_numpy() for name in table.column_names}
    finite = np.ones(table.num_rows, bool)
    for axis in "xyz":
        if axis in column:
            finite &= np.abs(column[axis]) <= _FARTHEST
    wrong = {f"with a position that is not finite, or farther than {_FARTHEST:g} from the origin": ~finite}
    if (confidence := column.get("confidence")) is not None:
        sure = np.isfinite(confidence) & (confidence >= 1 - 1e-6)
        wrong["with a confidence that is not finite or below 1"] = ~sure
    if (kind := column.get("class")) is not None:
        wrong["with a class that is none"] = kind > schema.EGO
    for name, what, count in (("frame_index", "frame", counts.frames), ("chunk_index", "chunk", counts.chunks)):
        if (number := column.get(name)) is not None:
            wrong[f"with a {what} that is none of {count:,}"] = (number < 0) | (number >= count)
    yield from ((int(rows.sum()), what) for what, rows in wrong.items() if rows.any())


def rows_said(rows: str, what: str, wrong: NDArray[np.bool_]) -> Iterator[str]:
    """A line with the number of wrong rows and the first of them; nothing where no row is wrong."""
    if wrong.any():
        yield f"{int(wrong.sum()):,} {rows} {what} (the first: {int(np.flatnonzero(wrong)[0])})"


def floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers, null as NaN."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _poses(table: pa.Table, counts: Counts) -> Iterator[str]:
    status = np.array(table["status"].to_pylist(), dtype=object)
    yield from rows_said("frames", "with an unknown status", ~np.isin(status, schema.STATUSES))
    for name, number in (
        (schema.OK, counts.frames_ok),
        (schema.FILLED, counts.frames_filled),
        (schema.MISSING, counts.frames_missing),
    ):
        if int((status == name).sum()) != number:
            yield f"has {int((status == name).sum()):,} frames {name}, the manifest counts {number:,}"
    known = status != schema.MISSING
    pose = {name: floats(table, name) for name in ("x", "y", "z", "qw", "qx", "qy", "qz", "fx", "fy", "cx", "cy")}
    finite = np.all([np.isfinite(values) for values in pose.values()], axis=0)
    length = np.sqrt(sum(pose[f"q{part}"] ** 2 for part in "wxyz"))
    sizes = np.stack([floats(table, name) for name in ("width", "height")], -1)
    confidence, chunk = floats(table, "confidence"), floats(table, "chunk_index")
    longest = sizes.max(axis=1)
    focal = np.stack([pose["fx"], pose["fy"]], -1)
    wrong = {
        "with a pose or intrinsics that are not finite": known & ~finite,
        f"farther than {_FARTHEST:g} from the origin": known & ~_near(np.stack([pose[axis] for axis in "xyz"], -1)),
        "missing, but with a pose": ~known & np.isfinite(pose["x"]),
        "whose quaternion is not of length 1 with qw >= 0": known
        & finite
        & ((np.abs(length - 1) > _UNIT) | (pose["qw"] < -_UNIT)),
        "with a focal length that is not above zero": known & finite & ~((pose["fx"] > 0) & (pose["fy"] > 0)),
        "with a confidence below 1": np.isfinite(confidence) & (confidence < 1 - 1e-6),
        "without a size in pixels": ~(sizes >= 1).all(axis=1),
        f"of more than {_LARGEST_SIDE:,} pixels a side": ~(longest <= _LARGEST_SIDE),
        "with a focal length that does not fit their size": known
        & ~((focal >= _SHORTEST * longest[:, None]) & (focal <= _LONGEST * longest[:, None])).all(axis=1),
        "with a pose, but of no chunk": known & ~np.isfinite(chunk),
        f"of a chunk that is none of {counts.chunks:,}": np.isfinite(chunk) & ((chunk < 0) | (chunk >= counts.chunks)),
    }
    if "latitude" in table.column_names:
        place = np.stack([floats(table, name) for name in ("latitude", "longitude", "altitude")], -1)
        wrong["whose latitude, longitude and altitude are no place on Earth"] = known & ~_on_earth(place)
    for what, rows in wrong.items():
        yield from rows_said("frames", what, rows)


def _near(place: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(place) <= _FARTHEST).all(axis=1))


def _on_earth(place: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(place) <= (90, 360, 1e5)).all(axis=1))


def _positions(table: pa.Table, counts: Counts) -> Iterator[str]:
    used = np.array(table["used"].to_pylist(), dtype=bool)
    place = np.stack([floats(table, "latitude"), floats(table, "longitude"), np.zeros(table.num_rows)], -1)
    residual = np.stack([floats(table, f"residual_{axis}") for axis in ("east", "north")], -1)
    wrong = {
        "used, but of no place on Earth": used & ~_on_earth(place),
        "used, but without a residual": used & ~np.isfinite(residual).all(axis=1),
    }
    for what, rows in wrong.items():
        yield from rows_said("fixes", what, rows)


def _places(table: pa.Table, counts: Counts) -> Iterator[str]:
    frame = floats(table, "frame_index")
    if not ((frame >= 0) & (frame < counts.frames)).all() or (np.diff(frame) <= 0).any():
        yield f"has frames that do not rise, or are none of {counts.frames:,}"
    lengths = pc.list_value_length(table["descriptor"]).to_numpy()
    if len(lengths) and not (lengths.min() == lengths.max() and 1 <= lengths[0] <= _LONGEST_DESCRIPTOR):
        yield f"has descriptors of {int(lengths.min())} to {int(lengths.max()):,} numbers"
        return
    values = table["descriptor"].combine_chunks().flatten()
    if values.null_count or not np.isfinite(values.to_numpy(zero_copy_only=False)).all():
        yield "has a descriptor that is not of finite numbers"


def _tracks(table: pa.Table, counts: Counts) -> Iterator[str]:
    frame, point = floats(table, "frame_index"), floats(table, "point_index")
    place = np.stack([floats(table, name) for name in ("x", "y", "z", "u", "v")], -1)
    step = np.diff(point, prepend=-1)
    wrong = {
        "of a frame that the drive has not": ~((frame >= 0) & (frame < counts.frames)),
        "with a place that is not finite": ~np.isfinite(place).all(axis=1),
        "whose point does not follow the one before": ~((step == 0) | (step == 1)),
    }
    for what, rows in wrong.items():
        yield from rows_said("observations", what, rows)


def _evidence(table: pa.Table, counts: Counts) -> Iterator[str]:
    first, second = floats(table, "frame_index"), floats(table, "second_frame_index")
    share = floats(table, "share")
    wrong = {
        "of frames that the drive has not": ~((first >= 0) & (first < second) & (second < counts.frames)),
        "with a share of tracks that is none": np.isfinite(share) & ((share < 0) | (share > 1)),
        "with a number of tracks below zero": floats(table, "tracks") < 0,
    }
    for what, rows in wrong.items():
        yield from rows_said("pairs", what, rows)


def _chunks(table: pa.Table, counts: Counts) -> Iterator[str]:
    start, stop = floats(table, "frame_start"), floats(table, "frame_stop")
    scale, inliers = floats(table, "scale"), floats(table, "overlap_inliers")
    length = np.sqrt(sum(floats(table, f"q{part}") ** 2 for part in "wxyz"))
    place = np.stack([floats(table, axis) for axis in "xyz"], -1)
    wrong = {
        "whose frames are no range of the drive's": ~((start >= 0) & (start < stop) & (stop <= counts.frames)),
        "with a scale that is not above zero": ~(np.isfinite(scale) & (scale > 0)),
        f"with a scale that is not from {1 / _FARTHEST:g} to {_FARTHEST:g}": ~(
            (scale >= 1 / _FARTHEST) & (scale <= _FARTHEST)
        ),
        "with a position that is not finite": ~np.isfinite(place).all(axis=1),
        f"farther than {_FARTHEST:g} from the origin": ~_near(place),
        "whose quaternion is not of length 1": ~(np.abs(length - 1) <= _UNIT),
        "with a share of inliers that is none": np.isfinite(inliers) & ((inliers < 0) | (inliers > 1)),
        "with a number of points below zero": floats(table, "points") < 0,
    }
    for name in schema.ADDED["chunks"]:
        if name in table.column_names:
            wrong[f"whose {name} is no finite matrix of 7 x 7"] = _no_matrix(table[name])
    for what, rows in wrong.items():
        yield from rows_said("chunks", what, rows)


def _no_matrix(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which rows of a column of lists have neither null nor 49 finite numbers."""
    lists = column.combine_chunks()
    length = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    parent = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    number = np.asarray(pc.list_flatten(lists).fill_null(np.nan).to_numpy(zero_copy_only=False), np.float64)
    wrong = np.asarray((length != 49) & lists.is_valid().to_numpy(zero_copy_only=False))
    wrong[parent[~np.isfinite(number)]] = True
    return wrong


def _loops(table: pa.Table, counts: Counts) -> Iterator[str]:
    for which in ("first", "second"):
        start, stop = floats(table, f"{which}_start"), floats(table, f"{which}_stop")
        wrong = ~((start >= 0) & (start < stop) & (stop <= counts.frames))
        yield from rows_said("loops", f"whose {which} window is no range of the drive's frames", wrong)
    accepted = np.array(table["accepted"].to_pylist(), dtype=bool)
    if int(accepted.sum()) != counts.loops_accepted:
        yield f"has {int(accepted.sum()):,} accepted, the manifest counts {counts.loops_accepted:,}"


def _cameras(table: pa.Table, counts: Counts) -> Iterator[str]:
    rows: list[dict[str, Any]] = table.to_pylist()  # of the types of schema.CAMERAS, which were checked before
    if not rows or sum(row["view_width"] * row["view_height"] for row in rows) > _LARGEST_VIEW:
        yield f"has {len(rows)} cameras, with pictures that are too large" if rows else "has no camera"
        return
    for row in rows:
        yield from _one_camera(row)


def _one_camera(row: Mapping[str, Any]) -> Iterator[str]:  # as above
    sides = [row[name] for name in ("width", "height", "view_width", "view_height")]
    if not all(1 <= side <= _LARGEST_SIDE for side in sides):
        yield f"says pictures of {sides[0]}x{sides[1]} and {sides[2]}x{sides[3]} pixels"
        return
    view = [row[f"view_{name}"] for name in ("fx", "fy", "cx", "cy")]
    try:
        if any(row[name] is not None for name in ("fx", "fy", "cx", "cy")) or row["model"] != "pinhole":
            values = {name: row[name] for name in _LENS}
            Camera.from_dict({**values, **{name: _number(values[name]) for name in ("fx", "fy", "cx", "cy")}})
            if not all(np.isfinite(_number(value)) for value in view) or min(view[:2]) <= 0:
                raise ValueError(f"view: expected finite numbers and focal lengths above zero, got {view}")
    except (ValueError, TypeError) as error:
        yield f"holds no camera ({' '.join(str(error).split())[:120]})"
    if row["mask"] is not None:
        yield from _mask(row["mask"], sides[2], sides[3])


def _mask(data: bytes, width: int, height: int) -> Iterator[str]:
    if len(data) > _LARGEST_MASK_BYTES:
        yield f"holds a mask of {len(data):,} bytes, at most {_LARGEST_MASK_BYTES:,} are read"
        return
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):  # from the header: nothing is decoded yet
                yield f"holds a mask of {image.size[0]}x{image.size[1]} pixels, not {width}x{height}"
                return
            image.load()
    except Exception as error:  # Pillow's decoders raise errors of any kind
        yield f"holds a mask that cannot be read ({' '.join(str(error).split())[:120]})"


def _number(value: float | None) -> float:
    if value is None:
        raise ValueError("a number of the camera is missing")
    return float(value)
