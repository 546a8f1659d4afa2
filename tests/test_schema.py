"""The tables have the columns that readers rely on: these names, types and nulls, in this order."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema

S, I32, I64, F32, F64, U8, B = (
    pa.string(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.uint8(),
    pa.bool_(),
)
NULL = True
POSE = [(name, F64) for name in ("x", "y", "z", "qw", "qx", "qy", "qz")]

EXPECTED = {
    "poses": [
        ("drive_id", S),
        ("frame_index", I32),
        ("timestamp_ns", I64, NULL),
        ("uri", S),
        ("chunk_index", I32, NULL),
        *[(name, kind, NULL) for name, kind in POSE],
        *[(name, F64, NULL) for name in ("fx", "fy", "cx", "cy")],
        ("width", I32),
        ("height", I32),
        ("confidence", F32, NULL),
        ("status", S),
    ],
    "points": [
        *[(axis, F32) for axis in "xyz"],
        *[(colour, U8) for colour in "rgb"],
        ("confidence", F32),
        ("frame_index", I32),
        ("chunk_index", I32),
        ("class", U8),
    ],
    "chunks": [
        ("drive_id", S),
        ("chunk_index", I32),
        ("frame_start", I32),
        ("frame_stop", I32),
        ("frames", I32),
        ("frames_owned", I32),
        ("scale", F64),
        *POSE,
        ("overlap_residual", F64, NULL),
        ("overlap_inliers", F64, NULL),
        ("noise", F64, NULL),
        ("depth_disagreement", F64, NULL),
        ("scale_jump", F64, NULL),
        ("verdict", S, NULL),
        ("points", I64),
        ("step_covariance", pa.list_(F64), NULL),
        ("step_with_next", pa.list_(F64), NULL),
    ],
    "loops": [
        ("drive_id", S),
        ("loop_index", I32),
        ("first_start", I32),
        ("first_stop", I32),
        ("second_start", I32),
        ("second_stop", I32),
        ("similarity", F64, NULL),
        ("residual", F64, NULL),
        ("accepted", B),
        ("reason", S, NULL),
    ],
    "cameras": [
        ("drive_id", S),
        ("camera_index", I32),
        ("model", S),
        ("width", I32),
        ("height", I32),
        *[(name, F64, NULL) for name in ("fx", "fy", "cx", "cy")],
        ("params", pa.list_(F64)),
        ("origin", S),
        ("mask", pa.binary(), NULL),
        ("view_width", I32),
        ("view_height", I32),
        *[(f"view_{name}", F64, NULL) for name in ("fx", "fy", "cx", "cy")],
    ],
    "positions": [
        ("drive_id", S),
        ("fix_index", I32),
        *[(name, F64, NULL) for name in ("time_s", "latitude", "longitude", "altitude", "accuracy")],
        ("used", B),
        *[(name, F64, NULL) for name in ("east", "north", "up")],
        *[(f"residual_{name}", F64, NULL) for name in ("east", "north", "up")],
    ],
    "places": [
        ("drive_id", S),
        ("place_index", I32),
        ("frame_index", I32),
        ("descriptor", pa.list_(pa.float16())),
    ],
    "tracks": [
        ("drive_id", S),
        ("observation_index", I32),
        ("point_index", I32),
        *[(name, F64) for name in "xyz"],
        ("frame_index", I32),
        ("u", F64),
        ("v", F64),
    ],
    "evidence": [
        ("drive_id", S),
        *[(name, I32) for name in ("evidence_index", "frame_index", "second_frame_index", "tracks")],
        ("flow", F64),
        *[(name, F64, NULL) for name in ("distance", "share", "depth", "spread")],
        ("judged", B),
    ],
}


def test_a_result_has_these_tables_and_no_other():
    assert list(schema.TABLES) == list(EXPECTED)


@pytest.mark.parametrize("table", EXPECTED)
def test_columns_have_the_documented_types_and_nulls(table):
    got = [(field.name, field.type, field.nullable) for field in schema.TABLES[table]]
    assert got == [(name, kind, bool(null)) for name, kind, *null in EXPECTED[table]]


def test_poses_of_a_georeferenced_drive_have_six_more_columns_and_name_their_world():
    kind = schema.on_earth(schema.POSES_ON_EARTH)
    added = [(field.name, field.type, field.nullable) for field in kind][len(EXPECTED["poses"]) :]
    names = ("latitude", "longitude", "altitude", "deviation_east", "deviation_north", "deviation_up")
    assert added == [(name, F64, True) for name in names]
    assert kind.names[: len(EXPECTED["poses"])] == schema.POSES.names
    assert b"east, north, up" in kind.metadata[b"world_frame"]
    assert kind.field("x").metadata[b"unit"] == b"m" and kind.field("fx").metadata[b"unit"] == b"px"


@pytest.mark.parametrize("table", EXPECTED)
def test_every_column_has_a_description_and_measures_have_a_unit(table, tmp_path):
    kind = schema.TABLES[table]
    pq.write_table(kind.empty_table(), tmp_path / "t.parquet")
    read = pq.read_schema(tmp_path / "t.parquet")  # the descriptions must survive writing and reading a file
    assert read.metadata[b"schema_version"] == str(schema.SCHEMA_VERSION).encode()
    for field in read:
        assert field.metadata[b"description"]
    units = {field.name: field.metadata[b"unit"].decode() for field in read if b"unit" in field.metadata}
    for name, unit in {
        "x": "world unit",
        "qw": "1",
        "fx": "px",
        "cy": "px",
        "width": "px",
        "timestamp_ns": "ns",
        "scale": "1",
        "r": "1/255",
    }.items():
        if name in read.names:
            assert units[name] == unit


def test_the_tables_cover_what_the_design_lists(shared):
    design = (shared / "design" / "house.md").read_text()
    promised = design[design.index("<output>/<drive_id>/poses.parquet") :]
    for word, table, columns in [
        ("timestamp_ns (null where", "poses", ["timestamp_ns"]),
        ("position x y z, quaternion w x y z", "poses", ["x", "y", "z", "qw", "qx", "qy", "qz"]),
        ("fx fy cx cy in pixels of the source image", "poses", ["fx", "fy", "cx", "cy"]),
        ("status (ok | filled | missing)", "poses", ["status"]),
        ("x y z (float32), r g b (uint8), confidence (float32)", "points", ["x", "r", "confidence"]),
        ("frame range, world_from_chunk Sim(3)", "chunks", ["frame_start", "frame_stop", "scale", "qw"]),
        ("inliers, points", "chunks", ["overlap_inliers", "points"]),
        ("candidates, similarity, residual, accepted or why not", "loops", ["similarity", "reason"]),
    ]:
        assert word in " ".join(promised.split()), word
        assert set(columns) <= set(schema.TABLES[table].names)
    assert "|".join(schema.STATUSES) == "ok|filled|missing"
