"""NMEA 0183 logs, sentence by sentence through pynmeagps: GGA (position, height, quality), RMC (date, speed), GST
(deviations), ZDA (date). Lines of other kinds, and those with a wrong checksum, are passed over."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import numpy as np
from pynmeagps import NMEAMessage, NMEAReader

from pipeline.common.fixes import Fixes
from pipeline.common.numbers import number_or
from pipeline.georeference.positions import RANGE_ERROR_M, Clock, NoPositionsError, Positions, speed_of

_NAN = float("nan")
_KNOT = 1852 / 3600
_SENTENCE = re.compile(rb"\$[A-Z]{2}(?:GGA|RMC|GST|ZDA|GNS),[\x20-\x7e]*")
_RANGE_ERROR_OF = {4: 0.02, 5: 0.3, 2: 2.0, 9: 2.0}
"""By the quality field of GGA: RTK fixed, RTK float, differential, SBAS; all others are a single receiver's."""
_NO_FIX = frozenset((0, 6, 7, 8))  # none, dead reckoning, put in by hand, simulated
_DAY_S = 86_400.0


@dataclass
class _Moment:
    """The content of all sentences of one time of day."""

    latitude: float = _NAN
    longitude: float = _NAN
    altitude: float = _NAN
    accuracy: float = _NAN
    vertical: float = _NAN
    speed: float = _NAN
    on_sea_level: bool = False
    deviation_told: bool = False


def read_nmea(data: bytes, name: str) -> Positions:
    """One fix for each time of day. Heights are above the ellipsoid if GGA contains the geoid's separation.

    Raises NoPositionsError if no sentence contains a position, or none with a fix.
    """
    moments: dict[float, _Moment] = {}
    start: float | None = None  # the midnight before the first sentence
    midnights, last, damaged, no_fix = 0.0, -1.0, 0, 0
    for line in _SENTENCE.findall(data):
        try:
            said = NMEAReader.parse(line.strip() + b"\r\n")
        except Exception:  # pynmeagps raises errors of its own and those of conversions
            damaged += 1
            continue
        if not isinstance(getattr(said, "time", None), time):
            continue
        of_day = said.time.hour * 3600 + said.time.minute * 60 + said.time.second + said.time.microsecond * 1e-6
        if of_day < last - _DAY_S / 2:
            midnights += _DAY_S
        last = of_day
        day = _date_of(said)
        if start is None and day is not None:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() - midnights
        one = moments.setdefault(of_day + midnights, _Moment())
        no_fix += not _take(one, said)
    found = [(when, one) for when, one in moments.items() if np.isfinite(one.latitude)]
    if not found:
        raise NoPositionsError(
            f"{name}: no NMEA sentence with a position"
            + (f" ({no_fix} say that there is no fix)" if no_fix else "")
            + (f" ({damaged} have a wrong checksum)" if damaged else "")
        )
    notes = []
    if damaged:
        notes.append(f"{damaged} sentences have a wrong checksum or cannot be read")
    if no_fix:
        notes.append(f"{no_fix} sentences say that there is no fix")
    clock: Clock = "utc" if start is not None else "day"
    if start is None:
        start = 0.0
        notes.append("no sentence (RMC, ZDA) has the date")
    rows = np.array(
        [(start + t, o.latitude, o.longitude, o.altitude, o.accuracy, o.vertical, o.speed) for t, o in found]
    )
    sea = any(one.on_sea_level for _, one in found)
    return Positions(f"NMEA {name}", clock, Fixes(*rows[:, :6].T), speed_of(rows[:, 0], rows[:, 6]), sea, tuple(notes))


def _date_of(said: NMEAMessage) -> date | None:
    if said.msgID == "RMC" and isinstance(said.date, date):
        return said.date
    if said.msgID == "ZDA":
        try:
            return date(int(said.year), int(said.month), int(said.day))
        except (TypeError, ValueError):
            return None
    return None


def _take(one: _Moment, said: NMEAMessage) -> bool:
    """Add the content of a sentence; False if it says that there is no fix."""
    if said.msgID in ("GGA", "GNS"):
        quality = int(_float(said.quality, 0)) if said.msgID == "GGA" else 1
        if quality in _NO_FIX or not np.isfinite(_float(said.lat)):
            return False
        one.latitude, one.longitude = _float(said.lat), _float(said.lon)
        separation = _float(said.sep)
        one.altitude = _float(said.alt) + (separation if np.isfinite(separation) else 0.0)
        one.on_sea_level = not np.isfinite(separation)
        if not one.deviation_told:
            one.accuracy = _float(said.HDOP) * _RANGE_ERROR_OF.get(quality, RANGE_ERROR_M)
    elif said.msgID == "RMC":
        if said.status != "A":
            return False
        if not np.isfinite(one.latitude):
            one.latitude, one.longitude = _float(said.lat), _float(said.lon)
        one.speed = _float(said.spd) * _KNOT
    elif said.msgID == "GST":
        one.deviation_told = True
        one.accuracy = float(np.hypot(_float(said.stdLat), _float(said.stdLong)) / np.sqrt(2))
        one.vertical = _float(said.stdAlt)
    return True


def _float(value: object, otherwise: float = _NAN) -> float:
    return number_or(value, otherwise)
