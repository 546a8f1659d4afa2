"""A segment: the frames that are read, decoded and resized in one go. No Ray here; `frames` streams them.

A bad frame (corrupt, of another size, vanished) becomes grey and carries a reason: it keeps its place. A
store that does not answer is another thing: the whole segment is reported as not read, or else an outage
would turn good drives into empty ones.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DecodeError, StorageError
from pipeline.ingest import preprocess, video
from pipeline.ingest.chunks import plan_segments, rank_chunks
from pipeline.ingest.drives import Drive
from pipeline.storage import NotFoundError, UnreachableError

GREY = 128  # of a frame that could not be read: the middle of the range, near the network's mean
# Waits before whole new tries when a store does not answer, above the client's own quick ones: long enough
# for a server that is being restarted.
PATIENCE_S = (1.0, 4.0, 15.0)


@dataclass(frozen=True)
class DriveTask:
    """What the group shall do for one drive: frames of height x width, cut into chunks (ranges of frames)."""

    drive: Drive
    height: int
    width: int
    chunks: tuple[range, ...]
    segment_length: int  # most frames that are decoded in one go; chunk size - overlap is a good choice

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"frames of {self.width}x{self.height} pixels")
        plan_segments(self.chunks, self.segment_length)  # refuses gaps, disorder and lengths below one
        if not self.chunks or self.chunks[0].start != 0 or self.chunks[-1].stop != self.drive.frame_count:
            raise ValueError(
                f"drive {self.drive.drive_id}: expected chunks over all of {self.drive.frame_count} frames, "
                f"got {self.chunks[:1]} ... {self.chunks[-1:]}"
            )


@dataclass(frozen=True)
class Segment:
    """All that a task needs to decode frames start ... stop-1 of one drive, wherever it runs."""

    drive_index: int
    drive_id: str
    start: int
    stop: int
    uris: tuple[str, ...]  # images: one a frame; video: the one file
    wanted_ns: tuple[int, ...] | None  # video: presentation times
    height: int
    width: int
    source_size: tuple[int, int]  # (width, height) of the drive's first frame; others are refused


@dataclass(frozen=True)
class FrameBatch:
    """One decoded segment: frames start ... start+n-1 of a drive."""

    drive_index: int
    start: int
    images: NDArray[np.uint8]  # (n, height, width, 3); grey where not ok
    ok: NDArray[np.bool_]  # (n,)
    reasons: tuple[str | None, ...]  # why a frame is not ok
    storage_failure: str | None = None  # set: nothing was read, since the store failed; images has no frames


def rank_segments(tasks: Sequence[DriveTask], rank: int, world_size: int) -> Iterator[Segment]:
    """What one rank of a group reads, in order: the frames of its chunks of every drive, each frame once."""
    for drive_index, task in enumerate(tasks):
        share = rank_chunks(len(task.chunks), world_size)[rank]
        for frames in plan_segments([task.chunks[k] for k in share], task.segment_length):
            yield _segment(task, drive_index, frames)


def _segment(task: DriveTask, drive_index: int, frames: range) -> Segment:
    drive = task.drive
    is_video = drive.kind == "video"
    times = drive.timestamps_ns[frames.start : frames.stop] if drive.timestamps_ns else None
    return Segment(
        drive_index=drive_index,
        drive_id=drive.drive_id,
        start=frames.start,
        stop=frames.stop,
        uris=drive.uris if is_video else drive.uris[frames.start : frames.stop],
        wanted_ns=times if is_video else None,
        height=task.height,
        width=task.width,
        source_size=(drive.source_width, drive.source_height),
    )


def read_frames(
    task: DriveTask, frames: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str | None, ...]]:
    """Some frames of a drive, wherever they lie: images (S, height, width, 3), which are good (S,), why not (S,).

    Runs of consecutive frames are read in one go. Raises StorageError where the store does not answer.
    """
    images, ok = [], []
    reasons: list[str | None] = []
    borders = [i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1]
    for begin, end in itertools.pairwise([0, *borders, len(frames)]):
        batch = decode_segment(_segment(task, 0, range(frames[begin], frames[end - 1] + 1)))
        if batch.storage_failure is not None:
            raise StorageError(batch.storage_failure)
        images.append(batch.images)
        ok.append(batch.ok)
        reasons += batch.reasons
    return np.concatenate(images), np.concatenate(ok), tuple(reasons)


def decode_segment(segment: Segment, patience_s: Sequence[float] = PATIENCE_S) -> FrameBatch:
    """Read, decode and resize the frames of a segment; whatever is wrong with them is in the result.

    Args:
        patience_s: waits before further tries when the store does not answer.
    """
    count = segment.stop - segment.start
    images = np.full((count, segment.height, segment.width, 3), GREY, dtype=np.uint8)
    reasons: list[str | None] = [None] * count
    decode = _decode_video if segment.wanted_ns is not None else _decode_images
    waits = iter(patience_s)
    while True:
        try:
            decode(segment, images, reasons)
            break
        except UnreachableError as error:
            wait = next(waits, None)
            if wait is None:
                return _not_read(segment, error)
            time.sleep(wait)
        except StorageError as error:
            return _not_read(segment, error)
    ok = np.array([reason is None for reason in reasons], dtype=np.bool_)
    images[~ok] = GREY
    return FrameBatch(segment.drive_index, segment.start, images, ok, tuple(reasons))


def _decode_images(segment: Segment, images: NDArray[np.uint8], reasons: list[str | None]) -> None:
    for i, uri in enumerate(segment.uris):
        reasons[i] = None
        try:
            image = preprocess.decode_image(storage.read_bytes(uri), expected_size=segment.source_size)
            images[i] = preprocess.prepare_image(image, segment.height, segment.width)
        except DecodeError as error:
            reasons[i] = _reason(uri, error)
        except NotFoundError as error:
            # The store answers, so this is about the file. (If all have gone, their number fails the drive.)
            reasons[i] = f"vanished since the drive was listed: {error}"


def _decode_video(segment: Segment, images: NDArray[np.uint8], reasons: list[str | None]) -> None:
    assert segment.wanted_ns is not None
    for i, decoded in enumerate(video.decode_at(segment.uris[0], segment.wanted_ns)):
        reasons[i] = None
        if isinstance(decoded, DecodeError):
            reasons[i] = str(decoded)
        elif decoded.size != segment.source_size:
            width, height = segment.source_size
            got = f"{decoded.width}x{decoded.height}"
            reasons[i] = f"expected {width}x{height} pixels as the video says, got {got}"
        else:
            images[i] = preprocess.prepare_image(decoded, segment.height, segment.width)


def _reason(uri: str, error: DecodeError) -> str:
    return f"{storage.parent_and_name(uri)[1]}: {error}"


def _not_read(segment: Segment, error: StorageError) -> FrameBatch:
    nothing = np.empty((0, segment.height, segment.width, 3), dtype=np.uint8)
    what = f"drive {segment.drive_id}, frames {segment.start} to {segment.stop - 1}: {error}"
    return FrameBatch(segment.drive_index, segment.start, nothing, np.empty(0, dtype=np.bool_), (), what)
