"""A drive list: Parquet, CSV, JSON lines or JSON, one drive in each row, read row by row.

Columns: drive_id, uri; optional: start, end (frames, half-open), fps, tags (words; in CSV separated by ";"), positions
(a file of the drive's positions, as for --positions.file), camera (a calibration, as for --camera.file), rig (auto,
views or a rig file as for --rig, or none). Names of columns are not case-sensitive; other columns (pandas' index) are
ignored, with a note. CSV may be separated by commas, semicolons or tabs; texts are UTF-8, or UTF-16 with a byte-order
mark. A relative path in the columns uri, positions, camera and rig starts at the folder of the list (../d too). A bad
row is reported with its line, and the other rows are read.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, SupportsFloat

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.cameras.calibration import is_camera
from pipeline.common.visible_text import visible
from pipeline.errors import DriveError, StorageError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.ingest.rig_drive import AUTO, VIEWS

DRIVE_LIST_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
REQUIRED = ("drive_id", "uri")
COLUMNS = (*REQUIRED, "start", "end", "fps", "tags", "positions", "camera", "rig")
MAX_LINE_CHARACTERS = 1 << 20  # a longer line is no row of a drive list
MAX_JSON_BYTES = 16 * 2**20  # a .json is read whole and takes up to 30 times its size; 10,000 drives are 2 MB
MAX_ROWS = 10_000_000  # of a drive list; the drives of a run are kept in memory
_BATCH_ROWS = 4096
_COLUMN_BYTES = 2**28  # of one decoded column of a Parquet row group
_LONGEST_TEXT = 2**15
_PARQUET: dict[str, object] = {
    "page_checksum_verification": True,
    "thrift_string_size_limit": 2**24,
    "thrift_container_size_limit": 2**20,
}
_NOTED = 20  # ignored columns that are named
_SEPARATORS = ",;\t"


def read_drive_list(uri: str, note: Callable[[str], None] = lambda said: None) -> Iterator[DriveRef | RefusedDrive]:
    """The drives of a list in its order, with bounded memory (a .json is read whole).

    note: called with one line for each column that is ignored.

    Raises:
        DriveError: not a drive list: unreadable, or a required column is missing; says which.
        StorageError: the store failed.
    """
    folder, name = storage.parent_and_name(uri)
    readers: dict[str, Callable[[str, _Columns], Iterator[_Row]]] = {
        ".parquet": _parquet_rows,
        ".csv": _csv_rows,
        ".tsv": _csv_rows,
        ".json": _json_array_rows,
    }
    read = readers.get("." + name.lower().rpartition(".")[2], _json_rows)
    columns = _Columns(uri, note)
    for number, (where, row) in enumerate(read(uri, columns)):
        if number >= MAX_ROWS:
            raise DriveError(f"{storage.redacted(uri)}: more than {MAX_ROWS:,} rows; give the drives in parts")
        place = f"{name} {where}"
        if isinstance(row, str):
            yield RefusedDrive("", "", visible(f"{place}: {row}"))
            continue
        try:
            yield _ref(row, folder)
        except (ValueError, TypeError, OverflowError) as error:
            named = [str(row.get(column) or "") for column in REQUIRED]
            reason = visible(f"{place}: {storage.redacted(str(error))}")
            yield RefusedDrive(visible(named[0]), visible(storage.redacted(named[1])), reason)


class _Columns:
    """The meaning of each column of a drive list; notes each ignored column once."""

    def __init__(self, uri: str, note: Callable[[str], None]) -> None:
        self._uri, self._note = uri, note
        self._passed_over: set[str] = set()

    def known(self, names: Sequence[str]) -> list[str | None]:
        """The column that each name means; None for an ignored one. Raises DriveError for a column that is missing or
        appears twice."""
        taken = [self.meaning(name) for name in names]
        missing = [name for name in REQUIRED if name not in taken]
        twice = [name for name in COLUMNS if taken.count(name) > 1]
        if missing or twice:
            said = f"no column {', '.join(missing)}" if missing else f"two columns {', '.join(twice)}"
            raise DriveError(
                f"{storage.redacted(self._uri)}: {said}; a drive list has the columns {', '.join(COLUMNS)}"
            )
        return taken

    def meaning(self, name: str) -> str | None:
        """The column that a name means; None for an ignored one."""
        plain = name.strip().lower()
        if plain in COLUMNS:
            return plain
        if name not in self._passed_over and len(self._passed_over) < _NOTED:
            self._passed_over.add(name)
            self._note(
                f"{storage.redacted(self._uri)}: column {name[:80]!r} is passed over; known are {', '.join(COLUMNS)}"
            )
        return None


def _ref(row: Mapping[str, object], folder: str) -> DriveRef:
    """The drive of one row. Raises ValueError that names the column and says what is wrong."""
    texts = {}
    for column in REQUIRED:
        value = row.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # JSON and Parquet may hold ids as numbers
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"expected a text for {column}, got {value!r}")
        texts[column] = value.strip()
    place = storage.beside(folder, texts["uri"])
    start, end = _whole(row, "start"), _whole(row, "end")
    if end is not None and end <= (start or 0):
        raise ValueError(f"expected start < end, got start {start} and end {end}")
    fps = _number(row, "fps")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"expected fps above zero, got {fps}")
    return DriveRef(
        texts["drive_id"],
        place,
        start,
        end,
        fps,
        _tags(row.get("tags")),
        _file(row, folder, "positions", "a file", ("none",)),
        _camera(row, folder),
        rig=_file(row, folder, "rig", "auto, views, a rig file or none", (AUTO, VIEWS, "none")),
    )


def _file(row: Mapping[str, object], folder: str, column: str, expected: str, words: Sequence[str]) -> str | None:
    """A file, relative to the drive list, or one of `words`."""
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise ValueError(f"expected {expected} for {column}, got {value!r}")
    text = value.strip()
    return None if not text else text if text in words else storage.beside(folder, text)


def _camera(row: Mapping[str, object], folder: str) -> str | None:
    """A calibration file, relative to the drive list, with the name of a camera after "#"; numbers, "equirectangular"
    and "none" are kept as they are."""
    value = row.get("camera")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise ValueError(f"expected a calibration file, fx,fy,cx,cy, equirectangular or none for camera, got {value!r}")
    text = value.strip()
    if not text or text == "none" or is_camera(text):
        return text or None
    place, mark, which = text.partition("#")
    return storage.beside(folder, place) + mark + which


def _number(row: Mapping[str, object], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, SupportsFloat | str):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number for {column}, got {value!r}") from None
    return None if math.isnan(number) else number  # NaN: pandas' empty cell


def _whole(row: Mapping[str, object], column: str) -> int | None:
    value = _number(row, column)
    if value is None:
        return None
    if value < 0 or value != value // 1 or math.isinf(value):
        raise ValueError(f"expected a frame number for {column}, got {row.get(column)!r}")
    return int(value)


def _tags(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = value.split(";")
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise ValueError(f"expected words for tags, got {value!r}")
    return tuple(tag.strip() for tag in value if tag.strip())


_Row = tuple[str, "Mapping[str, object] | str"]


def _parquet_rows(uri: str, columns: _Columns) -> Iterator[_Row]:
    try:
        with storage.open_input(uri) as raw:
            kind = pq.ParquetFile(raw, **_PARQUET).schema_arrow
            meant = columns.known(kind.names)
            taken = {name: column for name, column in zip(kind.names, meant, strict=True) if column is not None}
            texts = [one.name for one in kind if pa.types.is_string(one.type)]
            raw.seek(0)
            table = pq.ParquetFile(raw, read_dictionary=texts, **_PARQUET)
            _check_sizes(table.metadata)
            number = 0
            for batch in table.iter_batches(_BATCH_ROWS, columns=list(taken)):
                _check_texts(batch)
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {taken[name]: value for name, value in row.items()}
    except StorageError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise DriveError(f"{storage.redacted(uri)}: not a readable Parquet file ({said})") from error


def _check_sizes(footer: pq.FileMetaData) -> None:
    """Raises ArrowInvalid where the footer announces more than a drive list can hold, before anything is decoded."""
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if not 0 <= column.num_values <= MAX_ROWS or not 0 <= column.total_uncompressed_size <= _COLUMN_BYTES:
                size = column.total_uncompressed_size
                raise pa.ArrowInvalid(f"row group {number} promises {column.num_values:,} values, {size:,} bytes")


def _check_texts(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid for a text too long for an id or a URI, before rows are made from it."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            if longest > _LONGEST_TEXT:
                raise pa.ArrowInvalid(f"column {name} holds a text of {longest:,} bytes")
            column.dictionary.validate(full=True)
        elif column.nbytes > _COLUMN_BYTES // 16:
            raise pa.ArrowInvalid(f"column {name} holds {column.nbytes:,} bytes in {batch.num_rows:,} rows")


def _csv_rows(uri: str, columns: _Columns) -> Iterator[_Row]:
    with storage.open_input(uri) as raw:
        lines = _lines(raw)
        first = next(lines, "")
        separator = max(_SEPARATORS, key=first.count)
        reader = csv.reader(itertools.chain([first], lines), delimiter=separator)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise DriveError(f"{storage.redacted(uri)}: not a readable CSV file ({error})") from None
        meant = columns.known(header)
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield f"line {reader.line_num}", str(error)
                continue
            if values is None:
                return
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(header):
                yield f"line {reader.line_num}", f"expected {len(header)} values, got {len(values)}"
                continue
            yield f"line {reader.line_num}", {name: v for name, v in zip(meant, values, strict=True) if name}


def _json_rows(uri: str, columns: _Columns) -> Iterator[_Row]:
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
            yield f"line {number}", _json_row(row, columns)


def _json_array_rows(uri: str, columns: _Columns) -> Iterator[_Row]:
    """Rows of [{...}, ...] or {"drives": [{...}, ...]}, read whole; also JSON lines in a file named .json."""
    size = storage.stored_file(uri).size
    if size > MAX_JSON_BYTES:
        raise DriveError(f"{storage.redacted(uri)}: {size} bytes are too many for JSON; write JSON lines (.jsonl)")
    try:
        whole = json.loads(_decoded(storage.read_bytes(uri)))
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):
            yield from _json_rows(uri, columns)
            return
        raise DriveError(f"{storage.redacted(uri)}: not JSON ({error})") from None
    if isinstance(whole, dict) and isinstance(whole.get("drives"), list):
        whole = whole["drives"]
    if isinstance(whole, dict) and "drive_id" in {str(key).strip().lower() for key in whole}:
        whole = [whole]
    if not isinstance(whole, list):
        raise DriveError(f"{storage.redacted(uri)}: expected a list of objects with drive_id and uri")
    for number, row in enumerate(whole, start=1):
        yield f"row {number}", _json_row(row, columns)


def _json_row(row: object, columns: _Columns) -> Mapping[str, object] | str:
    if not isinstance(row, dict):
        return "expected an object with drive_id and uri"
    known = [(columns.meaning(key), value) for key, value in row.items()]
    return {name: value for name, value in known if name is not None}


def _decoded(data: bytes) -> str:
    return data.decode(_encoding(data[:4]), errors="replace")


def _encoding(begin: bytes) -> str:
    """The encoding by the byte-order mark: UTF-16, as Windows programs write it, else UTF-8."""
    return "utf-16" if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _lines(raw: BinaryIO) -> Iterator[str]:
    """Lines of a text; a line longer than the limit is truncated."""
    begin = raw.read(4)
    raw.seek(0)
    text = io.TextIOWrapper(raw, encoding=_encoding(begin), errors="replace", newline="")
    while line := text.readline(MAX_LINE_CHARACTERS + 1):
        rest = line
        while rest and not rest.endswith("\n") and len(line) > MAX_LINE_CHARACTERS:
            rest = text.readline(MAX_LINE_CHARACTERS)
        yield line
