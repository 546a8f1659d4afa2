"""Times of pictures where there is no file of times: from their names, or from EXIF."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import storage
from pipeline.cameras.exif import exif_time
from pipeline.errors import DecodeError
from pipeline.ingest import preprocess
from pipeline.ingest.name_times import time_in, times_in
from pipeline.storage import Listing, NotFoundError

HEADER_BYTES = 64 * 1024
_READERS = 16  # headers that are read at a time


def image_times(files: Listing, start: int, end: int | None) -> list[int] | None:
    """Times of a drive's pictures in nanoseconds, from their names, else from EXIF's DateTimeOriginal with its
    fractions; None where a picture has no time, or times do not increase from picture to picture.

    The other headers are read only where the first picture has a time in EXIF.

    Args:
        files: the pictures, in order.
        start, end: half-open range of the pictures that are used; times must increase only there.

    Raises:
        StorageError: the store does not answer.
    """
    if not len(files):
        return None
    used = slice(start, len(files) if end is None else end)
    if time_in(files[0].name.rpartition("/")[2].rpartition(".")[0]) is not None:
        times = times_in(files.names)
        return times if times is not None and _rises(times[used]) else None
    if _exif_time(files.uri(0)) is None:
        return None
    with ThreadPoolExecutor(_READERS, thread_name_prefix="exif") as pool:
        taken = list(pool.map(_exif_time, files.uris))
    known = [time for time in taken if time is not None]
    return known if len(known) == len(taken) and _rises(known[used]) else None


def _rises(times: Sequence[int]) -> bool:
    return all(before < after for before, after in itertools.pairwise(times))


def _exif_time(uri: str) -> int | None:
    try:
        return exif_time(preprocess.opened(storage.read_bytes(uri, limit=HEADER_BYTES)))
    except (DecodeError, NotFoundError):
        return None
