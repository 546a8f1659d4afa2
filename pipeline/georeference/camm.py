"""Camera motion metadata in MP4 files (CAMM): positions of packet types 5 and 6.

Layout: developers.google.com/streetview/publish/camm-spec; little-endian, two reserved bytes and a type before each.
"""

from __future__ import annotations

import struct

import numpy as np

from pipeline.georeference.positions import NoPositionsError, Positions, fixes_of, speed_of

_NAN = float("nan")
_GPS = struct.Struct("<ddd")  # latitude, longitude, altitude
_GPS_WITH_QUALITY = struct.Struct("<didd fff fff f".replace(" ", ""))
"""GPS time, fix (0 none, 2, 3), latitude, longitude, altitude, horizontal and vertical accuracy, velocity east, north,
up, speed accuracy."""


def read_camm(packets: list[tuple[float, float, bytes]], name: str) -> Positions:
    """Positions from a CAMM track. packets: start and length in seconds on the video's clock, and bytes. If both types
    are present, only type 6 is used: type 5 repeats it.

    Raises NoPositionsError without a position, or without a fix.
    """
    plain: list[tuple[float, ...]] = []
    full: list[tuple[float, ...]] = []
    none = 0
    for start, _, data in packets:
        kind = struct.unpack_from("<HH", data)[1] if len(data) >= 4 else -1
        if kind == 5 and len(data) >= 4 + _GPS.size:
            plain.append((start, *_GPS.unpack_from(data, 4), _NAN, _NAN, _NAN))
        elif kind == 6 and len(data) >= 4 + _GPS_WITH_QUALITY.size:
            _, fix, lat, lon, up, across, vertical, east, north, _, _ = _GPS_WITH_QUALITY.unpack_from(data, 4)
            none += fix < 2
            speed = float(np.hypot(east, north))
            full.append((start, lat if fix >= 2 else _NAN, lon, up, across, vertical, speed))
    rows = np.array(full or plain).reshape(-1, 7)
    if not np.isfinite(rows[:, 1]).any():
        raise NoPositionsError(f"{name}: its camera motion metadata has no position" + (" with a fix" if none else ""))
    notes = (f"{none} of {len(rows)} samples have no fix",) if none else ()
    speed_told = speed_of(rows[:, 0], rows[:, 6])
    return Positions(f"CAMM in {name}", "drive", fixes_of(rows[:, :6].tolist()), speed_told, False, notes)
