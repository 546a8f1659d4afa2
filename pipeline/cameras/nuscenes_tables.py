"""Reads nuScenes' tables as far as they tell which calibration a picture has, and the calibrations themselves.

A record of sample_data.json names a picture and its calibrated sensor. The table has millions of records, so it is read
piecewise, and only the stretches of time are kept in which a camera has one calibration: a few thousand.
https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera
from pipeline.cameras.dataset_rigs import rigid_motion
from pipeline.cameras.fields import CalibrationError, Fields

_CAMERA = "__CAM_"  # LOG__CAM_FRONT__MICROSECONDS.jpg
_MOST_RECORD_BYTES = 2**20
_MOST_STRETCHES = 200_000  # nuScenes has some 5,000: six cameras of 850 scenes

Key = tuple[str, str]
"""A log and a camera."""


@dataclass
class Stretch:
    """The first and the last picture, in microseconds, of a camera with one calibration (its token), and their size."""

    first_us: int
    last_us: int
    token: str
    width: object
    height: object


@dataclass(frozen=True)
class Calibration:
    """A camera, and its pose on the car (4, 4), ego_from_camera."""

    camera: Camera
    pose: NDArray[np.float64]

    def is_like(self, other: Calibration) -> bool:
        """Whether both have the same numbers."""
        return self.camera == other.camera and bool((self.pose == other.pose).all())


def picture_key(name: str) -> tuple[Key, int] | None:
    """Log, camera and microseconds in the name of a picture; None for names of other files."""
    parts = name.rpartition("/")[2].rsplit("__", 2)
    time = parts[-1].partition(".")[0]
    if len(parts) != 3 or not parts[1].startswith("CAM_") or not (time.isascii() and time.isdecimal()):
        return None
    return ((parts[0], parts[1]), int(time)) if len(time) <= 18 else None


def read_stretches(blocks: Iterable[bytes], file: str) -> dict[Key, list[Stretch]]:
    """The stretches of each camera of each log.

    blocks: the contents of sample_data.json, in pieces of any length. Raises CalibrationError, with file and record,
    for contents that are no list of flat records, or that end early.
    """
    found: dict[tuple[Key, str], Stretch] = {}
    count, rest = 0, b""
    for block in blocks:
        rest += block
        end = rest.rfind(b"}") + 1
        if end == 0:
            if len(rest) > _MOST_RECORD_BYTES:
                raise CalibrationError(f"{file}: record {count}: expected less than {_MOST_RECORD_BYTES:,} bytes")
            continue
        records = _records(rest[:end], b"," if count else b"[", file, count)
        rest = rest[end:]
        for number, record in enumerate(records, count):
            _take(found, record, file, number)
        count += len(records)
        if len(found) > _MOST_STRETCHES:
            raise CalibrationError(f"{file}: expected at most {_MOST_STRETCHES:,} calibrations of cameras, got more")
    if rest.strip() != b"]" or not count:
        raise CalibrationError(f"{file}: expected a list of records, got {count:,} and no end of it; copy it again")
    stretches: dict[Key, list[Stretch]] = {}
    for (key, _), stretch in found.items():
        stretches.setdefault(key, []).append(stretch)
    return stretches


def _records(part: bytes, begin: bytes, file: str, count: int) -> Sequence[object]:
    """The records of a piece of a list, which begins with the list's bracket or a comma."""
    part = part.lstrip()
    try:
        if not part.startswith(begin):
            raise ValueError(f"expected {begin.decode()!r} before a record")
        records = json.loads(b"[" + part[1:] + b"]")
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:80]
        raise CalibrationError(f"{file}: behind record {count}: expected records of JSON, got {said}") from None
    assert isinstance(records, list)
    return records


def _take(found: dict[tuple[Key, str], Stretch], record: object, file: str, number: int) -> None:
    """Adds the picture of a record, if a camera took it."""
    fields = Fields(file, record if isinstance(record, Mapping) else {}, f"record {number}, ")
    name = fields.values.get("filename")
    if not isinstance(name, str):
        name = fields.text("filename")
    if _CAMERA not in name:
        return
    told = picture_key(name)
    if told is None:
        return
    token = fields.values.get("calibrated_sensor_token")
    if not isinstance(token, str):
        token = fields.text("calibrated_sensor_token")
    key, time = told
    stretch = found.get((key, token))
    if stretch is None:
        found[key, token] = Stretch(time, time, token, fields.values.get("width"), fields.values.get("height"))
    elif time < stretch.first_us:
        stretch.first_us = time
    elif time > stretch.last_us:
        stretch.last_us = time


def read_calibrated(data: bytes, file: str) -> dict[str, Mapping[str, object]]:
    """The records of calibrated_sensor.json by token. Raises CalibrationError."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:80]
        raise CalibrationError(f"{file}: expected JSON, got {said}") from None
    if not isinstance(values, list):
        raise CalibrationError(f"{file}: expected a list of records")
    records = {}
    for number, value in enumerate(values):
        fields = Fields(file, value if isinstance(value, Mapping) else {}, f"record {number}, ")
        records[fields.text("token")] = fields.values
    return records


def calibration(records: Mapping[str, Mapping[str, object]], file: str, stretch: Stretch) -> Calibration:
    """The calibration of a stretch; records: by token, of calibrated_sensor.json. Pixels there are counted from 0, and
    pictures have no distortion. Raises CalibrationError, with file, token and field."""
    if stretch.token not in records:
        raise CalibrationError(f"{file}: record {stretch.token[:40]!r}, which sample_data.json names, is missing")
    fields = Fields(file, records[stretch.token], f"record {stretch.token[:40]!r}, ")
    rows = fields.value("camera_intrinsic")
    if not isinstance(rows, list) or len(rows) != 3:
        raise fields.error("camera_intrinsic", "3 rows of 3 numbers", rows)
    by_row = Fields(file, {f"camera_intrinsic[{i}]": row for i, row in enumerate(rows)}, fields.where)
    (fx, skew, cx), (zero, fy, cy), last = (by_row.numbers(row, 3) for row in by_row.values)
    if fx <= 0 or fy <= 0 or skew or zero or last != [0, 0, 1]:
        raise fields.error("camera_intrinsic", "fx 0 cx, 0 fy cy, 0 0 1 with focal lengths above zero", rows)
    of_pictures = Fields("sample_data.json", {"width": stretch.width, "height": stretch.height}, fields.where)
    size = of_pictures.size("width"), of_pictures.size("height")
    camera = fields.camera(
        lambda: Camera("pinhole", *size, fx, fy, cx + 0.5, cy + 0.5),
        ("camera_intrinsic[0][2]", "camera_intrinsic[1][2]"),
    )
    pose = rigid_motion(fields, "rotation", fields.numbers("rotation", 4), fields.numbers("translation", 3))
    return Calibration(camera, pose)
