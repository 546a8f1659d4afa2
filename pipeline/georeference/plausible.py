"""Finds mistakes in positions after they were read: wrong fixes are marked and counted, or all fixes are refused.

A marked fix keeps its place and gets a latitude of NaN, so that numbers of fixes remain those of the file.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.fix_faults import UnusableFixesError, without_faults
from pipeline.common.fix_rounding import rounding_of
from pipeline.common.fixes import Fixes, Speed
from pipeline.georeference.positions import NoPositionsError, Positions

_REPEATED = 3  # if so many fixes in a row are equal to the last digit, only the first of them was measured
_FASTEST_M_S = 120.0


def checked(positions: Positions) -> Positions:
    """The same positions with wrong fixes marked and a note for each mistake. Raises NoPositionsError where all fixes
    are wrong."""
    fixes, notes = positions.fixes, []
    speed, about_speed = _of_a_car(positions.speed)
    if len(fixes):
        out = np.zeros(len(fixes), bool)
        for found, what in (
            (_null_island(fixes), "lie at latitude 0, longitude 0"),
            (_repeated(fixes), "repeat the one before them"),
            (~np.isfinite(fixes.latitude + fixes.longitude + fixes.time_s), "hold no position or no time"),
        ):
            fresh = found & ~out
            if fresh.any():
                notes.append(f"{int(fresh.sum())} of {len(fixes)} fixes {what}")
            out |= fresh
        if out.all() and speed is None:
            raise NoPositionsError(f"{positions.source}: {', '.join(notes)}")
        fixes = replace(fixes, latitude=np.where(out, np.nan, fixes.latitude))
        try:
            sound = without_faults(fixes, speed, timed=positions.clock != "frame")
        except UnusableFixesError as error:
            raise NoPositionsError(f"{positions.source}: {error}") from None
        fixes, speed = sound.fixes, sound.speed
        notes.extend(sound.notes)
    return replace(positions, fixes=fixes, speed=speed).noted(*notes, about_speed)


def _of_a_car(speed: Speed | None) -> tuple[Speed | None, str]:
    """The speeds that a car can have, and a sentence where others were left out."""
    if speed is None:
        return None, ""
    good = (speed.speed_m_s >= 0) & (speed.speed_m_s < _FASTEST_M_S) & np.isfinite(speed.time_s)
    if good.all():
        return speed, ""
    said = f"{int((~good).sum())} of {len(speed)} speeds are no car's"
    kept = replace(speed, time_s=speed.time_s[good], speed_m_s=speed.speed_m_s[good])
    return (kept if len(kept) > 1 else None), said


def _null_island(fixes: Fixes) -> NDArray[np.bool_]:
    return (np.abs(fixes.latitude) < 1e-3) & (np.abs(fixes.longitude) < 1e-3)


def _repeated(fixes: Fixes) -> NDArray[np.bool_]:
    """In each run of equal fixes, all but the first: a receiver that lost its satellites repeats its last position.
    None where all fixes are equal, or were rounded."""
    rounding = rounding_of(*_finite(fixes))
    if rounding is not None and rounding.is_coarse:
        return np.zeros(len(fixes), bool)
    same = np.zeros(len(fixes), bool)
    both = np.stack([fixes.latitude, fixes.longitude], 1)
    same[1:] = (np.diff(both, axis=0) == 0).all(1)
    starts = np.flatnonzero(~same)
    lengths = np.diff(np.append(starts, len(fixes)))
    long_runs = np.repeat(lengths >= _REPEATED, lengths)
    found = same & long_runs
    return found if len(starts) > 1 else np.zeros(len(fixes), bool)


def _finite(fixes: Fixes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    good = np.isfinite(fixes.latitude) & np.isfinite(fixes.longitude)
    return fixes.latitude[good], fixes.longitude[good]
