"""What fixes cannot be, told from them alone: named in a sentence, and taken out where it is a few of them.

A fix that is taken out stays in its place with a latitude of NaN, so that numbers of fixes are those of the file.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.fixes import Fixes
from pipeline.georeference.positions import NoPositionsError, Positions

_REPEATED = 3  # fixes to the last digit the same, in a row, of which only the first was measured
_MOST_BACK = 0.1  # share of times that do not rise, beyond which none of them can be trusted
_FASTEST_M_S = 120.0


def checked(positions: Positions) -> Positions:
    """The same with what cannot be taken out and said. Raises NoPositionsError where all of it cannot be."""
    fixes, notes = positions.fixes, []
    out = np.zeros(len(fixes), bool)
    if len(fixes):
        _check_degrees(fixes, positions.source)
        for found, what in (
            (_null_island(fixes), "lie at latitude 0, longitude 0"),
            (_back_in_time(fixes, positions), "have a time that does not rise"),
            (_repeated(fixes), "repeat the one before them"),
            (~np.isfinite(fixes.latitude + fixes.longitude + fixes.time_s), "hold no position or no time"),
        ):
            fresh = found & ~out
            if fresh.any():
                notes.append(f"{int(fresh.sum())} of {len(fixes)} fixes {what}")
            out |= fresh
        if out.all() and positions.speed is None:
            raise NoPositionsError(f"{positions.source}: {', '.join(notes)}")
        latitude = np.where(out, np.nan, fixes.latitude)
        fixes = Fixes(fixes.time_s, latitude, fixes.longitude, fixes.altitude, fixes.accuracy, fixes.vertical_accuracy)
    speed = positions.speed
    if speed is not None:
        odd = ~((speed.speed_m_s >= 0) & (speed.speed_m_s < _FASTEST_M_S) & np.isfinite(speed.time_s))
        if odd.any():
            notes.append(f"{int(odd.sum())} of {len(speed)} speeds are no car's")
            good = replace(speed, time_s=speed.time_s[~odd], speed_m_s=speed.speed_m_s[~odd])
            speed = good if len(good) > 1 else None
    return replace(positions, fixes=fixes, speed=speed).noted(*notes)


def _check_degrees(fixes: Fixes, source: str) -> None:
    """Raises NoPositionsError that names the usual mistakes."""
    known = np.isfinite(fixes.latitude) & np.isfinite(fixes.longitude)
    if not known.any():
        return
    latitude, longitude = np.abs(fixes.latitude[known]), np.abs(fixes.longitude[known])
    beyond = (latitude > 90) | (longitude > 180)
    if beyond.mean() < 0.5:
        return
    lat, lon = fixes.latitude[known][0], fixes.longitude[known][0]
    shown = f"{source}: latitude {lat:.6g}, longitude {lon:.6g} is no place on Earth"
    if (latitude <= 180).all() and (longitude <= 90).all():
        raise NoPositionsError(f"{shown}: latitude and longitude are swapped")
    if (
        (latitude % 100 < 60).all()
        and (longitude % 100 < 60).all()
        and (latitude < 9000).all()
        and (longitude < 18000).all()
    ):
        raise NoPositionsError(f"{shown}: they look like degrees and minutes (ddmm.mmmm); write degrees")
    raise NoPositionsError(f"{shown}: metres of a projection? (x, y with --positions.crs)")


def _null_island(fixes: Fixes) -> NDArray[np.bool_]:
    return (np.abs(fixes.latitude) < 1e-3) & (np.abs(fixes.longitude) < 1e-3)


def _back_in_time(fixes: Fixes, positions: Positions) -> NDArray[np.bool_]:
    """Fixes that are not later than all before them. Raises NoPositionsError where they are many."""
    time_s = fixes.time_s
    highest = np.fmax.accumulate(np.where(np.isfinite(time_s), time_s, -np.inf))
    back = np.zeros(len(fixes), bool)
    back[1:] = time_s[1:] <= highest[:-1]
    fell = back & (time_s < np.concatenate([[np.inf], highest[:-1]]))  # the same time twice is one fix written twice
    if fell.sum() > _MOST_BACK * len(fixes) and positions.clock != "frame":
        raise NoPositionsError(
            f"{positions.source}: the times of {int(fell.sum())} of {len(fixes)} fixes do not rise; which of them are "
            "right cannot be told"
        )
    return back


def _repeated(fixes: Fixes) -> NDArray[np.bool_]:
    """Fixes behind the first of a run that agrees to the last digit, unless all do: a receiver that lost its satellites
    says its last position again."""
    same = np.zeros(len(fixes), bool)
    both = np.stack([fixes.latitude, fixes.longitude], 1)
    same[1:] = (np.diff(both, axis=0) == 0).all(1)
    starts = np.flatnonzero(~same)
    lengths = np.diff(np.append(starts, len(fixes)))
    long_runs = np.repeat(lengths >= _REPEATED, lengths)
    found = same & long_runs
    return found if len(starts) > 1 else np.zeros(len(fixes), bool)
