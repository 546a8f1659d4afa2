"""A drive list names drives in three formats. An error in a row names its line; the other rows are read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.cameras.config import CameraConfig
from pipeline.config import RunConfig
from pipeline.errors import DriveError, StorageError
from pipeline.fleet.discover.drive_list import MAX_LINE_CHARACTERS, read_drive_list
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan.drive_plan import drive_config

ROWS = [
    {"drive_id": "a", "uri": "s3://bucket/a", "start": 5, "end": 10, "fps": 2.5, "tags": ["night", "rain"]},
    {"drive_id": "b", "uri": "drives/b", "start": None, "end": None, "fps": None, "tags": None},
]


def write(folder, kind, rows=ROWS):
    path = folder / f"fleet.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    else:
        lines = ["drive_id,uri,start,end,fps,tags"]
        for row in rows:
            cells = [";".join(v) if isinstance(v, list) else "" if v is None else str(v) for v in row.values()]
            lines.append(",".join(cells))
        path.write_text("﻿" + "\r\n".join(lines) + "\r\n")
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_all_formats_give_the_same_drives(tmp_path, kind):
    assert list(read_drive_list(write(tmp_path, kind))) == [
        DriveRef("a", "s3://bucket/a", 5, 10, 2.5, ("night", "rain")),
        DriveRef("b", str(tmp_path / "drives/b")),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a", "line 2: expected 6 values, got 1"),
        (",s3://b/a,,,,", "line 2: expected a text for drive_id, got ''"),
        ("a,,,,,", "line 2: expected a text for uri"),
        ("a,s3://b/a,ten,,,", "line 2: expected a number for start, got 'ten'"),
        ("a,s3://b/a,1.5,,,", "line 2: expected a frame number for start"),
        ("a,s3://b/a,-1,,,", "line 2: expected a frame number for start"),
        ("a,s3://b/a,7,7,,", "line 2: expected start < end, got start 7 and end 7"),
        ("a,s3://b/a,,,0,", "line 2: expected fps above zero"),
        ("a,s3://b/a,,,nan,", None),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_the_others_are_read(tmp_path, row, said):
    path = tmp_path / "fleet.csv"
    path.write_text(f"drive_id,uri,start,end,fps,tags\n{row}\ngood,/d,,,,\n")
    first, second = read_drive_list(str(path))
    assert second == DriveRef("good", "/d")
    if said is None:
        assert isinstance(first, DriveRef) and first.fps is None  # pandas writes an empty number like this
    else:
        assert isinstance(first, RefusedDrive) and said in first.reason and first.reason.startswith("fleet.csv line 2")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: expected an object"),
        ('{"drive_id": "a", "uri": "/a", "tags": [1]}', "line 1: expected words for tags"),
        ('{"drive_id": true, "uri": "/a"}', "line 1: expected a text for drive_id"),
        ("x" * (3 * MAX_LINE_CHARACTERS), "line 1: longer than"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
    ids=range(6),
)
def test_a_bad_line_of_json_is_reported_and_the_others_are_read(tmp_path, line, said):
    path = tmp_path / "fleet.jsonl"
    path.write_text(f'{line}\n\n{{"drive_id": 7, "uri": "/good"}}\n')
    first, second = read_drive_list(str(path))
    assert said in first.reason
    assert second == DriveRef("7", "/good")


@pytest.mark.parametrize("header", ["drive_id", "drive_id,uri,URI", "drive_id,uri,uri", ""])
def test_missing_and_repeated_columns_are_refused_at_once(tmp_path, header):
    path = tmp_path / "fleet.csv"
    path.write_text(header + "\n")
    with pytest.raises(DriveError, match="a drive list has the columns drive_id, uri, start, end, fps, tags"):
        list(read_drive_list(str(path)))


def test_a_file_that_is_not_parquet_gives_a_one_line_error(tmp_path):
    (tmp_path / "fleet.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DriveError, match="not a readable Parquet file"):
        list(read_drive_list(str(tmp_path / "fleet.parquet")))


def test_a_csv_cell_that_is_too_long_refuses_only_its_row(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text(f"drive_id,uri\na,{'x' * 300_000}\nb,/b\n")
    first, second = read_drive_list(str(path))
    assert "line 2" in first.reason and second == DriveRef("b", "/b")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "ndjson", "json"])
def test_unknown_columns_are_ignored_with_a_note_and_names_are_not_case_sensitive(tmp_path, kind):
    rows = [{"Unnamed: 0": 0, "Drive_ID": "a", "URI": "/a"}, {"Unnamed: 0": 1, "Drive_ID": "b", "URI": "../b"}]
    path = tmp_path / "lists" / f"fleet.{kind}"
    path.parent.mkdir()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind in ("csv", "tsv"):
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        path.write_text("\n".join(("\t" if kind == "tsv" else ",").join(line) for line in lines))
    else:
        path.write_text(json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    notes = []
    assert list(read_drive_list(str(path), notes.append)) == [
        DriveRef("a", "/a"),
        DriveRef("b", str(tmp_path / "b")),
    ]
    assert len(notes) == 1 and "'Unnamed: 0' is passed over" in notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_written_by_a_spreadsheet_program_is_read(tmp_path, encoding):
    path = tmp_path / "fleet.csv"
    path.write_bytes("drive_id;uri;tags\r\nä1;/data/Straße,1;night\r\n;;\r\n".encode(encoding))
    assert list(read_drive_list(str(path))) == [DriveRef("ä1", "/data/Straße,1", tags=("night",))]


def test_a_relative_path_of_a_drive_list_may_lead_above_it_but_not_out_of_its_bucket(tmp_path):
    assert storage.beside("/a/lists", "../d") == "/a/d"
    assert storage.beside("s3://b/lists", "../d/") == "s3://b/d"
    assert storage.beside("s3://b/lists", "~/d") == storage.absolute("~/d")
    with pytest.raises(StorageError, match="leads out of s3://b"):
        storage.beside("s3://b/lists", "../../other/d")


def test_a_camera_in_a_drive_list_is_a_file_beside_it_numbers_or_none(tmp_path):
    path = tmp_path / "fleet.csv"
    rows = ["a,/a,rig/chain.yaml#cam1", 'b,/b,"700,700,320,240"', "c,/c,none", "d,/d,", "e,/e,s3://x/y.txt"]
    path.write_text("\n".join(["drive_id,uri,camera", *rows]))
    cameras = [ref.camera for ref in read_drive_list(str(path))]
    assert cameras == [f"{tmp_path}/rig/chain.yaml#cam1", "700,700,320,240", "none", None, "s3://x/y.txt"]
    assert drive_config(RunConfig(), DriveRef("a", "/a", camera="none")).camera.file == "none"
    told = RunConfig(camera=CameraConfig("all.txt"))
    assert drive_config(told, DriveRef("a", "/a")).camera.file == "all.txt"
    (tmp_path / "bad.jsonl").write_text('{"drive_id": "a", "uri": "/a", "camera": 5}')
    (refused,) = read_drive_list(str(tmp_path / "bad.jsonl"))
    assert "for camera, got 5" in refused.reason


def test_a_rig_in_a_drive_list_is_auto_a_file_beside_it_or_none_and_replaces_that_of_the_run(tmp_path):
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join(["drive_id,uri,rig", "a,/a,auto", "b,/b,rigs/van.yaml", "c,/c,none", "d,/d,"]))
    refs = list(read_drive_list(str(path)))
    assert [ref.rig for ref in refs] == ["auto", f"{tmp_path}/rigs/van.yaml", "none", None]
    told = RunConfig(rig="all.json")
    assert [drive_config(told, ref).rig for ref in refs] == ["auto", f"{tmp_path}/rigs/van.yaml", None, "all.json"]
    (tmp_path / "bad.jsonl").write_text('{"drive_id": "a", "uri": "/a", "rig": 5}')
    (refused,) = read_drive_list(str(tmp_path / "bad.jsonl"))
    assert "expected auto, views, a rig file or none for rig, got 5" in refused.reason


@pytest.mark.parametrize("text", ["{", "5", "[[1]]", '"x"', "[" * 100_000])
def test_a_json_file_that_is_not_a_drive_list_gives_a_one_line_error(tmp_path, text):
    (tmp_path / "fleet.json").write_text(text)
    try:
        rows = list(read_drive_list(str(tmp_path / "fleet.json")))
    except DriveError as error:
        assert "fleet.json" in str(error) and "\n" not in str(error)
    else:
        assert [type(row) for row in rows] == [RefusedDrive]
