"""Reads positions and speeds from CSV files, with the header words that people write and any usual separator."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.common.fixes import Fixes
from pipeline.common.visible_text import visible
from pipeline.georeference.cell_values import angle_of, hemisphere_of, number_of
from pipeline.georeference.column_words import Column, column_of
from pipeline.georeference.crs import geodetic_of
from pipeline.georeference.positions import (
    RANGE_ERROR_M,
    Array,
    Clock,
    NoPositionsError,
    Positions,
    no_fixes,
    speed_of,
)
from pipeline.georeference.text import text_of
from pipeline.georeference.times import GPS_EPOCH_S, LEAP_SECONDS, seconds

_SEPARATORS = ",;\t|"
_NO_FIX = frozenset(("0", "none", "no fix", "nofix", "invalid", "v", "false", "no", "1d"))
_WEEKS, _WEEK_S = 1024, 604_800.0  # GPS weeks until a ten-bit week number is 0 again (last in April 2019)
_MOST_BAD = 0.5  # share of rows that cannot be read, above which the table is refused
_GPS_NOW_S = (0.9e9, 1.65e9)  # GPS seconds of 2008 to 2032; as Unix time that is 1998 to 2022, so the header decides


@dataclass
class _Table:
    """columns: the cells' texts, by meaning; of: meaning -> column of the header; notes: sentences for the user."""

    columns: dict[str, list[str]]
    of: Mapping[str, Column]
    notes: list[str] = field(default_factory=list)

    def has(self, *names: str) -> bool:
        return all(name in self.columns for name in names)

    def numbers(self, name: str) -> Array:
        """(rows,) in metres, degrees, metres per second; NaN if a cell contains no number."""
        factor = self.of[name].unit
        read = angle_of if name in ("latitude", "longitude") else number_of
        return np.array([read(text) for text in self.columns[name]]) * (1.0 if factor is None else factor)

    def degrees(self, name: str) -> Array:
        """(rows,) latitudes or longitudes, south and west negative where a column of letters says so."""
        value = self.numbers(name)
        if self.has(f"{name}_letter"):
            sign = np.array([hemisphere_of(text) for text in self.columns[f"{name}_letter"]])
            value = np.where(np.isnan(sign), value, np.where(sign < 0, -np.abs(value), value))
        return value


def read_csv(data: bytes, name: str, *, crs: str | None = None, frame_names: Sequence[str] = ()) -> Positions:
    """Positions, or only speeds, from the bytes of a CSV file. name: of the file, for messages; crs: of coordinates
    that are not degrees (EPSG:n, or ecef); frame_names: of the drive's pictures, for tables that name pictures.

    Raises NoPositionsError in one line that says what was expected.
    """
    table = _read(data, name)
    clock, time_s, notes = _times(table, name, frame_names)
    fixes = _fixes(table, time_s, crs, name)
    speed = None
    if table.has("speed") and clock != "frame":
        speed = speed_of(time_s, table.numbers("speed"), of_receiver=not table.of["speed"].of_car)
        if speed is not None and table.of["speed"].unit is None:
            table.notes.append("its speeds name no unit and are taken as m/s")
    if fixes is None and speed is None:
        known = "latitude and longitude (or x, y with --positions.crs), or speed"
        raise NoPositionsError(f"{name}: no columns {known}; it has {', '.join(table.columns) or 'none that is known'}")
    what = "CSV" if fixes is not None else "speeds in CSV"
    sea = table.has("sea_altitude") and not table.has("altitude") and not table.has("separation")
    return Positions(
        f"{what} {name}", clock, no_fixes() if fixes is None else fixes, speed, sea, (*table.notes, *notes)
    )


def _read(data: bytes, name: str) -> _Table:
    lines = text_of(data).splitlines()
    start = 0  # some files have comments and titles above the header
    while start < min(len(lines), 30) and len(_known(_split(lines[start])[0])) < 2:
        start += 1
    if start >= min(len(lines), 30):
        first = visible(lines[0][:60]) if lines else ""
        raise NoPositionsError(f"{name}: no header line with time (or frame), latitude and longitude; begins {first!r}")
    header, separator = _split(lines[start])
    known = _known(header)
    body = "\n".join(line for line in lines[start + 1 :] if line.strip() and not line.lstrip().startswith("#"))
    columns: dict[str, list[str]] = {column.meaning: [] for column in known.values()}
    count = wider = 0
    for row in csv.reader(io.StringIO(body), delimiter=separator, skipinitialspace=True):
        if not any(cell.strip() for cell in row):
            continue
        count += 1
        wider += any(cell.strip() for cell in row[len(header) :])
        for place, column in known.items():
            columns[column.meaning].append(row[place].strip() if place < len(row) else "")
    if not next(iter(columns.values()), []):
        raise NoPositionsError(f"{name}: a header and no rows")
    if wider > _MOST_BAD * count:
        raise NoPositionsError(
            f"{name}: {wider} of {count} rows have more cells than the header's {len(header)}: decimal commas between "
            "commas? write points, or separate by semicolons"
        )
    return _Table(columns, {column.meaning: column for column in known.values()})


def _split(line: str) -> tuple[list[str], str]:
    separator = max(_SEPARATORS, key=line.count)
    if not line.count(separator) and len(line.split()) > 1:
        return line.split(), " "
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), []), separator


def _known(header: Sequence[str]) -> dict[int, Column]:
    """Columns with a known meaning, by number. Of several columns with one meaning, the first is used."""
    known: dict[int, Column] = {}
    taken: set[str] = set()
    for place, cell in enumerate(header):
        column = column_of(cell)
        if column is not None and column.meaning not in taken:
            taken.add(column.meaning)
            known[place] = column
    return known


def _times(table: _Table, name: str, frame_names: Sequence[str]) -> tuple[Clock, Array, list[str]]:
    """The clock, and a time (or frame number) for each row, NaN if it has none."""
    notes: list[str] = []
    if table.has("time"):
        texts = table.columns["time"]
        if table.has("date"):
            texts = [
                f"{day} {text}" if ":" in text else text for day, text in zip(table.columns["date"], texts, strict=True)
            ]
        unit = table.of["time"].unit
        if table.of["time"].of_week:
            return _of_week(table, notes)
        found = [_time(text, unit) for text in texts]
        time_s = np.array([one[0] for one in found])
        if np.isfinite(time_s).mean() < _MOST_BAD:
            raise NoPositionsError(f"{name}: the times cannot be read, the first is {visible(texts[0][:40])!r}")
        absolute = np.array([one[1] for one in found]) & np.isfinite(time_s)
        if any(one[2] for one in found):
            notes.append("its dates name no time zone and are taken as UTC")
        if table.of["time"].gps_time and absolute.any() and not any("-" in t or ":" in t for t in texts[:5]):
            low, high = _GPS_NOW_S
            if low < float(np.nanmedian(time_s)) < high:
                time_s = time_s + GPS_EPOCH_S - LEAP_SECONDS
                notes.append(f"its GPS times are taken as UTC less {LEAP_SECONDS} leap seconds")
        if absolute.sum() * 2 >= np.isfinite(time_s).sum():
            return "utc", time_s, notes
        if all(":" in text and "-" not in text for text in texts[:5]):
            return "day", time_s, notes
        return "drive", time_s, notes
    if table.has("frame"):
        return "frame", table.numbers("frame"), notes
    if table.has("image"):
        places = {image: number for number, image in enumerate(frame_names)}
        stems = {image.rpartition(".")[0]: number for image, number in places.items()}
        frames = []
        for text in table.columns["image"]:
            last = text.replace("\\", "/").rpartition("/")[2]
            frames.append(places.get(last, stems.get(last, stems.get(last.rpartition(".")[0], np.nan))))
        if not np.isfinite(np.array(frames, float)).any():
            raise NoPositionsError(
                f"{name}: none of its pictures is one of the drive, the first is {table.columns['image'][0][:60]!r}"
            )
        return "frame", np.array(frames, float), notes
    raise NoPositionsError(f"{name}: no column of times (time, timestamp, utc), frames or pictures")


def _of_week(table: _Table, notes: list[str]) -> tuple[Clock, Array, list[str]]:
    """Times in the GPS week (from midnight before Sunday), with the week's number where a column contains it."""
    utc = table.numbers("time") - LEAP_SECONDS
    notes.append(f"its times of the GPS week are taken as UTC plus {LEAP_SECONDS} leap seconds")
    if not table.has("week"):
        notes.append("no column has the GPS week: the day of the drive is assumed")
        return "day", utc, notes
    week = table.numbers("week")
    week = np.where(week < _WEEKS, week + 2 * _WEEKS, week)  # receivers that count weeks with ten bits
    return "utc", GPS_EPOCH_S + week * _WEEK_S + utc, notes


def _time(text: str, unit: float | None) -> tuple[float, bool, bool]:
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if text.count(":") >= 1 and "-" not in text and "/" not in text and text[:4].count(":") == 1:
        try:  # a clock without a date
            parts = [float(part) for part in text.rstrip("Zz").split(":")]
            return sum(part * size for part, size in zip(parts, (3600, 60, 1), strict=False)), False, False
        except ValueError:
            return np.nan, False, False
    try:
        return seconds(text, unit)
    except ValueError:
        return np.nan, False, False


def _fixes(table: _Table, time_s: Array, crs: str | None, name: str) -> Fixes | None:
    if table.has("latitude", "longitude"):
        latitude, longitude = table.degrees("latitude"), table.degrees("longitude")
        altitude = _altitude(table, len(time_s))
    elif table.has("x", "y"):
        if crs is None:
            raise NoPositionsError(
                f"{name}: coordinates x, y without degrees: say which they are by --positions.crs (EPSG:32632, or ecef)"
            )
        z = table.numbers("z") if table.has("z") else _altitude(table, len(time_s))
        latitude, longitude, altitude = geodetic_of(table.numbers("x"), table.numbers("y"), z, crs)
    else:
        return None
    accuracy, vertical = _accuracy(table, len(time_s))
    if table.has("fix"):
        none = np.array([text.strip().lower() in _NO_FIX for text in table.columns["fix"]])
        if none.all():
            raise NoPositionsError(f"{name}: its {len(none)} rows all say that there is no fix")
        latitude = np.where(none, np.nan, latitude)
        if none.any():
            table.notes.append(f"{int(none.sum())} of {len(none)} rows say that there is no fix")
    return Fixes(time_s, latitude, longitude, altitude, accuracy, vertical)


def _altitude(table: _Table, count: int) -> Array:
    if table.has("altitude"):
        return table.numbers("altitude")
    if table.has("sea_altitude"):
        return table.numbers("sea_altitude") + (table.numbers("separation") if table.has("separation") else 0.0)
    return np.full(count, np.nan)


def _accuracy(table: _Table, count: int) -> tuple[Array, Array]:
    """(rows,) horizontal and vertical deviations, NaN if unknown."""
    unknown = np.full(count, np.nan)
    accuracy = table.numbers("accuracy") if table.has("accuracy") else unknown
    if table.has("north_std", "east_std"):
        both = np.hypot(table.numbers("north_std"), table.numbers("east_std")) / np.sqrt(2)
        accuracy = np.where(np.isfinite(accuracy), accuracy, both)
    if table.has("hdop"):
        accuracy = np.where(np.isfinite(accuracy), accuracy, RANGE_ERROR_M * table.numbers("hdop"))
    vertical = table.numbers("vertical_accuracy") if table.has("vertical_accuracy") else unknown
    return accuracy, vertical
