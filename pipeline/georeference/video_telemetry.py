"""Reads positions that cameras write into videos: tracks of GPMF (GoPro) and CAMM, BlackVue's box of NMEA sentences."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, Literal

import av
import numpy as np
from av.container import InputContainer
from av.stream import Stream

from pipeline import storage
from pipeline.common.fixes import Fixes
from pipeline.georeference.camm import read_camm
from pipeline.georeference.gopro import read_gopro
from pipeline.georeference.nmea import read_nmea
from pipeline.georeference.positions import NoPositionsError, Positions
from pipeline.ingest.video import is_video_name

Kind = Literal["gopro", "camm", "blackvue"]

_GOPRO_TAG, _CAMM_TAG = b"gpmd", b"camm"
_BLACKVUE_LINE = re.compile(rb"\[(\d{13})\]\s*(\$[A-Z]{2}[A-Z]{3},[\x20-\x7e]*)")
_MOST_BOX = 64 << 20
_MP4 = (".mp4", ".mov", ".m4v", ".360", ".insv", ".3gp")


def telemetry_kind(uri: str) -> Kind | None:
    """The kind of telemetry in a video, from its headers; None without any, or if it is no MP4. Raises StorageError."""
    name = storage.parent_and_name(uri)[1].lower()
    if not name.endswith(_MP4):
        return None
    with storage.open_input(uri) as file:
        try:
            with av.open(file, metadata_errors="ignore") as container:
                for stream in container.streams:
                    kind = _kind_of(stream)
                    if kind is not None:
                        return kind
        except (av.FFmpegError, ValueError):
            return None
        return "blackvue" if _blackvue_box(file, peek=True) else None


def read_telemetry(uri: str) -> Positions:
    """The positions in a video, on its own clock. Raises NoPositionsError without any; StorageError."""
    name = storage.parent_and_name(uri)[1]
    kind = telemetry_kind(uri)
    if kind is None:
        raise NoPositionsError(f"{name}: no positions in it that are known (GoPro GPMF, CAMM, BlackVue)")
    with storage.open_input(uri) as file:
        if kind == "blackvue":
            return _read_blackvue(_blackvue_box(file), name)
        try:
            with av.open(file, metadata_errors="ignore") as container:
                packets = list(_packets(container, kind))
        except av.FFmpegError as error:
            raise NoPositionsError(f"{name}: its telemetry cannot be read ({error.strerror})") from None
    return read_gopro(packets, name) if kind == "gopro" else read_camm(packets, name)


def is_video(uri: str) -> bool:
    """Whether a file is taken for a video by its name."""
    return is_video_name(storage.parent_and_name(uri)[1])


def _kind_of(stream: Stream) -> Kind | None:
    tag = struct.pack("<I", stream.codec_tag) if isinstance(getattr(stream, "codec_tag", None), int) else b""
    handler = str(stream.metadata.get("handler_name", ""))
    if stream.type == "data" and (tag == _GOPRO_TAG or "GoPro MET" in handler):
        return "gopro"
    if stream.type == "data" and (tag == _CAMM_TAG or "CameraMetadataMotionHandler" in handler):
        return "camm"
    return None


def _packets(container: InputContainer, kind: Kind) -> Iterator[tuple[float, float, bytes]]:
    """Start and length (seconds from the start of the video) and bytes of each packet of a track."""
    stream = next(stream for stream in container.streams if _kind_of(stream) == kind)
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            base = float(packet.time_base)
            yield packet.pts * base, (packet.duration or 0) * base, bytes(packet)


def _blackvue_box(file: BinaryIO, *, peek: bool = False) -> bytes:
    """The text of the box `gps ` inside `free` of an MP4; empty without one."""
    for kind, start, size in _boxes(file, 0, None):
        if kind != b"free" or size < 16:
            continue
        for inner, inner_start, inner_size in _boxes(file, start, start + size):
            if inner == b"gps ":
                file.seek(inner_start)
                data = file.read(min(inner_size, 4096 if peek else _MOST_BOX))
                return data if b"$G" in data or not peek else b""
    return b""


def _boxes(file: BinaryIO, at: int, end: int | None) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and size of the content of each box (ISO 14496-12) from `at` to `end`; None is the file's end."""
    while end is None or at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        begin = 8
        if size == 1 and len(head) == 16:
            size, begin = struct.unpack(">Q", head[8:])[0], 16
        if size == 0 or size < begin or (end is not None and at + size > end):
            return
        yield kind, at + begin, size - begin
        at += size


def _read_blackvue(data: bytes, name: str) -> Positions:
    """Positions from lines with the camera's clock (milliseconds since 1970) and an NMEA sentence. The first line is
    written when the recording begins, so times count from there."""
    lines = _BLACKVUE_LINE.findall(data)
    if not lines:
        raise NoPositionsError(f"{name}: its box of positions holds no sentence")
    read = read_nmea(b"\r\n".join(sentence for _, sentence in lines), name)
    # The camera's clock of every position: that of the sentence (GGA, else RMC) that told it.
    first = int(lines[0][0])
    clocks: dict[float, float] = {}
    for stamp, sentence in lines:
        fields = sentence.split(b",")
        if fields[0][3:] in (b"GGA", b"RMC", b"GNS") and fields[1][:6].isdigit():
            text = fields[1].decode("ascii", "replace")
            of_day = int(text[:2]) * 3600 + int(text[2:4]) * 60 + float(text[4:])
            clocks.setdefault(round(of_day, 3), (int(stamp) - first) / 1000)
    time_s = np.array([clocks.get(round(t % 86_400.0, 3), np.nan) for t in read.fixes.time_s])
    fixes = read.fixes
    speed = read.speed
    if speed is not None:
        speed = replace(speed, time_s=np.array([clocks.get(round(t % 86_400.0, 3), np.nan) for t in speed.time_s]))
    moved = Fixes(time_s, fixes.latitude, fixes.longitude, fixes.altitude, fixes.accuracy, fixes.vertical_accuracy)
    return replace(read, source=f"BlackVue in {name}", clock="drive", fixes=moved, speed=speed)
