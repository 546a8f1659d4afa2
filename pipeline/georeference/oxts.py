"""KITTI raw's OXTS packets: oxts/data/0000000000.txt ... of 30 numbers each, and oxts/timestamps.txt (Geiger et al.
2013, section III; dataformat.txt of the data set): latitude, longitude, altitude, ..., velocities, accuracies."""

from __future__ import annotations

import numpy as np

from pipeline import storage
from pipeline.common.fixes import Fixes
from pipeline.georeference.positions import NoPositionsError, Positions, speed_of
from pipeline.ingest.frame_times import read_times

_NUMBERS = 30
_LAT, _LON, _ALT = 0, 1, 2
_FORWARD, _LEFTWARD = 8, 9
_POSITION_ACCURACY = 23


def read_oxts(folder: str) -> Positions:
    """The packets of an oxts folder: one fix and one speed each. Times are UTC with timestamps.txt, else numbers of
    packets (KITTI raw has one packet per frame).

    Raises NoPositionsError for a folder without packets; StorageError.
    """
    data = storage.join(folder, "data")
    try:
        files = storage.list_files(data)
    except storage.NotFoundError:
        raise NoPositionsError(f"{storage.redacted(folder)}: an oxts folder without data/") from None
    names = sorted(name for name in files.names if name.endswith(".txt"))
    texts = [storage.read_bytes(storage.join(data, name)).decode("ascii", "replace") for name in names]
    rows = [_numbers(text) for text in texts]
    if not any(row is not None for row in rows):
        raise NoPositionsError(f"{storage.redacted(folder)}: no packet of 30 numbers in data/")
    none = np.full(_NUMBERS, np.nan)
    table = np.array([none if row is None else row for row in rows])
    broken = sum(row is None for row in rows)
    notes = [f"{broken} of {len(rows)} packets cannot be read"] if broken else []
    try:
        place = storage.join(folder, "timestamps.txt")
        stamps = np.array(read_times(storage.read_bytes(place), place), np.float64) * 1e-9
        numbers = [int(name[:-4]) for name in names if name[:-4].isdecimal()]
        time_s = np.array([stamps[n] if n < len(stamps) else np.nan for n in numbers])
        if len(time_s) != len(table):
            raise NoPositionsError(f"{storage.redacted(place)}: {len(stamps)} times for {len(table)} packets")
        clock = "utc"
    except storage.NotFoundError:
        time_s, clock = np.array([float(name[:-4]) for name in names]), "frame"
        notes.append("no timestamps.txt: packets are taken as of the frames of the same number")
    accuracy = table[:, _POSITION_ACCURACY]
    fixes = Fixes(time_s, table[:, _LAT], table[:, _LON], table[:, _ALT], accuracy)
    speed = speed_of(time_s, np.hypot(table[:, _FORWARD], table[:, _LEFTWARD])) if clock == "utc" else None
    return Positions("KITTI OXTS", "utc" if clock == "utc" else "frame", fixes, speed, False, tuple(notes))


def _numbers(text: str) -> np.ndarray | None:
    try:
        row = np.array([float(word) for word in text.split()])
    except ValueError:
        return None
    return row if len(row) == _NUMBERS else None
