"""Video files through PyAV: the time of every frame without decoding, and single frames by their time.

A frame is named by its presentation time in nanoseconds, so that any segment can be decoded on its own: seek
to the key frame before, decode, match times. Both functions here round times the same way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from PIL import Image

from pipeline import storage
from pipeline.errors import DecodeError, StorageError
from pipeline.ingest.preprocess import MAX_PIXELS

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg")

_MATROSKA_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # end of the last frame


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in the order they are shown."""

    timestamps_ns: tuple[int, ...]  # strictly increasing; those of missing frames are extrapolated
    missing: int  # frames at the end that the header promises and the file does not hold
    width: int
    height: int


def read_timeline(uri: str) -> Timeline:
    """Read the times of all frames by going through the packets; nothing is decoded.

    Raises:
        DecodeError: no video in the file, no index (a recording cut off before that was written), no times.
        StorageError: the store says so.
    """
    with storage.open_input(uri) as file, _opened(file, uri) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        width, height = int(context.width), int(context.height)
        _check_size(width, height, uri)
        times: list[int] = []
        packets, untimed = 0, 0
        for packet in _packets(container, stream):
            packets += 1
            if packet.is_discard:  # cut away by an edit list: decoded for others' sake, never shown
                continue
            if packet.pts is None:
                untimed += 1
                continue
            times.append(_nanoseconds(packet.pts, stream.time_base))
        if untimed or len(set(times)) != len(times):
            raise DecodeError(
                f"{uri}: expected a time of its own for every video frame, got {untimed} without and "
                f"{len(times) - len(set(times))} repeated; re-wrap it (ffmpeg -i IN -c copy OUT.mp4)"
            )
        if not times:
            raise DecodeError(f"{uri}: the video has no frames")
        times.sort()
        missing = _missing_at_end(stream, packets, times)
    interval = _interval(times)
    times += [times[-1] + round(interval * (k + 1)) for k in range(missing)]
    return Timeline(tuple(times), missing, width, height)


def decode_at(uri: str, wanted_ns: Sequence[int]) -> Iterator[Image.Image | DecodeError]:
    """Decode the frames shown at the given times (increasing); one image, or the reason why not, for each.

    Raises:
        StorageError: the store does not answer, or the file is not there.
    """
    pending = list(wanted_ns)
    if not pending:
        return
    reason = DecodeError("the video ends early: nothing decodable from this frame on")
    try:
        for shown, frame in _shown_from(uri, pending[0]):
            while pending and pending[0] < shown:
                pending.pop(0)
                yield DecodeError("the video frame cannot be decoded")
            if pending and pending[0] == shown:
                pending.pop(0)
                yield DecodeError("the video frame is corrupt") if frame.is_corrupt else frame.to_image()
            if not pending:
                return
    except DecodeError as error:
        reason = error
    for _ in pending:
        yield reason


def _shown_from(uri: str, first_ns: int) -> Iterator[tuple[int, Any]]:
    """(time, frame) from the key frame at or before first_ns; where an index misleads, from the start."""
    for seek in (True, False):
        with storage.open_input(uri) as file, _opened(file, uri) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # a task has one core; threads would also delay frames at errors
            if seek:
                try:
                    target = int(Fraction(first_ns, 10**9) / stream.time_base)
                    container.seek(target, stream=stream, backward=True)
                except av.FFmpegError:
                    continue
            frames = (
                (_nanoseconds(frame.pts, stream.time_base), frame)
                for frame in _decoded(container, stream)
                if frame.pts is not None
            )
            first = next(frames, None)
            if seek and (first is None or first[0] > first_ns):
                continue
            if first is not None:
                yield first
                yield from frames
            return


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    for packet in _packets(container, stream, flush=True):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue  # the frames it held stay unmatched and are reported by whoever asked for them


def _packets(container: Any, stream: Any, flush: bool = False) -> Iterator[Any]:
    """Packets until the end or an unreadable one; with `flush` also the empty one that drains a decoder."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size or flush:
            yield packet


def _missing_at_end(stream: Any, packets: int, times: list[int]) -> int:
    """How many frames the file's header promises beyond the last one; zero where it promises nothing."""
    interval = _interval(times)
    if stream.frames and stream.duration:  # MP4, MOV, AVI
        # Edit lists also make packets fewer than the header says; only time tells that the end is missing.
        begin = stream.start_time if stream.start_time is not None else 0
        end = _nanoseconds(begin + stream.duration, stream.time_base)
        interval = interval or _nanoseconds(stream.duration, stream.time_base) / stream.frames
        return max(0, min(stream.frames - packets, round((end - times[-1]) / interval) - 1))
    promised = _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if promised is None or not interval:
        return 0
    hours, minutes, seconds = (Fraction(part) for part in promised.groups())
    gap = round((hours * 3600 + minutes * 60 + seconds) * 10**9) - times[-1]
    # Where frames come at varying times the last one may simply be shown for long.
    longest = max(b - a for a, b in itertools.pairwise(times))
    return max(0, round(gap / interval) - 1) if gap > 2 * longest else 0


def _interval(times: list[int]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def _nanoseconds(ticks: int, time_base: Fraction) -> int:
    return round(ticks * time_base * 10**9)


def _opened(file: Any, uri: str) -> Any:
    try:
        container = av.open(file, metadata_errors="ignore")
    except StorageError:
        raise
    except Exception as error:  # FFmpeg's errors, and what demuxers make of broken bytes
        said = (str(error).splitlines() or [""])[0][:120]
        raise DecodeError(f"{uri}: cannot be opened as a video, incomplete or not one ({said})") from None
    if not container.streams.video:
        container.close()
        raise DecodeError(f"{uri}: expected a video, got a file without a picture stream")
    return container


def _check_size(width: int, height: int, uri: str) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise DecodeError(f"{uri}: expected 1 to {MAX_PIXELS} pixels a frame, got {width}x{height}")
