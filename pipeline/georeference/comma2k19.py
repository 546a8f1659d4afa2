"""Segments of comma2k19 (Schafer et al. 2018): processed_log/GNSS/live_gnss_ublox (or _qcom) and CAN/speed, NumPy
arrays `t` and `value`; the frames' times are in global_pose/frame_times. All on the phone's boot clock."""

from __future__ import annotations

import io

import numpy as np

from pipeline import storage
from pipeline.common.fixes import Fixes
from pipeline.georeference.positions import Array, NoPositionsError, Positions, no_fixes, speed_of

_RECEIVERS = ("live_gnss_ublox", "live_gnss_qcom")
_LAT, _LON, _SPEED, _UTC, _ALT, _BEARING = range(6)


def is_segment(folder: str) -> bool:
    """Whether a folder is a segment of the data set."""
    return storage.exists(storage.join(folder, "processed_log", "GNSS")) or storage.exists(
        storage.join(folder, "processed_log", "CAN", "speed", "t")
    )


def read_comma2k19(folder: str) -> Positions:
    """Fixes of the better receiver, and the car's speed, in seconds from the first frame.

    Raises NoPositionsError without both, or without the frames' times; StorageError.
    """
    frames = _array(folder, "global_pose", "frame_times")
    if frames is None or not len(frames):
        raise NoPositionsError(f"{storage.redacted(folder)}: no global_pose/frame_times, which its times count by")
    start = float(frames[0])
    fixes, source = no_fixes(), ""
    for receiver in _RECEIVERS:
        t = _array(folder, "processed_log", "GNSS", receiver, "t")
        value = _array(folder, "processed_log", "GNSS", receiver, "value")
        if t is not None and value is not None and value.ndim == 2 and value.shape == (len(t), 6) and len(t):
            fixes, source = Fixes(t - start, value[:, _LAT], value[:, _LON], value[:, _ALT]), receiver
            break
    t = _array(folder, "processed_log", "CAN", "speed", "t")
    value = _array(folder, "processed_log", "CAN", "speed", "value")
    speed = None
    if t is not None and value is not None and value.size == len(t):
        speed = speed_of(t - start, value.reshape(-1), of_receiver=False)
    if not len(fixes) and speed is None:
        raise NoPositionsError(f"{storage.redacted(folder)}: a comma2k19 segment without GNSS and speed")
    return Positions(f"comma2k19 {source or 'speed'}", "drive", fixes, speed)


def _array(folder: str, *parts: str) -> Array | None:
    try:
        data = storage.read_bytes(storage.join(folder, *parts))
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float64)
    except (storage.NotFoundError, ValueError, EOFError, TypeError):
        return None
