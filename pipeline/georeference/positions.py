"""What every reader of positions gives: fixes and speeds, whose clock they are on, and what is odd about them."""

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
"""What the times count from: the drive's own first moment; 1970 (UTC); midnight (UTC, the date is not told); or they
are no times but numbers of the drive's frames."""

RANGE_ERROR_M = 3.0
"""Error of a distance to a satellite, one deviation: a dilution of precision is a multiple of it (consumer receivers,
single frequency; IS-GPS-200 table 20-I of the user's equivalent range error gives 1.5 to 7 m)."""
VERTICAL_SHARE = 1.8
"""A receiver's vertical error over its horizontal, where only one of them is known."""


class NoPositionsError(DriveError):
    """A file holds no positions that can be read; the message is one line that says why."""


@dataclass(frozen=True, eq=False)
class Positions:
    """source: what was read, in words; fixes: M of them, possibly none; speed: where it is told, on the same clock;
    sea_level: altitudes are above the sea, with no word of the geoid; notes: what is odd, a sentence each."""

    source: str
    clock: Clock
    fixes: Fixes
    speed: Speed | None = None
    sea_level: bool = False
    notes: tuple[str, ...] = ()

    def noted(self, *notes: str) -> Positions:
        """The same with more to say; empty sentences are left out."""
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))


def no_fixes() -> Fixes:
    """Fixes of a source that tells speed alone."""
    none = np.zeros(0)
    return Fixes(none, none, none, none)


def fixes_of(rows: Sequence[Sequence[float]]) -> Fixes:
    """Rows of time, latitude, longitude, altitude and, where known (else NaN), horizontal and vertical deviation."""
    table = np.asarray(rows, np.float64).reshape(-1, 6)
    return Fixes(*(table[:, n] for n in range(6)))


def speed_of(time_s: Array, speed_m_s: Array, *, of_receiver: bool = True) -> Speed | None:
    """A speed out of columns in which it may be NaN; None where it never is told, or always zero. of_receiver: see
    `Speed`."""
    there = np.isfinite(time_s) & np.isfinite(speed_m_s)
    if there.sum() < 2 or not (speed_m_s[there] > 0).any():
        return None
    return Speed(time_s[there], speed_m_s[there], of_receiver)
