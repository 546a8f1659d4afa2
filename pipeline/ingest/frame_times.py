"""Times of frames from a text file with one line for each frame, in the units and formats of data sets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from pipeline.errors import DriveError

# Integers this large are not seconds: 1e11 seconds after 1970 is the year 5138.
_UNITS = ((10**17, 1), (10**14, 10**3), (10**11, 10**6))  # nanoseconds, microseconds, milliseconds
_SECOND = 10**9
_MOST_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_times(data: bytes, place: str) -> list[int]:
    """The times in a file, in nanoseconds, in its order.

    A line is a number of seconds (KITTI odometry), an integer of milli-, micro- or nanoseconds since 1970 (told by its
    size), or a date with a time (KITTI raw: 2011-09-26 13:02:25.594360375, taken as UTC). Empty lines and lines that
    begin with "#" are ignored.

    Args:
        data: the file's bytes; UTF-8, with or without a byte-order mark, or UTF-16.
        place: name of the file for messages.

    Raises:
        DriveError: a line is not a time, or does not fit into 64 bits of nanoseconds since 1970.
    """
    times = []
    for number, line in enumerate(_text(data).splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            time_ns = _date(line) if line[4:5] == "-" else _number(line)
        except (ValueError, InvalidOperation, OverflowError):
            raise DriveError(
                f"{place}, line {number}: expected a time (seconds, whole nanoseconds, or a date), got {line[:40]!r}; "
                "correct or remove the file"
            ) from None
        if not -_MOST_NS <= time_ns <= _MOST_NS:
            raise DriveError(
                f"{place}, line {number}: {line[:40]!r} is beyond what a time can be; are these seconds? correct or "
                "remove the file"
            )
        times.append(time_ns)
    return times


def check_rising(times_ns: Sequence[int], place: str) -> None:
    """Raises DriveError where a time is not later than the one before it."""
    for i, (before, after) in enumerate(itertools.pairwise(times_ns)):
        if after <= before:
            raise DriveError(
                f"{place}: expected increasing times, got {after / 1e9:g} s after {before / 1e9:g} s "
                f"at frame {i + 1}; correct or remove it"
            )


def _text(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def _number(line: str) -> int:
    value = Decimal(line)
    if not value.is_finite() or value.adjusted() > 40:
        raise ValueError
    if value == value.to_integral_value():
        for least, factor in _UNITS:
            if abs(value) >= least:
                return int(value) * factor
    return int((value * _SECOND).to_integral_value())


def _date(line: str) -> int:
    whole, _, fraction = line.partition(".")
    if fraction and not fraction.isdigit():
        raise ValueError
    since = datetime.fromisoformat(whole).replace(tzinfo=UTC) - _EPOCH
    return (since.days * 86_400 + since.seconds) * _SECOND + int(fraction[:9].ljust(9, "0") or 0)
