"""Compares the order of a drive's pictures, which follows their names, with the order of their EXIF times."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline import storage
from pipeline.cameras.exif import exif_time
from pipeline.common.visible_text import visible
from pipeline.errors import DecodeError, StorageError
from pipeline.ingest import preprocess
from pipeline.storage import Listing

_LOOKED_AT = 12  # pictures that are read, spread over the drive
_HEADER_BYTES = 64 * 1024  # EXIF is in a JPEG's first segment, which cannot be longer


def order_notes(files: Listing) -> tuple[str, ...]:
    """A warning of one line where later pictures of the drive have earlier EXIF times; else empty. Reads some pictures
    spread over the drive, or only the first where that has no time. Pictures that cannot be read are ignored.
    """
    count = len(files)
    before: tuple[str, int] | None = None
    for place in sorted({count * part // _LOOKED_AT for part in range(_LOOKED_AT)} | {max(count - 1, 0)}):
        taken = _taken_ns(files.uri(place))
        if taken is None:
            if place == 0:
                return ()
            continue
        name = storage.parent_and_name(files.uri(place))[1]
        if before is not None and taken < before[1]:
            said = f"{visible(name)} ({_date(taken)}) comes after {visible(before[0])} ({_date(before[1])})"
            remedy = "rename the pictures by their times if the camera's clock is right"
            return (f"the order of names is not that of EXIF's times: {said}; {remedy}",)
        before = name, taken
    return ()


def _taken_ns(uri: str) -> int | None:
    try:
        return exif_time(preprocess.opened(storage.read_bytes(uri, _HEADER_BYTES)))
    except (DecodeError, StorageError):
        return None


def _date(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 10**9 // 10**7:02d}"
