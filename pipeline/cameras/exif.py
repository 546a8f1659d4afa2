"""Reads two things that a camera writes into its pictures: the focal length, which is a first guess of its intrinsics,
and the time at which a picture was taken."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.common.numbers import number_or

_EXIF_BLOCK = 0x8769
_FOCAL_MM, _FOCAL_35MM = 0x920A, 0xA405
_PLANE_RESOLUTION, _PLANE_UNIT, _PIXELS_ACROSS = 0xA20E, 0xA210, 0xA002
_TAKEN, _FRACTION, _ZONE = 0x9003, 0x9291, 0x9011  # DateTimeOriginal, SubSecTimeOriginal, OffsetTimeOriginal
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")
_DIAGONAL_35MM = math.hypot(36.0, 24.0)  # "35 mm equivalent" compares diagonals (CIPA DCG-001)
_MM_OF_UNIT = {2: 25.4, 3: 10.0, 4: 1.0}
_PLAUSIBLE = (0.2, 20.0)  # focal lengths over the larger side; others are a writer's mistake


def exif_camera(image: Image.Image, width: int, height: int) -> Camera | None:
    """A pinhole camera for (upright) pictures of this size, with the focal length in EXIF; None where EXIF has none.

    It comes from the 35 mm equivalent, else from the focal length and the sensor's pixels per unit of length.
    """
    try:
        block = image.getexif().get_ifd(_EXIF_BLOCK)
    except Exception:  # PIL raises many kinds of errors for a damaged EXIF block
        return None
    focal = _number(block.get(_FOCAL_35MM)) * math.hypot(width, height) / _DIAGONAL_35MM
    if not focal:
        unit = _MM_OF_UNIT.get(int(_number(block.get(_PLANE_UNIT)) or 2), 0.0)
        stored = _number(block.get(_PIXELS_ACROSS)) or max(image.size)
        a_mm = _number(block.get(_PLANE_RESOLUTION)) / unit if unit else 0.0
        focal = _number(block.get(_FOCAL_MM)) * a_mm * max(width, height) / max(stored, *image.size)
    if not _PLAUSIBLE[0] <= focal / max(width, height) <= _PLAUSIBLE[1]:
        return None
    return Camera("pinhole", width, height, focal, focal, width / 2, height / 2)


def exif_time(image: Image.Image) -> int | None:
    """The time at which a picture was taken, in nanoseconds since 1970, from DateTimeOriginal with its fraction and
    zone (UTC without one). None where EXIF has no time."""
    try:
        block = image.getexif().get_ifd(_EXIF_BLOCK)
        moment = datetime.strptime(_text(block.get(_TAKEN))[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
    except Exception:  # as in exif_camera; and texts that are no time
        return None
    fraction = _text(block.get(_FRACTION))
    zone = _OFFSET.fullmatch(_text(block.get(_ZONE)))
    offset = 0
    if zone is not None:
        offset = (int(zone[2]) * 60 + int(zone[3])) * 60 * (-1 if zone[1] == "-" else 1)
    since = moment - _EPOCH
    whole = (since.days * 86_400 + since.seconds - offset) * 10**9
    return whole + (int(fraction[:9].ljust(9, "0")) if fraction.isascii() and fraction.isdigit() else 0)


def _text(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")


def _number(value: object) -> float:
    """A finite number above zero, else 0."""
    number = number_or(value, 0.0)
    return number if 0 < number < math.inf else 0.0
