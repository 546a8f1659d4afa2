"""Converts times that receivers and loggers write to seconds: numbers in usual units, dates with or without a zone."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

_UNITS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))
_OF_1970 = 4e8  # seconds since 1970, the autumn of 1982; times that count from a drive's start are smaller
GPS_EPOCH_S = 315_964_800.0
"""1980-01-06, the zero of GPS time, in seconds since 1970."""
LEAP_SECONDS = 18
"""GPS time minus UTC since 2017 (IERS Bulletin C 52 and later)."""


def seconds(text: str, unit: float | None = None) -> tuple[float, bool, bool]:
    """A time in seconds, whether it counts from 1970, and whether it is a date without a zone (taken as UTC).

    unit: seconds per unit of the number, if its column names the unit. Otherwise the size of a large number decides
    whether it is milli-, micro- or nanoseconds since 1970. Raises ValueError if the text is no time.
    """
    text = text.strip()
    try:
        value = float(text)
    except ValueError:
        return date_seconds(text)
    if not math.isfinite(value):
        raise ValueError(f"no time: {text[:40]!r}")
    if unit is not None:
        value *= unit
    else:
        value *= next((factor for least, factor in _UNITS if abs(value) >= least), 1.0)
    return value, value >= _OF_1970, False


def date_seconds(text: str) -> tuple[float, bool, bool]:
    """The same for a date: ISO 8601, or with / or : between year, month and day. Raises ValueError."""
    plain = text.strip().replace("/", "-")
    if len(plain) > 10 and plain[4:5] == ":" and plain[7:8] == ":":  # EXIF
        plain = plain[:10].replace(":", "-") + plain[10:]
    whole, dot, rest = plain.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    fraction = float("0." + rest[:digits]) if dot and digits else 0.0
    moment = datetime.fromisoformat(whole + (rest[digits:] if dot else ""))
    zoneless = moment.tzinfo is None
    moment = moment.replace(tzinfo=UTC) if zoneless else moment
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1) + fraction, True, zoneless
