"""A result's tables are refused by every reader where columns, types, rows or values are not what they must be."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import DriveError
from pipeline.publish import open_drive
from pipeline.publish.table_checks import open_parquet, read_whole
from tests.publish import test_verify
from tests.publish.test_verify import put, rewrite_manifest, rewrite_table

folder = test_verify.folder  # pytest's fixture is used by its name


def png(width, height):
    data = io.BytesIO()
    Image.fromarray(np.zeros((height, width), bool)).save(data, "PNG")
    return data.getvalue()


def read(folder):
    drive = open_drive(str(folder.parent), "drive-1")
    return drive.poses, drive.chunks, drive.loops, drive.lens, drive.masks, drive.points()


def column_of(name, kind):
    def change(table):
        at = table.schema.get_field_index(name)
        return table.set_column(at, pa.field(name, kind), pa.nulls(table.num_rows, kind))

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("poses.parquet", lambda table: table.drop_columns(["qw"]), "has no column qw"),
        ("poses.parquet", lambda table: table.append_column("x", table["x"]), "more than one column x"),
        ("poses.parquet", column_of("frame_index", pa.string()), "frame_index is string, not int32"),
        ("poses.parquet", column_of("width", pa.int32()), "column width lacks values"),
        ("poses.parquet", lambda table: table.slice(0, 5), "the manifest counts 10"),
        ("poses.parquet", put("uri", 1, "x" * 100_000), "texts of 100,000"),
        ("poses.parquet", put("z", 1, -1e13), "farther than 1e+12"),
        ("poses.parquet", put("fx", 1, 1e9), "focal length that does not fit"),
        ("poses.parquet", put("fy", 1, 1e-9), "focal length that does not fit"),
        ("poses.parquet", put("width", 1, 2**30), "more than 131,072 pixels"),
        ("chunks.parquet", put("x", 1, float("nan")), "position that is not finite"),
        ("chunks.parquet", put("x", 1, 1e200), "farther than 1e+12"),
        ("chunks.parquet", put("scale", 1, 1e-200), "scale that is not from"),
        ("chunks.parquet", put("points", 1, -1), "below zero"),
        ("chunks.parquet", put("step_covariance", 1, [0.0] * 48), "step_covariance is no finite matrix"),
        ("chunks.parquet", put("step_with_next", 1, [float("inf")] * 49), "step_with_next is no finite matrix"),
        ("chunks.parquet", put("step_with_next", 1, [None] * 49), "step_with_next is no finite matrix"),
        ("loops.parquet", put("first_start", 0, -5), "first window"),
        ("cameras.parquet", lambda table: pa.concat_tables([table, table]), "camera_index does not count"),
        ("cameras.parquet", lambda table: table.slice(0, 0), "has no camera"),
        ("cameras.parquet", put("model", 0, "lens"), "holds no camera"),
        ("cameras.parquet", put("view_width", 0, 2**30), "too large"),
        ("cameras.parquet", put("mask", 0, b"no picture"), "mask that cannot be read"),
        ("cameras.parquet", put("mask", 0, png(30_000, 2_000)), "mask of 30000x2000 pixels"),
        ("points/part-00000.parquet", put("y", 3, float("nan")), "position that is not finite"),
        ("points/part-00000.parquet", put("frame_index", 3, 2**31 - 1), "frame that is none"),
        ("points/part-00000.parquet", lambda table: table.drop_columns(["r"]), "has no column r"),
    ],
)
def test_the_error_for_a_wrong_table_names_file_and_drive(folder, name, change, said):
    rewrite_table(folder, name, change)
    with pytest.raises(DriveError) as caught:
        read(folder)
    text = str(caught.value)
    assert said in text and name in text and "drive-1" in text and "\n" not in text


def test_a_footer_with_a_huge_row_group_is_refused_before_the_group_is_read(folder):
    """4,200,001 rows of one value take a file of only 100 kB."""
    path, rows = folder / "points" / "part-00000.parquet", 2**22 + 1
    kind = pq.read_schema(path)
    one = {field.name: pa.array(np.zeros(rows, field.type.to_pandas_dtype())) for field in kind}
    rewrite_table(folder, "points/part-00000.parquet", lambda table: table)
    pq.write_table(pa.table(one, schema=kind), path, row_group_size=rows)
    rewritten = path.read_bytes()
    assert len(rewritten) < 200_000

    def note(values):
        file = next(file for file in values["files"] if file["path"] == "points/part-00000.parquet")
        file |= {"size": len(rewritten), "rows": rows, "sha256": hashlib.sha256(rewritten).hexdigest()}

    rewrite_manifest(folder, note)
    with pytest.raises(DriveError, match="promises 4,194,305 rows"):
        open_drive(str(folder.parent), "drive-1").points()


def test_a_small_table_comes_back_as_pyarrow_reads_it(folder):
    for name in ("poses", "chunks", "loops", "cameras"):
        path = folder / f"{name}.parquet"
        assert read_whole(path.read_bytes()).equals(pq.read_table(path), check_metadata=True)
        assert open_parquet(path).metadata.num_rows == pq.read_metadata(path).num_rows
