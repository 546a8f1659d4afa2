"""The result of every reader of positions: fixes and speeds, the clock of their times, and notes for the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.common.fixes import Fixes, Speed
from pipeline.errors import DriveError

Array = NDArray[np.float64]

Clock = Literal["drive", "utc", "day", "frame"]
"""Where the times begin: at the drive's start; in 1970 (UTC); at midnight (UTC, without a date). "frame": they are no
times but numbers of the drive's frames."""

RANGE_ERROR_M = 3.0
"""Standard deviation of a measured distance to a satellite. Multiplied by the dilution of precision, it is that of a
position (consumer receivers, single frequency; IS-GPS-200 table 20-I gives 1.5 to 7 m)."""


class NoPositionsError(DriveError):
    """A file contains no positions that can be used; the message is one line that says why."""


@dataclass(frozen=True, eq=False)
class Positions:
    """source: what was read, in words; fixes: M of them, possibly none; speed: on the same clock, None if unknown;
    sea_level: altitudes are above sea level, and the geoid is unknown; notes: sentences for the user."""

    source: str
    clock: Clock
    fixes: Fixes
    speed: Speed | None = None
    sea_level: bool = False
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> Positions:
        """The same with more notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))


def no_fixes() -> Fixes:
    """The fixes of a source that contains only speeds."""
    none = np.zeros(0)
    return Fixes(none, none, none, none)


def fixes_of(rows: Sequence[Sequence[float]]) -> Fixes:
    """Fixes from rows of time, latitude, longitude, altitude, horizontal and vertical deviation; NaN for what is
    unknown."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    return Fixes(*(table[:, n] for n in range(6)))


def speed_of(time_s: Array, speed_m_s: Array, *, of_receiver: bool = True) -> Speed | None:
    """A speed from columns that may contain NaN; None if no speed is known, or all are zero."""
    there = np.isfinite(time_s) & np.isfinite(speed_m_s)
    if there.sum() < 2 or not (speed_m_s[there] > 0).any():
        return None
    return Speed(time_s[there], speed_m_s[there], of_receiver)
