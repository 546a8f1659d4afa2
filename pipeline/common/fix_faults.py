"""Mistakes in fixes that the fixes alone show: refused in one sentence, or the wrong ones are marked and counted.

A marked fix keeps its place and gets a latitude of NaN, so that numbers of fixes remain those of the file. A wrong
altitude becomes NaN; only the horizontal position of such a fix is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.common.fix_rounding import rounding_of
from pipeline.common.fixes import Fixes, Speed

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

FASTEST_M_S = 120.0  # no car is faster
_REACH_M = 5_000.0  # fixes of a drive lie within this distance plus that of the fastest car
_DEGREE_M = 111_320.0
_APART = 0.05  # degrees; mistakes of a sign or of a column move a fix by more
_MOST_BACK = 0.1  # if a larger share of fixes is earlier than a fix before them, no time can be trusted
_MOST_MARKED = 0.4  # if a larger share of fixes has one mistake, nothing says which fixes are right
_EMPTY_SEA = (1.6, 3.2)  # degrees about 0, 0: the Gulf of Guinea, no land; radians of any place on Earth lie in it
_LEAST_BASE_60 = 10  # fixes
_MINUTES, _SECONDS = 1.0, 100.0  # factors after which minutes, or seconds, stand directly behind the point
BASE_60 = {
    _MINUTES: "degrees and minutes written with one point (49.3015 for 49 degrees 30.15 minutes)? write degrees",
    _SECONDS: "degrees, minutes and seconds written with one point (49.301512 for 49 30 15.12)? write degrees",
}
_NOT_LATER = "have a time that does not rise"
_JUMP_M = 100.0  # between the altitudes of two fixes
_STEEPEST = 0.5  # climb over distance
_WINDOW_S, _LEAST_WAY_M, _FEWEST, _MOST_SPREAD = 5.0, 8.0, 8, 0.25  # of distances by fixes and by a speed
_MOST_OFF = 0.1  # relative difference that the two distances may have
_ALIKE = 0.08  # relative tolerance when their ratio is compared with that of a known mistake
_SPEED_UNITS = {"km/h": 1 / 3.6, "miles an hour": 0.44704, "knots": 0.514444, "m/s, not km/h": 3.6}
_ALTITUDES = (-1_000.0, 10_000.0)  # metres; no road is lower or higher


class UnusableFixesError(ValueError):
    """None of the fixes can be used; the message is one sentence that says why."""


@dataclass(frozen=True, eq=False)
class Sound:
    """fixes: with the wrong ones marked; speed: None where it has another unit or belongs to another drive; notes: a
    sentence for each kind of mistake."""

    fixes: Fixes
    speed: Speed | None
    notes: tuple[str, ...]


def without_faults(fixes: Fixes, speed: Speed | None = None, *, timed: bool = True) -> Sound:
    """Fixes, and a speed on the same clock, with their mistakes marked. timed: times are seconds.

    Fixes that are not finite are ignored. Raises UnusableFixesError where all fixes have the same mistake, or where
    nothing says which of them are right.
    """
    known = np.isfinite(fixes.latitude) & np.isfinite(fixes.longitude) & np.isfinite(fixes.time_s)
    if not known.any():
        return Sound(fixes, speed, ())
    _refuse_wrong_units(fixes.latitude[known], fixes.longitude[known])
    _refuse_base_60(fixes, known)
    marked, notes = np.zeros(len(fixes), bool), []
    for mask, what in (
        (_not_later(fixes, known, timed=timed), _NOT_LATER),
        (_beyond(fixes), "are beyond 90 degrees of latitude or 180 of longitude"),
        (_other_sign(fixes.latitude, known), "have the other sign of latitude than the rest"),
        (_other_sign(fixes.longitude, known), "have the other sign of longitude than the rest"),
        (_swapped(fixes, known), "have latitude and longitude swapped"),
        (_far(fixes, known) if timed else marked, "lie farther from the rest than a car drives"),
    ):
        fresh = mask & known & ~marked
        if fresh.sum() > _MOST_MARKED * known.sum() and what is not _NOT_LATER:
            raise UnusableFixesError(
                f"{int(fresh.sum())} of {int(known.sum())} fixes {what}: which of them are right cannot be told"
            )
        if fresh.any():
            notes.append(f"{int(fresh.sum())} of {len(fixes)} fixes {what} and are not used")
        marked |= fresh
    good = known & ~marked
    altitude, said = _sound_altitudes(fixes, good)
    rounding = rounding_of(fixes.latitude[good], fixes.longitude[good])
    if rounding is not None and rounding.is_coarse:
        notes.append(rounding.said)
    sound = replace(fixes, latitude=np.where(marked, np.nan, fixes.latitude), altitude=altitude)
    if speed is not None and timed and rounding is None:
        speed, about_speed = _sound_speed(sound, speed)
        said = (*said, *about_speed)
    return Sound(sound, speed, (*notes, *said))


def refuse_base_60(fixes: Fixes, ratio: float, of_what: str) -> None:
    """Raises UnusableFixesError where the fixes look as if minutes had been read as hundredths of a degree: this makes
    a drive shorter. ratio: the drive's length by its fixes, divided by its length by another source; of_what names
    that source."""
    known = np.isfinite(fixes.latitude) & np.isfinite(fixes.longitude)
    for unit, expected in ((_MINUTES, 0.6), (_SECONDS, 0.36)):
        latitude, longitude = fixes.latitude[known] * unit, fixes.longitude[known] * unit
        if abs(ratio / expected - 1) < _ALIKE and looks_base_60(latitude, longitude):
            raise UnusableFixesError(f"lengths are {ratio:.2f} times those by {of_what}: {BASE_60[unit]}")


def looks_base_60(latitude: Array, longitude: Array) -> bool:
    """Whether degrees (m,) may have been written as degrees and minutes with one point: none has a fraction of .60 or
    more. A third of all drives lie at such places by chance."""
    return all(bool((np.abs(value) % 1 < 0.6).all()) for value in (latitude, longitude))


def _refuse_wrong_units(latitude: Array, longitude: Array) -> None:
    shown = f"latitude {latitude[0]:.7g}, longitude {longitude[0]:.7g}"
    across, along = np.abs(latitude), np.abs(longitude)
    away = (across > 1e-3) | (along > 1e-3)
    if away.any() and (across <= _EMPTY_SEA[0]).all() and (along <= _EMPTY_SEA[1]).all():
        raise UnusableFixesError(
            f"{shown} is in the Gulf of Guinea, where no road is: radians? (lat_rad and lon_rad over the columns)"
        )
    if ((across > 90) | (along > 180)).mean() < 0.5:
        return
    shown += " is no place on Earth"
    if (across <= 180).all() and (along <= 90).all():
        raise UnusableFixesError(f"{shown}: latitude and longitude are swapped")
    minutes = (across % 100 < 60).all() and (along % 100 < 60).all()
    if minutes and (across < 9000).all() and (along < 18_000).all():
        raise UnusableFixesError(f"{shown}: they look like degrees and minutes (ddmm.mmmm); write degrees")
    whole = (across % 1 == 0).all() and (along % 1 == 0).all()
    if whole and np.maximum(across, along).max() > 1.1e7:
        raise UnusableFixesError(f"{shown}: they look like degrees times 10,000,000; write degrees")
    raise UnusableFixesError(f"{shown}: metres of a projection? (x, y with --positions.crs)")


def _not_later(fixes: Fixes, known: Mask, *, timed: bool) -> Mask:
    """Fixes that are not later than all fixes before them. Raises where many are earlier: they are not in order of
    time."""
    time_s = np.where(known, fixes.time_s, -np.inf)
    highest = np.concatenate([[-np.inf], np.maximum.accumulate(time_s)[:-1]])
    back = known & (time_s <= highest)
    fell = back & (time_s < highest)  # the same time twice is one fix written twice
    if timed and fell.sum() > _MOST_BACK * known.sum():
        raise UnusableFixesError(
            f"the times of {int(fell.sum())} of {int(known.sum())} fixes do not rise; which of them are right cannot "
            "be told"
        )
    return back


def _beyond(fixes: Fixes) -> Mask:
    return np.asarray((np.abs(fixes.latitude) > 90) | (np.abs(fixes.longitude) > 360))


def _other_sign(value: Array, known: Mask) -> Mask:
    """Values (m,) that fit the others only after their sign is changed."""
    middle = float(np.median(np.abs(value[known])))
    if np.median(value[known]) < 0:
        middle = -middle
    apart = np.abs(value - middle)
    if abs(middle) > 179:  # Fiji has both signs
        return np.zeros(len(value), bool)
    return np.asarray((apart > 2 * _APART) & (np.abs(value + middle) < 0.1 * apart))


def _swapped(fixes: Fixes, known: Mask) -> Mask:
    across, along = float(np.median(fixes.latitude[known])), float(np.median(fixes.longitude[known]))
    apart = np.abs(fixes.latitude - across) + np.abs(fixes.longitude - along)
    exchanged = np.abs(fixes.latitude - along) + np.abs(fixes.longitude - across)
    return np.asarray((apart > _APART) & (exchanged < 0.1 * apart))


def _far(fixes: Fixes, known: Mask) -> Mask:
    across, along = float(np.median(fixes.latitude[known])), float(np.median(fixes.longitude[known]))
    # times differ by the drive's length, without those of another hour
    length_s = float(np.subtract(*np.quantile(fixes.time_s[known], [0.95, 0.05]))) / 0.9
    turned = _turned(fixes.longitude - along)
    away = _DEGREE_M * np.hypot(fixes.latitude - across, turned * np.cos(np.radians(across)))
    return np.asarray(away > _REACH_M + FASTEST_M_S * length_s)


def _turned(longitude: Array) -> Array:
    """Differences of longitude, the short way around the Earth."""
    return np.asarray((longitude + 180) % 360 - 180)


def _refuse_base_60(fixes: Fixes, good: Mask) -> None:
    """Raises where the values count as minutes (or seconds) do, which never reach 60: 50.0000 follows 49.5999."""
    if good.sum() < _LEAST_BASE_60:
        return
    order = np.flatnonzero(good)[np.argsort(fixes.time_s[good], kind="stable")]
    latitude, longitude, time_s = fixes.latitude[order], fixes.longitude[order], fixes.time_s[order]
    for unit in (_MINUTES, _SECONDS):
        if looks_base_60(latitude * unit, longitude * unit) and (
            _turns_at_60(latitude * unit, time_s) or _turns_at_60(longitude * unit, time_s)
        ):
            raise UnusableFixesError(
                f"no value has a fraction of {0.6 / unit:.2g} or more, and a whole one follows it: {BASE_60[unit]}"
            )


def _turns_at_60(value: Array, time_s: Array) -> bool:
    """Whether values (m,), none with a fraction above .6, pass from .6 to the next whole number in one usual step."""
    value = np.abs(value)
    step, gap = np.abs(np.diff(value)), np.diff(time_s)
    late, early = value % 1 > 0.5, value % 1 < 0.1
    turns = (late[1:] & early[:-1]) | (late[:-1] & early[1:])
    usual = (step > 5 * np.median(step)) & (gap <= 3 * np.median(gap))
    return bool((turns & usual & (step > 0.39) & (step < 0.5)).any())


def _sound_altitudes(fixes: Fixes, good: Mask) -> tuple[Array, tuple[str, ...]]:
    """(M,) altitudes, NaN where they jump away from the others for a while, and notes for the user."""
    altitude, notes = fixes.altitude.copy(), list[str]()
    told = good & np.isfinite(altitude)
    odd = told & ((altitude < _ALTITUDES[0]) | (altitude > _ALTITUDES[1]))
    if told.sum() >= _FEWEST and not altitude[told].any():
        notes.append("every altitude is 0, perhaps because none was known")
    if odd.any():
        notes.append(f"the altitudes of {int(odd.sum())} of {len(fixes)} fixes are no road's and are not used")
        altitude[odd] = np.nan
        told &= ~odd
    order = np.flatnonzero(told)[np.argsort(fixes.time_s[told], kind="stable")]
    if len(order) < 3:
        return altitude, tuple(notes)
    east = _turned(np.diff(fixes.longitude[order])) * np.cos(np.radians(fixes.latitude[order][0]))
    way = _DEGREE_M * np.hypot(np.diff(fixes.latitude[order]), east)
    climb = np.diff(altitude[order])
    jump = np.abs(climb) > _JUMP_M + _STEEPEST * way
    if not jump.any():
        return altitude, tuple(notes)
    # the sum of the jumps so far: fixes with the same sum are on one level
    level = np.concatenate([[0.0], np.cumsum(np.where(jump, climb, 0.0))])
    group = np.round(level / _JUMP_M).astype(int)
    same = np.abs(group[:, None] - np.unique(group)[None]) <= 1
    most = int(np.argmax(same.sum(0)))
    wrong = order[~same[:, most]]
    if len(wrong) > _MOST_MARKED * len(order):
        wrong = order
    altitude[wrong] = np.nan
    notes.append(
        f"altitudes jump by {np.abs(climb[jump]).max():.0f} m: those of {len(wrong)} of {len(fixes)} fixes are not used"
    )
    return altitude, tuple(notes)


def _sound_speed(fixes: Fixes, speed: Speed) -> tuple[Speed | None, tuple[str, ...]]:
    """The speed where the fixes agree with it, else None and a sentence. Raises where the speed shows that the fixes
    are wrong."""
    ratio = _ways_ratio(fixes, speed)
    if ratio is None or abs(ratio - 1) <= _MOST_OFF:
        return speed, ()
    refuse_base_60(fixes, ratio, "the speeds")
    for unit, factor in _SPEED_UNITS.items():
        if abs(ratio / factor - 1) < _ALIKE:
            return None, (f"by the fixes the speeds are in {unit}: they are not used; name the unit over the column",)
    return None, (
        f"the way by the fixes is {ratio:.2f} times that by the speeds, which are not used: one of the two is wrong",
    )


def _ways_ratio(fixes: Fixes, speed: Speed) -> float | None:
    """The median ratio of the distance between two fixes some seconds apart to the distance that the speed gives; None
    where there are few such pairs."""
    good = np.flatnonzero(np.isfinite(fixes.latitude + fixes.longitude + fixes.time_s))
    good = good[np.argsort(fixes.time_s[good], kind="stable")]
    told = np.flatnonzero(np.isfinite(speed.time_s) & np.isfinite(speed.speed_m_s))
    told = told[np.argsort(speed.time_s[told], kind="stable")]
    if len(good) < _FEWEST or len(told) < _FEWEST:
        return None
    moments, value = speed.time_s[told], speed.speed_m_s[told]
    travelled = np.concatenate([[0.0], np.cumsum(np.diff(moments) * (value[1:] + value[:-1]) / 2)])
    time_s = fixes.time_s[good]
    later = np.searchsorted(time_s, time_s + _WINDOW_S)
    first = np.flatnonzero(later < len(time_s))
    later = later[first]
    known = (time_s[first] >= moments[0]) & (time_s[later] <= moments[-1])
    known &= time_s[later] - time_s[first] < 2 * _WINDOW_S
    first, later = first[known], later[known]
    way = np.interp(time_s[later], moments, travelled) - np.interp(time_s[first], moments, travelled)
    latitude, longitude = fixes.latitude[good], fixes.longitude[good]
    north = _DEGREE_M * (latitude[later] - latitude[first])
    east = _DEGREE_M * _turned(longitude[later] - longitude[first]) * np.cos(np.radians(latitude[first]))
    moving = way > _LEAST_WAY_M
    if moving.sum() < _FEWEST:
        return None
    ratio = np.hypot(north, east)[moving] / way[moving]
    middle = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio / max(middle, 1e-9) - 1)))
    return middle if spread < _MOST_SPREAD else None
