"""Finds the calibrations of nuScenes' cameras: ROOT/v1.0-*/ for ROOT/samples/CAM_FRONT/ and ROOT/sweeps/CAM_FRONT/.

Scenes have different cars and calibrations, so a calibration is looked up by the pictures of the scene. The large
table, sample_data.json (more than 1 GB for all of nuScenes), is read once by each process, piecewise, and only the
stretches of time with one calibration are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline import storage
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.nuscenes_tables import (
    Calibration,
    Key,
    Stretch,
    calibration,
    picture_key,
    read_calibrated,
    read_stretches,
)
from pipeline.ingest.nuscenes import FOLDERS
from pipeline.storage import NotFoundError, StoredFile

_VERSIONS = "v1.0-"  # mini, trainval, test
_PICTURES, _CALIBRATED = "sample_data.json", "calibrated_sensor.json"
MOST_BYTES = 4 * 2**30
"""Most bytes of sample_data.json that are read."""
_CALIBRATED_BYTES = 2**28
_BLOCK_BYTES = 2**22
_KEPT = 4  # tables of so many versions


@dataclass(frozen=True)
class Found:
    """The calibration of a scene's camera, and the file that it is from; or why it has none where tables are there."""

    calibration: Calibration | None = None
    file: str = ""
    why_not: str = ""


@dataclass(frozen=True)
class _Tables:
    """The tables of one version: stretches by log and camera; records by token, and the file that they are from."""

    name: str
    stretches: Mapping[Key, Sequence[Stretch]]
    records: Mapping[str, Mapping[str, object]]
    file: str


def scene_calibration(folder: str, pictures: Sequence[str]) -> Found:
    """The calibration of the camera in ROOT/samples/CAM_FRONT or the like.

    pictures: names of the first and the last picture that are used; all between them are of the same camera. Without
    tables, or for other folders, there is neither a calibration nor a reason. Raises CalibrationError, with file and
    field, for a damaged table; StorageError.
    """
    root, kind = storage.parent_and_name(storage.parent_and_name(folder)[0])
    told = [picture_key(one) for one in pictures]
    if kind not in FOLDERS or not told or told[0] is None or told[-1] is None:
        return Found()
    key, first = told[0]
    if told[-1][0] != key:
        return Found(why_not="its pictures are of several logs") if _versions(root) else Found()
    last = told[-1][1]
    reasons = []
    for version in _versions(root):
        tables = _tables(version)
        if isinstance(tables, str):
            reasons.append(tables)
            continue
        meet = [one for one in tables.stretches.get(key, ()) if one.first_us <= last and one.last_us >= first]
        if not meet:
            reasons.append(f"{tables.name} does not name its pictures")
            continue
        found = [calibration(tables.records, tables.file, stretch) for stretch in meet]
        if all(one.is_like(found[0]) for one in found):
            return Found(found[0], tables.file)
        reasons.append(f"its pictures are of several scenes with different calibrations in {tables.name}")
    return Found(why_not="; ".join(reasons))


def _versions(root: str) -> list[tuple[StoredFile, str]]:
    """The large table of each version below `root`, the smallest first, and the place of its other table."""
    found = []
    for folder in storage.list_folders(root):
        if folder.startswith(_VERSIONS):
            try:
                table = storage.stored_file(storage.join(root, folder, _PICTURES))
            except NotFoundError:
                continue
            found.append((table, storage.join(root, folder, _CALIBRATED)))
    return sorted(found, key=lambda one: one[0].size)


_kept: dict[StoredFile, _Tables] = {}
_lock = threading.Lock()  # threads that plan at the same time wait for the one that reads


def _tables(version: tuple[StoredFile, str]) -> _Tables | str:
    """The tables of a version; or why they are not used."""
    table, place = version
    name = "/".join(table.uri.rsplit("/", 2)[-2:])
    if table.size > MOST_BYTES:
        return f"{name} was not read: it has {table.size:,} bytes, more than {MOST_BYTES:,}"
    with _lock:
        if table not in _kept:
            try:
                data = storage.read_bytes(place, _CALIBRATED_BYTES + 1)
            except NotFoundError:
                return f"there is no {_CALIBRATED} beside {name}"
            file = storage.redacted(place)
            if len(data) > _CALIBRATED_BYTES:
                raise CalibrationError(f"{file}: expected at most {_CALIBRATED_BYTES:,} bytes, got more")
            stretches = read_stretches(_blocks(table.uri), storage.redacted(table.uri))
            used = {one.token for several in stretches.values() for one in several}
            records = {token: record for token, record in read_calibrated(data, file).items() if token in used}
            while len(_kept) >= _KEPT:
                del _kept[next(iter(_kept))]
            _kept[table] = _Tables(name, stretches, records, file)
        return _kept[table]


def _blocks(uri: str) -> Iterator[bytes]:
    left = MOST_BYTES  # a file may grow
    with storage.open_input(uri) as file:
        while left > 0 and (block := file.read(_BLOCK_BYTES)):
            left -= len(block)
            yield block
