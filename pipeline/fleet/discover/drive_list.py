"""A manifest of drives: Parquet, CSV or JSON lines, a drive a row, read row by row.

Columns: drive_id, uri; and where wanted start, end (frames, half-open), fps, tags (words; in CSV separated by ";").
A uri that is no absolute path and no URI lies beside the manifest. A bad row is named by its line and stops nothing.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive

MANIFEST_SUFFIXES = (".parquet", ".csv", ".jsonl")
REQUIRED = ("drive_id", "uri")
COLUMNS = (*REQUIRED, "start", "end", "fps", "tags")
MAX_LINE_CHARACTERS = 1 << 20  # a longer line is no row of a manifest
_BATCH_ROWS = 4096


def read_manifest_refs(uri: str) -> Iterator[DriveRef | RefusedDrive]:
    """The drives of a manifest in its order, with bounded memory.

    Raises:
        DriveError: not a manifest: unreadable, a required column missing, an unknown one; says which.
        StorageError: as the store says.
    """
    name = storage.parent_and_name(uri)[1]
    read = (
        _parquet_rows
        if name.lower().endswith(".parquet")
        else (_csv_rows if name.lower().endswith(".csv") else _json_rows)
    )
    folder = storage.parent_and_name(uri)[0]
    for where, row in read(uri):
        place = f"{name} {where}"
        if isinstance(row, str):
            yield RefusedDrive("", "", f"{place}: {row}")
            continue
        try:
            yield _ref(row, folder)
        except (ValueError, TypeError) as error:
            named = [str(row.get(column) or "") for column in REQUIRED]
            yield RefusedDrive(named[0], storage.redacted(named[1]), f"{place}: {storage.redacted(str(error))}")


def _ref(row: Mapping[str, Any], folder: str) -> DriveRef:
    """One row. Raises ValueError that says what is wrong with which column."""
    texts = {}
    for column in REQUIRED:
        value = row.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # ids that are numbers come so out of JSON and Parquet
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"expected a text for {column}, got {value!r}")
        texts[column] = value.strip()
    place = texts["uri"]
    if "://" not in place and not place.startswith("/"):
        place = storage.join(folder, place.rstrip("/").removeprefix("./"))
    start, end = _whole(row, "start"), _whole(row, "end")
    if end is not None and end <= (start or 0):
        raise ValueError(f"expected start < end, got start {start} and end {end}")
    fps = _number(row, "fps")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"expected fps above zero, got {fps}")
    return DriveRef(texts["drive_id"], place, start, end, fps, _tags(row.get("tags")))


def _number(row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number for {column}, got {value!r}") from None
    return None if math.isnan(number) else number  # NaN: pandas' empty cell


def _whole(row: Mapping[str, Any], column: str) -> int | None:
    value = _number(row, column)
    if value is None:
        return None
    if value < 0 or value != value // 1 or math.isinf(value):
        raise ValueError(f"expected a frame number for {column}, got {row.get(column)!r}")
    return int(value)


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"expected words for tags, got {value!r}")
    return tuple(tag.strip() for tag in value if tag.strip())


_Row = tuple[str, "Mapping[str, Any] | str"]


def _parquet_rows(uri: str) -> Iterator[_Row]:
    try:
        with storage.open_input(uri) as raw:
            table = pq.ParquetFile(raw)
            _check_columns(table.schema_arrow.names, uri)
            number = 0
            for batch in table.iter_batches(_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pa.ArrowException as error:
        raise DriveError(f"{storage.redacted(uri)}: not a readable Parquet file ({error})") from error


def _csv_rows(uri: str) -> Iterator[_Row]:
    with storage.open_input(uri) as raw:
        reader = csv.reader(_lines(raw))
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, uri)
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield f"line {reader.line_num}", str(error)
                continue
            if values is None:
                return
            if not values:
                continue
            if len(values) != len(header):
                yield f"line {reader.line_num}", f"expected {len(header)} values, got {len(values)}"
                continue
            yield f"line {reader.line_num}", dict(zip(header, values, strict=True))


def _json_rows(uri: str) -> Iterator[_Row]:
    with storage.open_input(uri) as raw:
        for number, line in enumerate(_lines(raw), start=1):
            if not line.strip():
                continue
            if len(line) > MAX_LINE_CHARACTERS:
                yield f"line {number}", f"longer than {MAX_LINE_CHARACTERS} characters"
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"line {number}", f"not JSON ({error})"
                continue
            if not isinstance(row, dict):
                yield f"line {number}", "expected an object with drive_id and uri"
                continue
            unknown = sorted(set(row) - set(COLUMNS))
            if unknown:
                yield f"line {number}", f"unknown {', '.join(unknown)}; known are {', '.join(COLUMNS)}"
                continue
            yield f"line {number}", row


def _lines(raw: Any) -> Iterator[str]:
    """Lines of a text, none longer than a little over the limit: what is longer comes cut, its rest is left out."""
    text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
    while line := text.readline(MAX_LINE_CHARACTERS + 1):
        rest = line
        while rest and not rest.endswith("\n") and len(line) > MAX_LINE_CHARACTERS:
            rest = text.readline(MAX_LINE_CHARACTERS)
        yield line


def _check_columns(names: list[str], uri: str) -> None:
    missing = [name for name in REQUIRED if name not in names]
    unknown = sorted(set(names) - set(COLUMNS))
    if missing or unknown or len(set(names)) != len(names):
        said = f"no column {', '.join(missing)}" if missing else f"unknown columns {', '.join(unknown) or names}"
        raise DriveError(f"{storage.redacted(uri)}: {said}; a manifest has the columns {', '.join(COLUMNS)}")
