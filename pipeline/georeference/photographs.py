"""Positions in the EXIF block of photographs: one fix a frame."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.common.numbers import number_or
from pipeline.georeference.positions import RANGE_ERROR_M, NoPositionsError, Positions, fixes_of

_NAN = float("nan")
_GPS_BLOCK = 0x8825
HEADER_BYTES = 128 * 1024  # a picture's EXIF block has at most 64 KiB and is at the beginning of the file
_READERS = 8
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = 1, 2, 3, 4, 5, 6
_STATUS, _DOP, _ERROR = 9, 11, 31


def exif_position(data: bytes) -> tuple[float, float, float, float] | None:
    """Latitude, longitude (degrees), altitude, horizontal deviation (metres, NaN if unknown) from a picture's first
    bytes; None without a position. The altitude is above sea level (EXIF 2.32, GPSAltitudeRef)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            block = image.getexif().get_ifd(_GPS_BLOCK)
        latitude = _degrees(block.get(_LATITUDE), block.get(_LATITUDE_REF), "S")
        longitude = _degrees(block.get(_LONGITUDE), block.get(_LONGITUDE_REF), "W")
        if not np.isfinite(latitude + longitude) or str(block.get(_STATUS, "A")).strip("\0 ") == "V":
            return None
        below = block.get(_ALTITUDE_REF) in (1, b"\x01", "1", 3, b"\x03")
        altitude = number_or(block.get(_ALTITUDE), _NAN) * (-1 if below else 1)
        error, dop = number_or(block.get(_ERROR), _NAN), number_or(block.get(_DOP), _NAN)
        return latitude, longitude, altitude, error if error > 0 else RANGE_ERROR_M * dop if dop > 0 else _NAN
    except Exception:  # a broken picture or EXIF block, for which PIL raises errors of any kind
        return None


def read_photographs(uris: Sequence[str]) -> Positions:
    """One fix for each picture with a position; its time is the picture's number. Only the start of each file is read.

    Raises NoPositionsError if no picture has a position; StorageError if the store does not answer.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(_of_file, uris))
    rows = [(number, *one, _NAN) for number, one in enumerate(found) if one is not None]
    if not rows:
        raise NoPositionsError("no frame has a position in its EXIF block")
    missing = len(uris) - len(rows)
    notes = (f"{missing} of {len(uris)} pictures have no position",) if missing else ()
    return Positions("EXIF of the frames", "frame", fixes_of(rows), None, True, notes)


def _of_file(uri: str) -> tuple[float, float, float, float] | None:
    try:
        return exif_position(storage.read_bytes(uri, limit=HEADER_BYTES))
    except (storage.NotFoundError, storage.UnreadableFileError):
        return None


def _degrees(parts: object, letter: object, negative: str) -> float:
    if not isinstance(parts, Sequence) or letter is None:
        return _NAN
    degrees, minutes, seconds = ([*parts] + [0.0, 0.0])[:3]
    value = number_or(degrees, _NAN) + number_or(minutes, _NAN) / 60 + number_or(seconds, _NAN) / 3600
    sign = letter.decode("ascii", "replace") if isinstance(letter, bytes) else str(letter)
    return -value if sign.strip("\0 ").upper() == negative else value
