"""Reads the small JSON files of this program from a store that anybody may write to.

Size, depth, the type of every field, and numbers (finite, within 64 bits) are checked. A file that fails a check
raises a `DamagedError` that names file and field; only its drive fails.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from typing import TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import DriveError
from pipeline.storage.files import read_bytes
from pipeline.storage.folders import stored_file
from pipeline.storage.uris import redacted

T = TypeVar("T")

SMALL_BYTES = 2**20
"""Most bytes of a lease or a failure record, which have a few hundred."""
LISTED_BYTES = 2**28
"""Most bytes of a file that names every frame of a drive (some 100 bytes each, a million frames)."""

_SHOWN = 120
_LARGEST = 2**63


class DamagedError(DriveError):
    """The content of a file of this program is not what the program writes."""


def read_small(uri: str, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes; no more than `limit` + 1 are read.

    Raises DamagedError where it is larger; NotFoundError, StorageError.
    """
    data = read_bytes(uri, limit + 1)
    if len(data) > limit:
        size = stored_file(uri).size
        raise DamagedError(
            f"{redacted(uri)}: expected at most {limit:,} bytes, got {size:,}; it is no file of this kind"
        )
    return data


def read_record(uri: str, kind: type[T], limit: int = SMALL_BYTES) -> T:
    """A stored dataclass. Raises DamagedError where the file does not contain one; NotFoundError, StorageError."""
    return parse_record(read_small(uri, limit), kind, redacted(uri))


def parse_record(data: bytes, kind: type[T], name: str) -> T:
    """A dataclass from its JSON text. Fields that `kind` lacks are ignored: newer versions may write more fields.

    name: the file, for the error. Raises DamagedError.
    """
    records = parse_records([data], kind, name)
    if len(records) != 1:
        raise DamagedError(f"{name}: expected one JSON object, got {len(records)}")
    return records[0]


def parse_records(texts: Sequence[bytes], kind: type[T], name: str) -> list[T]:
    """Many at once, in order; raises what `parse_record` raises."""
    try:
        records = _adapter(cast(Hashable, kind)).validate_json(b"[" + b",".join(texts) + b"]", strict=True)
    except ValidationError as error:
        raise DamagedError(f"{name}: {_first(error)}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name}: no JSON that can be read ({_short(error)})") from None
    for record in records:
        if _too_large(record):
            field = next(name for name, value in vars(record).items() if _too_large(value))
            raise DamagedError(f"{name}: field {field} holds a number beyond 64 bits")
    return cast(list[T], records)


@lru_cache(maxsize=64)
def _adapter(kind: Hashable) -> TypeAdapter[list[object]]:
    # pydantic applies these settings to the dataclass because it is inside a list
    return TypeAdapter(list[kind], config=ConfigDict(strict=True, allow_inf_nan=False, extra="ignore"))  # type: ignore[valid-type]


def _first(error: ValidationError) -> str:
    """The first mistake, with its field, without the text that pydantic adds for developers."""
    problem = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"][1:])
    message = problem["msg"]
    if problem["type"] == "json_invalid":
        return f"no JSON that can be read ({message[:_SHOWN]})"
    if problem["type"] == "missing":
        return f"field {place} is missing"
    got = repr(problem.get("input"))
    return f"field {place or '(the whole)'}: {message[:_SHOWN]}, got {got[:40]}{'...' if len(got) > 40 else ''}"


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:_SHOWN]


def _too_large(value: object) -> bool:
    """Whether a typed field contains a number beyond 64 bits. Untyped fields are checked by their readers."""
    kind = type(value)
    if isinstance(value, int) and kind is int:
        return not -_LARGEST <= value < _LARGEST
    if kind in (str, float, bool, dict, type(None)):
        return False
    parts = value if isinstance(value, tuple | list) else vars(value).values()
    return any(map(_too_large, parts))
