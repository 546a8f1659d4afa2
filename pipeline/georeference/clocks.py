"""Converts times of positions to the drive's clock, and says what was assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.common.fixes import Fixes
from pipeline.georeference.positions import Array, NoPositionsError, Positions

ABSOLUTE_S = 4e8
"""Seconds; larger times of frames count from 1970."""
_DAY_S = 86_400.0


@dataclass(frozen=True, eq=False)
class OnDrive:
    """positions: their times are seconds from the drive's first frame; frame_time_s (N,): times of the frames on that
    clock; window_s: the largest clock offset that is searched."""

    positions: Positions
    frame_time_s: Array
    window_s: float


def on_drive_clock(
    positions: Positions,
    frame_s: Array | None,
    frame_count: int,
    window_s: float,
    *,
    zero_s: float | None = None,
    created_s: float | None = None,
    frame_numbers: Array | None = None,
) -> OnDrive:
    """Convert times to the drive's clock. Assumptions become notes.

    frame_s (N,): times of the frames, None if they have none. frame_numbers (N,): their numbers in the source, by
    default 0 to N - 1. zero_s: where times of positions that count from the drive's start begin, on the clock of
    frame_s; by default 0, or the first frame if frame_s counts from 1970. created_s: date of recording according to the
    video, UTC. Leap seconds and time zones are not guessed. Raises NoPositionsError if the times do not fit.
    """
    if positions.clock == "frame":
        return _by_frame(positions, frame_s, frame_count, frame_numbers)
    if frame_s is None:
        raise NoPositionsError(
            f"{positions.source}: the drive's frames have no times to compare with; give positions a column frame, or "
            "the drive a times.txt"
        )
    start = float(frame_s[0])
    frames = frame_s - start
    absolute = start >= ABSOLUTE_S
    if positions.clock == "drive":
        zero = zero_s if zero_s is not None else start if absolute else 0.0
        _refuse_other_units(positions, float(frames[-1]), window_s)
        return OnDrive(_moved(positions, start - zero), frames, window_s)
    time_s = _times(positions)
    first, last = float(np.nanmin(time_s)), float(np.nanmax(time_s))
    if absolute:
        shift = start
        if positions.clock == "day":
            day = np.floor(start / _DAY_S) * _DAY_S
            day -= np.floor(first / _DAY_S) * _DAY_S  # times of a GPS week include whole days
            shift = start - min((day + k * _DAY_S for k in (-1, 0, 1)), key=lambda d: abs(d + first - start))
        return OnDrive(_moved(positions, shift), frames, window_s)
    if created_s is not None and positions.clock == "day":
        created_s = created_s % _DAY_S + np.floor(first / _DAY_S) * _DAY_S
    if created_s is not None and first - window_s <= created_s <= last + window_s:
        said = "the drive's times count from its start, which is taken from the recording's date in the video"
        return OnDrive(_moved(positions, created_s + start).noted(said), frames, window_s)
    slack = 2 * window_s + 2.0
    if last - first > frames[-1] + slack:
        raise NoPositionsError(
            f"{positions.source}: {last - first:.0f} s of positions for a drive of {frames[-1]:.0f} s whose "
            f"times count from its own start: give --positions.clock-window {np.ceil(last - first - frames[-1]):.0f}, "
            "or the frames times of the clock"
        )
    said = "the drive's times count from its start: its first frame is taken to be at the first position, within the "
    return OnDrive(_moved(positions, first).noted(f"{said}{window_s:g} s of the clock window"), frames, window_s)


def _by_frame(positions: Positions, frame_s: Array | None, frame_count: int, frame_numbers: Array | None) -> OnDrive:
    numbers = np.arange(frame_count, dtype=float) if frame_numbers is None else np.asarray(frame_numbers, float)
    frames = np.arange(frame_count, dtype=float) if frame_s is None else frame_s - frame_s[0]
    time_s = np.interp(positions.fixes.time_s, numbers, frames, left=np.nan, right=np.nan)
    if not np.isfinite(time_s).any():
        raise NoPositionsError(f"{positions.source}: none of its frame numbers is one of the drive's {frame_count}")
    return OnDrive(replace(positions, fixes=_at(positions.fixes, time_s), speed=None, clock="drive"), frames, 0.0)


def _refuse_other_units(positions: Positions, drive_s: float, window_s: float) -> None:
    """Raises NoPositionsError where the times are milliseconds, or a smaller unit: the drive has as many seconds."""
    time_s = _times(positions)
    long_s = float(np.nanmax(time_s) - np.nanmin(time_s))
    for unit, factor in (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)):
        if long_s > 20 * (drive_s + 2 * window_s) and 0.2 < long_s / factor / max(drive_s, 1e-9) < 5:
            raise NoPositionsError(
                f"{positions.source}: times from {np.nanmin(time_s):g} to {np.nanmax(time_s):g} for a drive of "
                f"{drive_s:.0f} s: {unit}? name the unit over the column (time_ms, time_us, time_ns)"
            )


def _times(positions: Positions) -> Array:
    parts = [positions.fixes.time_s] + ([positions.speed.time_s] if positions.speed is not None else [])
    every = np.concatenate(parts)
    if not np.isfinite(every).any():
        raise NoPositionsError(f"{positions.source}: no position has a time")
    return every


def _moved(positions: Positions, zero: float) -> Positions:
    speed = positions.speed
    if speed is not None:
        speed = replace(speed, time_s=speed.time_s - zero)
    return replace(positions, fixes=_at(positions.fixes, positions.fixes.time_s - zero), speed=speed, clock="drive")


def _at(fixes: Fixes, time_s: Array) -> Fixes:
    return Fixes(time_s, fixes.latitude, fixes.longitude, fixes.altitude, fixes.accuracy, fixes.vertical_accuracy)
