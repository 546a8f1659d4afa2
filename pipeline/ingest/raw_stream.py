"""Bare streams of coded pictures (.hevc, .h264), which have no times: their frames are counted.

Comma2k19 and openpilot record them. A frame's time is its number over the rate that the stream says, else 25 a second,
which is what FFmpeg takes; where a data set has times of its own, those count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import av
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

_FORMATS = frozenset({"h264", "hevc"})
_USUAL_RATE = 25.0
_SECOND = 10**9


def is_raw(container: InputContainer) -> bool:
    """Whether an open file is a bare stream."""
    return container.format.name in _FORMATS


def rate_of(stream: VideoStream) -> float:
    """Frames a second."""
    return float(stream.average_rate or stream.base_rate or _USUAL_RATE)


def times_of(count: int, stream: VideoStream) -> list[int]:
    """Times of so many frames, nanoseconds from 0."""
    rate = rate_of(stream)
    return [round(number * _SECOND / rate) for number in range(count)]


def frames_from(packets: Iterable[Packet], stream: VideoStream, first_ns: int) -> Iterator[tuple[int, VideoFrame]]:
    """(time, decoded frame) from the key frame at or before first_ns; packets before it are not decoded.

    Where frames are shown in another order than they are stored, all is decoded: only then their numbers are sure.

    Args:
        packets: all of the stream, the empty one that drains the decoder among them.
    """
    rate = rate_of(stream)
    wanted = round(first_ns * rate / _SECOND)
    reorders = bool(stream.codec_context.has_b_frames)
    held: list[Packet] = []
    begin = number = 0
    for packet in packets:
        if packet.is_keyframe and number <= wanted and not reorders:
            held, begin = [], number
        held.append(packet)
        number += bool(packet.size)
        if number <= wanted and packet.size:
            continue
        for one in held:
            try:
                frames = one.decode()
            except av.FFmpegError:
                begin += 1  # its frame keeps its number and stays unmatched
                continue
            for frame in frames:
                yield round(begin * _SECOND / rate), frame
                begin += 1
        held = []
