"""Feather tables from outside are read within limits, and damaged ones are refused."""

import io
import random
import struct

import pyarrow as pa
import pytest
from pyarrow import feather

from pipeline.cameras.feather import MOST_BYTES, read_feather
from pipeline.cameras.fields import CalibrationError
from tests.mutators import damaged_bytes

WANTED = {"name": str, "x": float}


def _written(table: pa.Table, compression: str = "lz4", **options) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression=compression, **options)
    return sink.getvalue()


TABLE = pa.table({"name": ["a", "b", None], "more": [[1], [2, 3], []], "x": [0.5, None, 3.0]})


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_the_columns_that_are_asked_for_are_read(compression) -> None:
    rows = read_feather(_written(TABLE, compression), "t.feather", WANTED)
    assert rows == [{"name": "a", "x": 0.5}, {"name": "b", "x": None}, {"name": None, "x": 3.0}]
    in_parts = _written(pa.concat_tables([TABLE] * 3), compression, chunksize=2)
    assert read_feather(in_parts, "t.feather", WANTED) == rows * 3


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(compression) -> None:
    zeros = pa.table({"name": ["a"], "x": [0.0], "bomb": [bytes(24 * 2**20)]})
    data = _written(zeros, compression)
    assert len(data) < MOST_BYTES
    before = pa.total_allocated_bytes()
    del zeros
    with pytest.raises(
        CalibrationError, match=r"t\.feather: expected at most 10,000 rows and 16,777,216 bytes, got 1 "
    ):
        read_feather(data, "t.feather", WANTED)
    assert pa.total_allocated_bytes() < before


def test_a_size_that_the_file_does_not_keep_is_an_error_of_one_line() -> None:
    data = _written(pa.table({"name": ["a" * 500], "x": [1.0]}))
    size = struct.pack("<q", 500)
    assert data.count(size) >= 1
    for said in (2**40, 2**62, -(2**62), 499):
        with pytest.raises(CalibrationError, match=r"t\.feather: expected"):
            read_feather(data.replace(size, struct.pack("<q", said)), "t.feather", WANTED)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected a Feather table, got b''"),
        (b"sensor,qw\n", "expected a Feather table, got b'sensor,q'"),
        (b"ARROW1\0\0", "got a damaged one"),
        (_written(TABLE)[:300], "got a damaged one"),
        (
            _written(TABLE.rename_columns(["name", "more", "y"])),
            "column x is missing, or there twice; the table has name",
        ),
        (_written(TABLE.append_column("x", TABLE["x"])), "column x is missing, or there twice"),
        (_written(TABLE.set_column(0, "name", [[1, 2, 3]])), "column name: expected texts, got int64"),
        (_written(TABLE.set_column(2, "x", [["1", "2", "3"]])), "column x: expected numbers, got string"),
        (
            _written(TABLE.set_column(0, "name", TABLE["name"].dictionary_encode())),
            "column name: expected texts, got dictionary",
        ),
        (
            _written(TABLE.append_column("z", TABLE["name"].dictionary_encode())),
            "expected plain columns, got a dictionary",
        ),
        (_written(pa.table({"name": ["a"] * 10_001, "x": [0.0] * 10_001})), "at most 10,000 rows .* got 10,001"),
        (_written(pa.table({"name": ["a" * MOST_BYTES], "x": [0.0]}), "uncompressed"), "at most 1,048,576 bytes"),
    ],
)
def test_a_table_that_is_none_of_cameras_is_refused_with_the_reason(data, said) -> None:
    with pytest.raises(CalibrationError, match=rf"^t\.feather: .*{said}"):
        read_feather(data, "t.feather", WANTED)


def test_feather_of_the_first_version_is_refused_with_advice() -> None:
    with pytest.raises(CalibrationError, match="first version; write it again"):
        read_feather(b"FEA1" + bytes(60), "t.feather", WANTED)


@pytest.mark.parametrize("compression", ["lz4", "uncompressed"])
def test_damage_of_every_kind_is_an_error_of_one_line_or_a_table(compression) -> None:
    data = _written(TABLE, compression)
    for number in range(400):
        try:
            read_feather(damaged_bytes(data, random.Random(number)), "t.feather", WANTED)
        except CalibrationError as error:
            assert str(error).startswith("t.feather: ") and "\n" not in str(error)
