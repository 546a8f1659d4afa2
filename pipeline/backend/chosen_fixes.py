"""Chooses the fixes that a drive's pose graph uses: plausible ones in the drive's time, in metres about an origin."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.fix_moments import regular_moments
from pipeline.backend.frame_track import FrameTrack
from pipeline.backend.position_alignment import inside_drive
from pipeline.backend.receiver_noise import REGULAR_S, SCATTER_S, VERTICAL
from pipeline.backend.sim3 import Array
from pipeline.common.fix_faults import UnusableFixesError, without_faults
from pipeline.common.fix_rounding import rounding_of
from pipeline.common.fixes import Fixes, Speed
from pipeline.common.geodesy import ecef_from_geodetic, enu_from_geodetic

_UNKNOWN_M = 3.0  # deviation of a fix whose receiver states none
_LEAST_ACCURACY_M = 0.01
_THIN_S = 0.5  # fixes that follow each other faster have the same information
_LONGER = 50.0  # times that span more than so many lengths of the drive have another unit
_HOUR_S, _DAY_S = 3_600.0, 86_400.0
_GPS_S = 315_964_800.0 - 18  # GPS time is behind Unix time by the years before 1980, less leap seconds


@dataclass(frozen=True, eq=False)
class ChosenFixes:
    """M fixes as given. time_s (M,): when they were measured; enu (M, 3): metres about origin (latitude, longitude,
    altitude), NaN upwards without altitude; accuracy, vertical (M,): deviations, metres; claims: whether the receiver
    stated them; candidates (c,): numbers of the usable fixes, in order of time; thinned (m,): a selection of them;
    scatter_s: deviation of their times; speed: the car's, None where it is unknown or wrong; notes: a sentence for each
    mistake."""

    time_s: Array
    enu: Array
    accuracy: Array
    vertical: Array
    claims: bool
    candidates: NDArray[np.int64]
    thinned: NDArray[np.int64]
    origin: tuple[float, float, float]
    scatter_s: float
    speed: Speed | None
    notes: tuple[str, ...]


def choose_fixes(fixes: Fixes, speed: Speed | None, track: FrameTrack, window_s: float) -> ChosenFixes | str:
    """The fixes near the drive in time, without obviously wrong ones; a sentence with the reason where none is left.

    window_s: the largest clock offset that is searched.
    """
    try:
        if not fixes.placed.any():
            without_faults(fixes)  # raises an error with the reason, if it finds one
            return f"none of {len(fixes)} fixes is a position on Earth (NaN, beyond the poles, or at 0, 0)"
        near = fixes.placed & inside_drive(fixes.time_s, track.time_s, window_s)
        if near.sum() < min(2, len(fixes)):
            return _of_another_time(fixes.time_s[fixes.placed], int(near.sum()), track.time_s, window_s)
        sound = without_faults(_only(fixes, near), speed)
    except UnusableFixesError as error:
        return str(error)
    fixes, speed = sound.fixes, sound.speed
    order = np.argsort(fixes.time_s, kind="stable")
    order = order[(near & fixes.placed)[order]]
    rounding = rounding_of(fixes.latitude[order], fixes.longitude[order])
    fresh = np.ones(len(order), bool)
    fresh[1:] = np.diff(fixes.time_s[order]) > 0
    if rounding is None or not rounding.is_coarse:
        # A fix that is equal to the one before comes from a frozen receiver, or from a car that stands: no information.
        where = np.stack([fixes.latitude[order], fixes.longitude[order]], 1)
        fresh[1:] &= (np.diff(where, axis=0) != 0).any(1)
    order = order[fresh]
    if len(order) < 2:
        return f"of {len(fixes)} fixes only {len(order)} differs from the others: no heading and no scale from it"
    origin = _origin(fixes, order)
    known = ~np.isnan(fixes.altitude)
    enu = enu_from_geodetic(fixes.latitude, fixes.longitude, np.where(known, fixes.altitude, origin[2]), origin)
    enu[~known, 2] = np.nan
    accuracy, vertical = claimed_deviations(fixes)
    if rounding is not None:
        accuracy = np.hypot(accuracy, rounding.deviation_m)
    time_s, scatter_s = fixes.time_s.copy(), SCATTER_S
    moments = regular_moments(time_s[order], enu[order])
    if moments is not None:
        time_s[order], scatter_s = moments, REGULAR_S
    bins = np.floor((time_s[order] - time_s[order[0]]) / _THIN_S + 1e-9)
    thinned = order[np.diff(bins, prepend=-1) > 0]
    assert fixes.accuracy is not None
    claims = bool(np.isfinite(fixes.accuracy[thinned]).any())
    notes = sound.notes
    if not known[order].any():
        notes = (*notes, "no altitude of a fix counts: altitudes of the result are about 0, whatever they are")
    return ChosenFixes(time_s, enu, accuracy, vertical, claims, order, thinned, origin, scatter_s, speed, notes)


def claimed_deviations(fixes: Fixes) -> tuple[Array, Array]:
    """(M,) horizontal and vertical deviations, metres; an unknown one is the usual one of the drive, or 3 m."""
    assert fixes.accuracy is not None and fixes.vertical_accuracy is not None
    known = np.isfinite(fixes.accuracy)
    usual = float(np.median(fixes.accuracy[known])) if known.any() else _UNKNOWN_M
    accuracy = np.maximum(np.where(known, fixes.accuracy, usual), _LEAST_ACCURACY_M)
    vertical = np.where(np.isfinite(fixes.vertical_accuracy), fixes.vertical_accuracy, VERTICAL * accuracy)
    return accuracy, np.maximum(vertical, _LEAST_ACCURACY_M)


def _only(fixes: Fixes, near: NDArray[np.bool_]) -> Fixes:
    """The same fixes, with all but `near` set to unknown: fixes of other hours must not affect the checks."""
    return replace(fixes, latitude=np.where(near, fixes.latitude, np.nan))


def _origin(fixes: Fixes, order: NDArray[np.int64]) -> tuple[float, float, float]:
    """A fix in the middle of the drive, and the median altitude."""
    earth = ecef_from_geodetic(fixes.latitude[order], fixes.longitude[order], np.zeros(len(order)))
    middle = order[int(np.argmin(np.linalg.norm(earth - np.median(earth, axis=0), axis=1)))]
    heights = fixes.altitude[order][np.isfinite(fixes.altitude[order])]
    height = float(np.median(heights)) if len(heights) else 0.0
    return float(fixes.latitude[middle]), float(fixes.longitude[middle]), height


def _of_another_time(seen: Array, count: int, time_s: Array, window_s: float) -> str:
    """The reason why no fix (or only one) lies in the drive's time, with the probable mistake in the times."""
    apart, long_s = float(seen.min() - time_s[0]), float(np.ptp(seen))
    near = max(window_s, 60.0) + long_s
    hours = round(apart / (_HOUR_S / 4)) / 4
    if long_s > _LONGER * float(np.ptp(time_s)):
        said = "milliseconds?"
    elif abs(apart + _GPS_S) < _DAY_S:
        said = "GPS time taken as Unix time? (name the column gps_time)"
    elif abs(apart) >= _DAY_S - near:
        said = f"{abs(apart) / _DAY_S:.1f} days apart, a file of another time?"
    elif 0 < abs(hours) <= 14 and abs(apart - hours * _HOUR_S) < near:
        said = f"{hours:+g} hours apart, of another time zone or another time?"
    else:
        said = f"{abs(apart):.0f} s apart, a file of another time?"
    meet = "do not meet" if not count else "have one fix within"
    return (
        f"the fixes' times ({seen.min():.3f} to {seen.max():.3f} s) {meet} the drive's "
        f"({time_s[0]:.3f} to {time_s[-1]:.3f} s, give or take {window_s:g} s): {said}"
    )
