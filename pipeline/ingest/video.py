"""Reads video files with PyAV: the times of all frames without decoding them, and single frames by their time.

A frame is identified by its presentation time in nanoseconds, so that any segment can be decoded independently: seek to
the key frame before it, decode, compare times. All functions here round times in the same way.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import BinaryIO

import av
from av import Packet, VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from pipeline import storage
from pipeline.cameras.orientation import is_on_its_side, orientation_of_turn, upright
from pipeline.errors import DecodeError, StorageError
from pipeline.ingest import raw_stream
from pipeline.ingest.preprocess import MAX_PIXELS

# Containers that PyAV opens and that cameras write.
_MP4 = (".mp4", ".mov", ".m4v", ".3gp", ".3g2", ".f4v", ".insv")
_OTHER = (".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv", ".mxf", ".ivf", ".dav")
_STREAMS = (".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".m2v", ".vob", ".h264", ".264", ".h265", ".265", ".hevc")
SUFFIXES = (*_MP4, *_OTHER, *_STREAMS, ".mjpeg", ".mjpg")

FRAME_MARK = "#frame="
"""Stands between a video's URI and a frame's number in URIs of frames."""

_MATROSKA_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # time at the end of the last frame


def is_video_name(name: str) -> bool:
    """Whether a file name is that of a video; hidden files are not."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Timeline:
    """The frames of a video in the order they are shown."""

    timestamps_ns: tuple[int, ...]  # strictly increasing
    width: int  # of a shown frame: upright, with square pixels
    height: int
    orientation: int = 1  # how stored frames are turned to be upright, as an EXIF orientation
    notes: tuple[str, ...] = ()  # oddities of the file, one sentence each
    missing: int = 0  # frames after the last one that the header announces


@dataclass(frozen=True)
class ClipHeader:
    """The header of a video: its length, the time of its first frame (above 0 in pieces of a longer film), and when it
    was recorded (since 1970; None where unknown), in nanoseconds."""

    duration_ns: int
    start_ns: int
    created_ns: int | None


def read_clip_header(uri: str) -> ClipHeader | None:
    """The header of a video; None where it cannot be opened or has no length. Raises StorageError."""
    try:
        with storage.open_input(uri) as file, _opened(file, uri) as container:
            if not container.duration or container.duration < 0:
                return None
            created = None
            with contextlib.suppress(ValueError):
                moment = datetime.fromisoformat(container.metadata.get("creation_time", ""))
                created = round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 10**9)
            return ClipHeader(container.duration * 1000, (container.start_time or 0) * 1000, created)
    except DecodeError:
        return None


def read_timeline(uri: str, turn: int | None = None) -> Timeline:
    """Read the times of all frames from the packets. Only the first picture is decoded, for its orientation.

    turn: degrees to the right by which stored frames are turned, instead of the value in the file.

    Raises:
        DecodeError: no video in the file, no index (the recording was cut off before it was written), no times.
        StorageError: the store failed.
    """
    notes: list[str] = []
    with storage.open_input(uri) as file, _opened(file, uri) as container:
        stream = _main_stream(container)
        context = stream.codec_context
        _check_size(int(context.width), int(context.height), uri)
        others = len([one for one in container.streams.video if not _is_cover(one)]) - 1
        if others > 0:
            notes.append(f"the largest of {others + 1} picture streams is taken ({context.width}x{context.height})")
        times: list[int] = []
        packets, untimed = 0, 0
        last_dts: int | None = None
        for packet in _packets(container, stream):
            packets += 1
            if packet.dts is not None:
                if last_dts is not None and packet.dts < last_dts:
                    raise DecodeError(
                        f"{uri}: the times start again behind frame {packets - 1}, as in recordings that were joined "
                        "byte by byte; give the recordings one by one, or join them by ffmpeg -f concat"
                    )
                last_dts = packet.dts
            if packet.is_discard:  # removed by an edit list: other frames need it for decoding, but it is not shown
                continue
            if packet.pts is None:
                untimed += 1
                continue
            times.append(_nanoseconds(packet.pts, stream.time_base))
        if untimed == packets and raw_stream.is_raw(container):
            times = raw_stream.times_of(packets, stream)
            notes.append(f"a bare stream has no times: {raw_stream.rate_of(stream):g} frames a second are assumed")
        elif untimed:
            raise DecodeError(
                f"{uri}: expected a time for every video frame, {untimed} of {packets} have none; "
                "encode it again (ffmpeg -fflags +genpts -i IN -c:v libx264 OUT.mp4)"
            )
        if not times:
            raise DecodeError(f"{uri}: the video has no frames")
        shown = sorted(set(times))
        if len(shown) < len(times):
            repeated = len(times) - len(shown)
            if repeated > len(times) / 2:
                raise DecodeError(f"{uri}: expected a time of its own for every video frame, {repeated} are repeated")
            notes.append(f"{repeated} video frames have the time of another one and are not used")
        missing = _missing_at_end(stream, packets, shown)
        if missing:
            notes.append(f"the video ends early: {missing} frames that it promises are not there")
        wide, high = _square_pixels(int(context.width), int(context.height), stream)
    orientation = orientation_of_turn(_turn_said(uri, shown[0]) if turn is None else turn)
    width, height = (high, wide) if is_on_its_side(orientation) else (wide, high)
    return Timeline(tuple(shown), width, height, orientation, tuple(notes), missing)


def decode_numbers(uri: str, numbers: Sequence[int], turn: int | None = None) -> Iterator[Image.Image | DecodeError]:
    """Decode the frames with these numbers (not decreasing, in the order in which they are shown) as `decode_at` does.
    Raises DecodeError where the file cannot be opened."""
    times = read_timeline(uri, turn).timestamps_ns
    there = [number for number in numbers if number < len(times)]
    yield from decode_at(uri, [times[number] for number in there], turn)
    for _ in numbers[len(there) :]:
        yield DecodeError("the video ends early: nothing decodable from this frame on")


def decode_at(uri: str, wanted_ns: Sequence[int], turn: int | None = None) -> Iterator[Image.Image | DecodeError]:
    """Decode the frames shown at the given times (not decreasing): for each an image, or the error that prevents it.
    Equal times follow each other where several views of one frame are wanted: it is decoded once, and they get one
    image.

    Images are upright, as the file (or `turn`, degrees to the right) says, with square pixels.

    Raises:
        StorageError: the store does not answer, or the file is missing.
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
                decoded = DecodeError("the video frame is corrupt") if frame.is_corrupt else _picture(frame, turn)
                while pending and pending[0] == shown:
                    pending.pop(0)
                    yield decoded
            if not pending:
                return
    except DecodeError as error:
        reason = error
    for _ in pending:
        yield reason


@dataclass(frozen=True)
class _Shown:
    """A decoded frame, and the size at which its pixels are square."""

    frame: VideoFrame
    size: tuple[int, int]

    @property
    def is_corrupt(self) -> bool:
        return bool(self.frame.is_corrupt)


def _picture(shown: _Shown, turn: int | None) -> Image.Image:
    frame, size = shown.frame, shown.size
    if size == (frame.width, frame.height):
        image = frame.to_image()
    else:  # scaled together with the conversion of colours: only one interpolation
        image = frame.to_image(width=size[0], height=size[1], interpolation="BICUBIC")
    return upright(image, orientation_of_turn(_turn_of(frame) if turn is None else turn))


def _turn_of(frame: VideoFrame) -> float:
    """Degrees to the right by which a frame's display matrix turns it; FFmpeg's are to the left."""
    return -float(frame.rotation)


def _turn_said(uri: str, first_ns: int) -> float:
    """The turn of the first frame that can be decoded; 0 where none can."""
    for _, shown in _shown_from(uri, first_ns):
        return _turn_of(shown.frame)
    return 0.0


def _square_pixels(width: int, height: int, stream: VideoStream) -> tuple[int, int]:
    """The size at which pixels are square: the width is multiplied by the stream's sample aspect ratio."""
    ratio = stream.sample_aspect_ratio
    if not ratio or not Fraction(1, 8) <= ratio <= 8:
        return width, height
    return max(round(width * ratio), 1), height


def _shown_from(uri: str, first_ns: int) -> Iterator[tuple[int, _Shown]]:
    """(time, frame) from the key frame at or before first_ns; where the file's index is wrong, from the start."""
    for seek in (True, False):
        with storage.open_input(uri) as file, _opened(file, uri) as container:
            stream = _main_stream(container)
            stream.thread_type = "NONE"  # a task has one core; with threads, errors would also delay frames
            if raw_stream.is_raw(container):
                for time_ns, frame in raw_stream.frames_from(_packets(container, stream, flush=True), stream, first_ns):
                    yield time_ns, _Shown(frame, _square_pixels(frame.width, frame.height, stream))
                return
            if seek:
                try:
                    target = int(Fraction(first_ns, 10**9) / (stream.time_base or 1))
                    container.seek(target, stream=stream, backward=True)
                except av.FFmpegError:
                    continue
            frames = (
                (
                    _nanoseconds(frame.pts, stream.time_base),
                    _Shown(frame, _square_pixels(frame.width, frame.height, stream)),
                )
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


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in _packets(container, stream, flush=True):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue  # its frames are not yielded; the caller reports those that it wanted


def _packets(container: InputContainer, stream: VideoStream, flush: bool = False) -> Iterator[Packet]:
    """Packets until the end or an unreadable one; with `flush` also the empty one that flushes a decoder."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):
            return
        if packet.size or flush:
            yield packet


def _missing_at_end(stream: VideoStream, packets: int, times: list[int]) -> int:
    """How many frames the file's header announces after the last one; 0 where it has no such number."""
    interval = _interval(times)
    if stream.frames and stream.duration:  # MP4, MOV, AVI
        # with edit lists there are also fewer packets than the header says; only times show that the end is missing
        begin = stream.start_time if stream.start_time is not None else 0
        end = _nanoseconds(begin + stream.duration, stream.time_base)
        interval = interval or _nanoseconds(stream.duration, stream.time_base) / stream.frames
        return max(0, min(stream.frames - packets, round((end - times[-1]) / interval) - 1))
    promised = _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if promised is None or not interval:
        return 0
    hours, minutes, seconds = (Fraction(part) for part in promised.groups())
    gap = round((hours * 3600 + minutes * 60 + seconds) * 10**9) - times[-1]
    # with varying frame rates the last frame may simply be shown for a long time
    longest = max(b - a for a, b in itertools.pairwise(times))
    return max(0, round(gap / interval) - 1) if gap > 2 * longest else 0


def _interval(times: list[int]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def _nanoseconds(ticks: int, time_base: Fraction | None) -> int:
    assert time_base is not None  # of a stream that has packets
    return round(ticks * time_base * 10**9)


def _opened(file: BinaryIO, uri: str) -> InputContainer:
    try:
        container = av.open(file, metadata_errors="ignore")
    except StorageError:
        raise
    except Exception as error:  # FFmpeg's errors, and other errors of demuxers on corrupt data
        said = (str(error).splitlines() or [""])[0][:120]
        raise DecodeError(f"{uri}: cannot be opened as a video, incomplete or not one ({said})") from None
    if not container.streams.video:
        container.close()
        raise DecodeError(f"{uri}: expected a video, got a file without a picture stream")
    return container


def _main_stream(container: InputContainer) -> VideoStream:
    """The largest picture stream that is not a cover picture."""
    streams = [stream for stream in container.streams.video if not _is_cover(stream)] or container.streams.video
    return max(streams, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & stream.disposition.__class__.attached_pic)


def _check_size(width: int, height: int, uri: str) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise DecodeError(f"{uri}: expected 1 to {MAX_PIXELS} pixels a frame, got {width}x{height}")
