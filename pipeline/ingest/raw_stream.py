"""Raw video streams without a container (.hevc, .h264), which have no times: frames are identified by their numbers.

Comma2k19 and openpilot record them. A frame's time is its number divided by the frame rate of the stream, or by 25 a
second, FFmpeg's default. Times of a data set replace these.
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
    """Whether an open file is a raw stream."""
    return container.format.name in _FORMATS


def rate_of(stream: VideoStream) -> float:
    """Frames a second."""
    return float(stream.average_rate or stream.base_rate or _USUAL_RATE)


def times_of(count: int, stream: VideoStream) -> list[int]:
    """Times of this many frames, in nanoseconds, beginning with 0."""
    rate = rate_of(stream)
    return [round(number * _SECOND / rate) for number in range(count)]


def frames_from(packets: Iterable[Packet], stream: VideoStream, first_ns: int) -> Iterator[tuple[int, VideoFrame]]:
    """(time, decoded frame) from the key frame at or before first_ns. Packets before it are not decoded.

    Where frames are stored in another order than they are shown, all packets are decoded: only then their numbers are
    known.

    Args:
        packets: all packets of the stream, including the empty one that flushes the decoder.
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
                begin += 1  # its frame keeps its number, and no image is yielded for it
                continue
            for frame in frames:
                yield round(begin * _SECOND / rate), frame
                begin += 1
        held = []
