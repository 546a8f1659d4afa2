"""Times in names of files: 20240501_080000.mp4, 2024-05-01_08-00-00-front.mp4, 1403636579763555584.png."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

_SECOND = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A date and a time of day, with or without separators; a fraction may follow.
_DATED = re.compile(
    r"(?<!\d)(?P<year>20\d\d)[-_.]?(?P<month>[01]\d)[-_.]?(?P<day>[0-3]\d)[-_ T.]*(?P<hour>[0-2]\d)[-_:.h]?"
    r"(?P<minute>[0-5]\d)[-_:.m]?(?P<second>[0-5]\d)(?:(?P<digits>\d{3}|\d{6}|\d{9})|[.,_-](?P<after>\d{3}))?(?!\d)"
)
_SHORT = re.compile(  # the year without its century, at the beginning of a name (Nextbase)
    r"^(?P<year>\d\d)(?P<month>[01]\d)(?P<day>[0-3]\d)[-_](?P<hour>[0-2]\d)(?P<minute>[0-5]\d)(?P<second>[0-5]\d)(?!\d)"
)
_SINCE_1970 = re.compile(r"(?<![\d.])(\d{10}(?:[._]\d+)?|\d{13}|\d{16}|\d{19})(?![\d.])")
_UNITS = {10: _SECOND, 13: 10**6, 16: 10**3, 19: 1}
_EARLIEST, _LATEST = 946_684_800 * _SECOND, 4_102_444_800 * _SECOND  # the years 2000 and 2100
# Times of Argoverse 2: 18 digits that begin with 3, nanoseconds from another start (from 1970 they would be in 1979 to
# 1982).
_GPS = re.compile(r"^(3\d{17})$")


@dataclass(frozen=True)
class NameTime:
    """A time in a name, in nanoseconds since 1970, and its place in the name (begin, end)."""

    time_ns: int
    begin: int
    end: int


def time_in(stem: str) -> NameTime | None:
    """The time in a name without its ending; None where there is none.

    A date with a time of day is taken as UTC, because the name has no time zone. Integers are seconds (10 digits, with
    or without a fraction), milli-, micro- or nanoseconds (13, 16, 19 digits) since 1970, if that is in this century. 18
    digits that begin with 3 are Argoverse's nanoseconds and are used unchanged.
    """
    found = _SINCE_1970.search(stem)
    if found is not None:
        whole, _, fraction = found[1].replace("_", ".").partition(".")
        time_ns = int(Decimal(f"{whole}.{fraction or 0}") * _UNITS[len(whole)])
        if _EARLIEST <= time_ns <= _LATEST:
            return NameTime(time_ns, found.start(), found.end())
    gps = _GPS.match(stem)
    if gps is not None:
        return NameTime(int(gps[1]), 0, len(stem))
    for pattern, century in ((_DATED, 0), (_SHORT, 2000)):
        for dated in pattern.finditer(stem):
            parts = dated.groupdict()
            try:
                names = ("month", "day", "hour", "minute", "second")
                month, day, hour, minute, second = (int(parts[name]) for name in names)
                moment = datetime(century + int(parts["year"]), month, day, hour, minute, second, tzinfo=UTC)
            except ValueError:
                continue
            since = moment - _EPOCH
            fraction = (parts.get("digits") or parts.get("after") or "0")[:9].ljust(9, "0")
            time_ns = (since.days * 86_400 + since.seconds) * _SECOND + int(fraction)
            return NameTime(time_ns, dated.start(), dated.end())
    return None


def times_in(names: Sequence[str]) -> list[int] | None:
    """The times in names of pictures, in nanoseconds; None where a name has none."""
    times = []
    for name in names:
        found = time_in(name.rpartition("/")[2].rpartition(".")[0])
        if found is None:
            return None
        times.append(found.time_ns)
    return times
