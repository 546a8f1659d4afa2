"""GPX tracks and routes (1.0, 1.1), read by gpxpy: positions, heights, dilution of precision, fix type, speed."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import gpxpy
import numpy as np
from gpxpy.gpx import GPXRoutePoint, GPXTrackPoint

from pipeline.common.fixes import Fixes
from pipeline.georeference.positions import RANGE_ERROR_M, NoPositionsError, Positions, speed_of

_NAN = float("nan")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECLARED = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


def read_gpx(data: bytes, name: str) -> Positions:
    """Every point of every track, in the file's order; of every route where there is no track.

    Raises NoPositionsError if the file is no GPX, or if no point has a time.
    """
    if _DECLARED.search(data[:4096]):  # entities can expand without limit, and GPX has none
        raise NoPositionsError(f"{name}: GPX with a document type of its own is not read")
    try:
        gpx = gpxpy.parse(data.decode("utf-8-sig", errors="replace"))
    except Exception as error:  # gpxpy passes on whatever its XML parser and its dates raise
        said = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise NoPositionsError(f"{name}: no readable GPX ({said})") from None
    points: list[GPXTrackPoint | GPXRoutePoint] = [
        point for track in gpx.tracks for part in track.segments for point in part.points
    ]
    points = points or [point for route in gpx.routes for point in route.points]
    if not points:
        raise NoPositionsError(f"{name}: a GPX file without a track or route")
    rows = np.array([_row(point) for point in points])
    notes = []
    timed = np.isfinite(rows[:, 0])
    if not timed.any():
        raise NoPositionsError(f"{name}: none of its {len(points)} points has a time")
    if not timed.all():
        notes.append(f"{int((~timed).sum())} of {len(points)} points have no time")
    if any(point.time is not None and point.time.tzinfo is None for point in points):
        notes.append("its times name no time zone and are taken as UTC")
    fixes = Fixes(*rows[:, :6].T)
    return Positions(f"GPX {name}", "utc", fixes, speed_of(rows[:, 0], rows[:, 6]), True, tuple(notes))


def _row(point: GPXTrackPoint | GPXRoutePoint) -> tuple[float, ...]:
    time_s = _NAN
    if point.time is not None:
        moment = point.time if point.time.tzinfo else point.time.replace(tzinfo=UTC)
        time_s = (moment - _EPOCH).total_seconds()
    dop = point.horizontal_dilution or point.position_dilution
    up = point.vertical_dilution
    latitude = _NAN if point.type_of_gpx_fix == "none" else float(point.latitude)
    return (
        time_s,
        latitude,
        float(point.longitude),
        _NAN if point.elevation is None else float(point.elevation),
        _NAN if not dop else RANGE_ERROR_M * float(dop),
        _NAN if not up else RANGE_ERROR_M * float(up),
        _speed(point),
    )


def _speed(point: GPXTrackPoint | GPXRoutePoint) -> float:
    said = getattr(point, "speed", None)
    if said is not None:
        return float(said)
    for element in point.extensions:
        for one in element.iter():
            if str(one.tag).rpartition("}")[2].lower() == "speed":
                try:
                    return float(one.text)
                except (TypeError, ValueError):
                    return _NAN
    return _NAN
