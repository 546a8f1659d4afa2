"""The check of a published drive finds every kind of damage and names the file; it finds nothing in a whole drive."""

import hashlib
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.publish import PublishConfig, publish_drive
from pipeline.publish.verify import verify_drive
from tests.publish.drives import Loop, small_drive

FILES = ("poses.parquet", "chunks.parquet", "loops.parquet", "points/part-00000.parquet")


@pytest.fixture
def folder(tmp_path):
    drive = small_drive(
        12,
        bad=[3],
        left_out=[7],
        loops=[
            Loop(range(2), range(8, 10), 0.9, 0.1, True, None),
            Loop(range(1, 3), range(9, 11), 0.8, None, False, "far"),
        ],
    )
    options = PublishConfig(shard_rows=300, row_group_rows=100)
    publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, options, drive.run)
    return tmp_path / "drive-1"


def problems(folder, quick=False):
    return [(one.file, one.what) for one in verify_drive(str(folder.parent), "drive-1", quick=quick).problems]


def rewrite_manifest(folder, change):
    """Change the manifest and correct its checksum, as an attacker or a bug would."""
    values = json.loads((folder / "manifest.json").read_text())
    values.pop("checksum", None)
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values, indent=1) + "\n")


def rewrite_table(folder, name, change):
    """Change a table and correct the manifest, so that only the rows are wrong."""
    path = folder / name
    table = change(pq.read_table(path))
    pq.write_table(table, path)

    def note(values):
        for file in values["files"]:
            if file["path"] == name:
                file |= {
                    "size": path.stat().st_size,
                    "rows": table.num_rows,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }

    rewrite_manifest(folder, note)


def put(column, row, value):
    """A table with one value changed."""

    def change(table):
        values = table[column].to_pylist()
        values[row] = value
        at = table.schema.get_field_index(column)
        return table.set_column(at, table.schema.field(column), pa.array(values, table.schema.field(column).type))

    return change


def test_a_whole_drive_has_no_problem(folder):
    check = verify_drive(str(folder.parent), "drive-1")
    assert check.is_whole and check.problems == ()
    assert check.files > 4 and check.bytes == sum(p.stat().st_size for p in folder.rglob("*.parquet"))
    assert problems(folder, quick=True) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("quick", [True, False])
def test_missing_and_truncated_files_are_named(folder, name, quick):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-3])
    file, what = problems(folder, quick)[0]
    assert file == name and "bytes, not" in what
    (folder / name).unlink()
    assert (name, "is gone") in problems(folder, quick)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_found(folder, name):
    data = (folder / name).read_bytes()
    chance = random.Random(5)
    for _ in range(40):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (folder / name).write_bytes(flipped)
        assert [file for file, _ in problems(folder)] == [name]


def test_a_flipped_bit_of_the_manifest_is_found(folder):
    path = folder / "manifest.json"
    data = path.read_bytes()
    chance = random.Random(6)
    for _ in range(60):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data) - 1)] ^= 1 << chance.randrange(7)
        path.write_bytes(flipped)
        if flipped != data:
            assert "manifest.json" in [file for file, _ in problems(folder)]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("poses.parquet", put("drive_id", 2, "drive-2"), "another drive"),
        ("poses.parquet", put("frame_index", 2, 5), "frame_index"),
        ("poses.parquet", put("status", 2, "fine"), "unknown status"),
        ("poses.parquet", put("status", 2, "filled"), "manifest counts"),
        ("poses.parquet", put("x", 2, float("nan")), "not finite"),
        ("poses.parquet", put("x", 2, None), "not finite"),
        ("poses.parquet", put("qw", 2, 3.0), "quaternion"),
        ("poses.parquet", put("fx", 2, -1.0), "focal length"),
        ("poses.parquet", put("confidence", 2, 0.5), "confidence"),
        ("poses.parquet", put("width", 2, 0), "size in pixels"),
        ("poses.parquet", put("chunk_index", 2, 99), "chunk that is none"),
        ("poses.parquet", put("chunk_index", 2, None), "of no chunk"),
        ("poses.parquet", put("chunk_index", 2, 0), "owns their frame"),
        ("poses.parquet", lambda table: table.slice(0, 5), "rows"),
        ("poses.parquet", lambda table: table.drop_columns(["fx"]), "no column fx"),
        ("poses.parquet", lambda table: table.set_column(0, "drive_id", pa.array(range(12))), "is int64, not string"),
        ("chunks.parquet", put("chunk_index", 1, 0), "chunk_index"),
        ("chunks.parquet", put("frame_stop", 1, 99), "no range"),
        ("chunks.parquet", put("scale", 1, 0.0), "scale"),
        ("chunks.parquet", put("overlap_inliers", 1, 2.0), "inliers"),
        ("chunks.parquet", put("points", 1, 3), "number of points"),
        ("loops.parquet", put("second_stop", 0, 99), "second window"),
        ("loops.parquet", put("accepted", 1, True), "accepted"),
        ("points/part-00000.parquet", put("x", 3, float("inf")), "not finite"),
        ("points/part-00000.parquet", put("x", 3, 1e6), "outside its box"),
        ("points/part-00000.parquet", put("confidence", 3, 0.1), "confidence"),
        ("points/part-00000.parquet", put("frame_index", 3, 99), "a frame that is none"),
        ("points/part-00000.parquet", put("chunk_index", 3, -1), "a chunk that is none"),
        ("points/part-00000.parquet", lambda table: table.slice(1), "points"),
    ],
)
def test_impossible_rows_are_found_although_every_hash_is_right(folder, name, change, said):
    rewrite_table(folder, name, change)
    found = problems(folder)
    assert any(said in what for _, what in found), found
    assert problems(folder, quick=True) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["files"].pop(0), "points"),
        (lambda m: m.update(files=[f for f in m["files"] if "poses" not in f["path"]]), "names no poses.parquet"),
        (lambda m: m["files"].append(dict(m["files"][0])), "more than once"),
        (lambda m: m["counts"].update(points=7), "counts 7 points"),
        (lambda m: m["counts"].update(frames=99), "99"),
        (lambda m: m.update(drive_id="../../x"), "drive"),
        (lambda m: m["files"][0].update(path="../../../etc/passwd"), "etc/passwd"),
        (lambda m: m["files"][0].update(path="/etc/passwd"), "etc/passwd"),
        (lambda m: m["files"][0].update(path="notes.txt"), "notes.txt"),
    ],
)
def test_an_impossible_manifest_is_found(folder, change, said):
    rewrite_manifest(folder, change)
    assert any(said in what for _, what in problems(folder)), problems(folder)


def test_a_check_changes_no_files(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    np.testing.assert_equal(problems(folder), [])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
