"""GoPro's telemetry in its videos (GPMF): GPS5 and GPS9 of the camera, GPRI and GLPI of a Karma drone.

GPMF is nested: four letters, a type, a size, a count and the bytes, padded to four (github.com/gopro/gpmf-parser,
"GPMF structure"). Entries before the data of a stream apply to them: SCAL is the divisor, GPSF the fix, GPSP the
dilution of precision times 100, TYPE the layout of a structure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from pipeline.georeference.positions import RANGE_ERROR_M, NoPositionsError, Positions, fixes_of, speed_of

_NAN = float("nan")
_FORMATS = {"b": "b", "B": "B", "s": "h", "S": "H", "l": "i", "L": "I", "j": "q", "J": "Q", "f": "f", "d": "d"}
_DATA = ("GPS9", "GPS5", "GLPI", "GPRI")
"""The best first. GPS9 has the fix and the precision of every sample; GLPI is the estimate by which a drone flies."""
_NO_DOP = 99.0  # dilution of precision that a receiver without a fix reports


@dataclass
class _Stream:
    scale: tuple[float, ...] = (1.0,)
    layout: str = ""
    fix: int | None = None
    dop: float = _NAN
    sea_level: bool = False
    data: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)


def read_gopro(packets: list[tuple[float, float, bytes]], name: str) -> Positions:
    """Positions from a GPMF track. packets: start and length in seconds on the video's clock, and bytes. The samples of
    a packet are spread evenly over its length.

    Raises NoPositionsError without any of the four kinds of data, or without a fix.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    sea_level, cut, none = False, 0, 0
    for start, length, data in packets:
        streams, whole = _streams(data)
        cut += not whole
        for stream in streams:
            for kind, samples in stream.data.items():
                sea_level |= stream.sea_level or kind in ("GLPI", "GPRI")
                for number, sample in enumerate(samples):
                    row = _row(kind, sample, stream)
                    none += row is None
                    # a sample without a fix keeps its place as an unknown position
                    values = (_NAN,) * 6 if row is None else row
                    rows.setdefault(kind, []).append((start + length * number / len(samples), *values))
    kind = next((one for one in _DATA if one in rows), "")
    if not kind:
        raise NoPositionsError(f"{name}: its GoPro telemetry has no positions (GPS5, GPS9, GPRI or GLPI)")
    table = np.array(rows[kind])
    if not np.isfinite(table[:, 1]).any():
        raise NoPositionsError(f"{name}: none of {len(table)} {kind} samples has a fix")
    notes = [f"{kind}: {int(np.isfinite(table[:, 1]).sum())} of {len(table)} samples have a fix"] if none else []
    if cut:
        notes.append(f"{cut} packets of telemetry are damaged")
    speed = speed_of(table[:, 0], table[:, 6])
    return Positions(
        f"GoPro {kind} in {name}", "drive", fixes_of(table[:, :6].tolist()), speed, sea_level, tuple(notes)
    )


def _streams(data: bytes) -> tuple[list[_Stream], bool]:
    """All streams of a packet, and whether it is whole."""
    found: list[_Stream] = []
    whole = True
    for key, _, _, value in _items(data):
        if key == "DEVC":
            for inner, _, _, stream_value in _items(value):
                if inner == "STRM":
                    stream, good = _stream(stream_value)
                    found.append(stream)
                    whole &= good
        elif key == "":
            whole = False
    return found, whole


def _stream(data: bytes) -> tuple[_Stream, bool]:
    stream, whole = _Stream(), True
    for key, kind, size, value in _items(data):
        try:
            if key == "SCAL":
                stream.scale = tuple(float(x) or 1.0 for x in _values(kind, value))
            elif key == "TYPE":
                stream.layout = _layout(value.rstrip(b"\0").decode("ascii", "replace"))
            elif key == "GPSF":
                stream.fix = int(_values(kind, value)[0])
            elif key == "GPSP":
                stream.dop = float(_values(kind, value)[0]) / 100
            elif key == "GPSA":
                stream.sea_level = value.startswith(b"MSL")
            elif key in _DATA:
                stream.data.setdefault(key, []).extend(_samples(kind, size, value, stream))
            elif key == "":
                whole = False
        except (struct.error, KeyError, IndexError, ZeroDivisionError):
            whole = False
    return stream, whole


def _items(data: bytes) -> Iterator[tuple[str, str, int, bytes]]:
    """Key, type, size of a sample and bytes of each entry; the key is '' where the rest is damaged."""
    at = 0
    while at + 8 <= len(data):
        key, kind, size, count = struct.unpack_from(">4scBH", data, at)
        length = size * count
        if key == b"\0\0\0\0":
            return
        if at + 8 + length > len(data):
            yield "", "", 0, b""
            return
        yield key.decode("latin1"), kind.decode("latin1"), size, data[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4


def _values(kind: str, value: bytes) -> tuple[float, ...]:
    code = _FORMATS[kind]
    return struct.unpack(f">{len(value) // struct.calcsize(code)}{code}", value)


def _layout(text: str) -> str:
    """The layout without repetitions: TYPE may contain l[3] instead of lll."""
    out = ""
    while text:
        letter, text = text[0], text[1:]
        times = 1
        if text.startswith("["):
            inside, _, text = text[1:].partition("]")
            times = int(inside) if inside.isdigit() else 1
        out += letter * min(times, 64)
    return out


def _samples(kind: str, size: int, value: bytes, stream: _Stream) -> list[tuple[float, ...]]:
    layout = stream.layout if kind == "?" else kind * (size // struct.calcsize(_FORMATS[kind]))
    code = ">" + "".join(_FORMATS[letter] for letter in layout)
    step = struct.calcsize(code)
    scale = stream.scale if len(stream.scale) == len(layout) else stream.scale[:1] * len(layout)
    return [
        tuple(x / s for x, s in zip(struct.unpack_from(code, value, at), scale, strict=True))
        for at in range(0, len(value) - step + 1, step)
    ]


def _row(kind: str, sample: tuple[float, ...], stream: _Stream) -> tuple[float, ...] | None:
    """Latitude, longitude, altitude, horizontal and vertical deviation, speed; None where there is no fix."""
    if kind == "GPS5":
        if stream.fix == 0 or len(sample) < 5:
            return None
        return (*sample[:3], _of_dop(stream.dop), _NAN, sample[3])
    if kind == "GPS9":
        if len(sample) < 9 or sample[8] < 2:
            return None
        return (*sample[:3], _of_dop(sample[7]), _NAN, sample[3])
    if kind == "GPRI":  # time, latitude, longitude, altitude, eph, epv, speed, course, fix, satellites
        if len(sample) < 10 or sample[8] < 2:
            return None
        # MAVLink's GPS_RAW_INT: eph and epv are dilutions of precision
        return (*sample[1:4], _of_dop(sample[4]), _of_dop(sample[5]), sample[6])
    if len(sample) < 9:  # GLPI: time, latitude, longitude, altitude, altitude above home, three speeds, heading
        return None
    return (*sample[1:4], _NAN, _NAN, float(np.hypot(sample[5], sample[6])))


def _of_dop(dop: float) -> float:
    return RANGE_ERROR_M * dop if 0 < dop < _NO_DOP else _NAN
