"""Reads small Feather tables that come from outside: bytes, rows and what they promise to unpack to are limited.

A Feather file (version 2) is an Arrow IPC file: 8 bytes, then a stream of messages. Each compressed buffer begins with
the size that it is unpacked to, for which Arrow takes memory before it unpacks. So these sizes are added first; they
are where the metadata of a message says (Arrow's Message.fbs, a FlatBuffer: https://arrow.apache.org/docs/format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import pyarrow as pa

from pipeline.cameras.fields import CalibrationError

MOST_BYTES = 2**20
"""Most bytes of a table; those of data sets have a few thousand."""
_MOST_UNPACKED = 2**24
_MOST_ROWS = 10_000
_MAGIC, _FIRST_VERSION = b"ARROW1\0\0", b"FEA1"
# Places of fields in Message.fbs.
_HEADER, _CUSTOM = 2, 4  # of Message
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # of RecordBatch


def read_feather(data: bytes, file: str, columns: Mapping[str, type]) -> list[dict[str, object]]:
    """The rows of a table, with the columns that are asked for; None where a value is missing.

    columns: name -> str or float (whole numbers too). Raises CalibrationError, with the file, for a table without these
    columns, one that is damaged, or one that is larger than tables of calibrations are.
    """
    if len(data) > MOST_BYTES:
        raise CalibrationError(f"{file}: expected at most {MOST_BYTES:,} bytes, got more")
    if data.startswith(_FIRST_VERSION):
        raise CalibrationError(f"{file}: it is of Feather's first version; write it again (pyarrow.feather, version 2)")
    if not data.startswith(_MAGIC):
        raise CalibrationError(f"{file}: expected a Feather table, got {data[:8]!r}")
    rows: list[dict[str, object]] = []
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(data)[len(_MAGIC) :])
        schema = pa.ipc.read_schema(messages.read_next_message())
        _check_columns(schema, file, columns)
        unpacked = 0
        for message in _batches(messages, file):
            length, size = _promised(message.metadata.to_pybytes(), message.body.to_pybytes())
            unpacked += size
            if unpacked > _MOST_UNPACKED or len(rows) + length > _MOST_ROWS:
                raise CalibrationError(
                    f"{file}: expected at most {_MOST_ROWS:,} rows and {_MOST_UNPACKED:,} bytes, got "
                    f"{len(rows) + length:,} and {unpacked:,}; it is no table of cameras"
                )
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            rows += batch.select(list(columns)).to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, struct.error, StopIteration) as error:
        said = " ".join(str(error).split())[:100] or "no table in it"
        raise CalibrationError(f"{file}: expected a Feather table, got a damaged one ({said}); copy it again") from None
    return rows


def _batches(messages: pa.ipc.MessageReader, file: str) -> Iterator[pa.Message]:
    for message in messages:
        if message.type != "record batch":
            raise CalibrationError(f"{file}: expected plain columns, got a {message.type}")
        yield message


def _check_columns(schema: pa.Schema, file: str, columns: Mapping[str, type]) -> None:
    for name, kind in columns.items():
        if schema.get_field_index(name) < 0:
            there = ", ".join(schema.names[:8]) or "none"
            raise CalibrationError(f"{file}: column {name} is missing, or there twice; the table has {there}")
        found = schema.field(name).type
        is_text = pa.types.is_string(found) or pa.types.is_large_string(found)
        is_number = pa.types.is_floating(found) or pa.types.is_integer(found)
        if not (is_text if kind is str else is_number):
            expected = "texts" if kind is str else "numbers"
            raise CalibrationError(f"{file}: column {name}: expected {expected}, got {str(found)[:60]}")


def _promised(metadata: bytes, body: bytes) -> tuple[int, int]:
    """Rows of a batch, and the bytes of its buffers once they are unpacked, as the file says. Raises struct.error,
    ValueError."""
    message = _child(metadata, 0)
    batch = _child(metadata, _field(metadata, message, _HEADER))
    at = _field(metadata, batch, _LENGTH)
    (length,) = struct.unpack_from("<q", metadata, at) if at else (0,)
    buffers = _child(metadata, _field(metadata, batch, _BUFFERS))
    # The first release with compression said so in the message's custom metadata.
    packed = _field(metadata, batch, _COMPRESSION) or _field(metadata, message, _CUSTOM)
    (count,) = struct.unpack_from("<I", metadata, buffers)
    total = 0
    for number in range(count):
        start, size = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * number)
        if packed and size:
            (said,) = struct.unpack_from("<q", body, start)
            total += size if said == -1 else said
            if said < -1 or start < 0:
                raise ValueError("a buffer of negative size")
        else:
            total += size
    if length < 0 or total < 0:
        raise ValueError("a batch of negative size")
    return length, total


def _field(data: bytes, table: int, number: int) -> int:
    """The place of a field of a FlatBuffer's table; 0 where the table lacks it."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    if 4 + 2 * number >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, table - back + 4 + 2 * number)
    return table + int(offset) if offset else 0


def _child(data: bytes, at: int) -> int:
    """The place that an offset leads to."""
    return at + int(struct.unpack_from("<I", data, at)[0])
