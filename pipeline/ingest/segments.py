"""A segment: the frames that are read, decoded and resized in one task. No Ray here; `frames` streams segments.

A bad frame (corrupt, of another size, missing) becomes grey, has a reason, and keeps its place. Where the store does
not answer, the whole segment is reported as not read: otherwise an outage would make all frames of good drives bad.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import cropped
from pipeline.cameras.rectify import View, enlarged
from pipeline.errors import DecodeError, StorageError
from pipeline.ingest import preprocess, video
from pipeline.ingest.chunks import plan_segments, rank_chunks
from pipeline.ingest.drive import NO_PICTURE
from pipeline.ingest.drives import Drive
from pipeline.ingest.read_ahead import Contents, read_ahead
from pipeline.storage import NotFoundError, UnreadableFileError
from pipeline.storage.retry import patiently

GREY = 128  # value of a frame that could not be read: the middle of the range, near the mean of the training data
_NOTHING = "the picture shows nothing: all of it is of one colour"


class FrameTracker(Protocol):
    """Follows corners through decoded frames, in the task that decodes them. Must be picklable."""

    @property
    def long_side(self) -> int:
        """Pixels to which the long side of a picture is reduced before corners are followed."""
        ...

    def picture(self, grey: NDArray[np.uint8]) -> object:
        """The data of a decoded frame (h, w) that are kept until its segment is complete."""
        ...

    def segment_done(self, first_frame: int, pictures: Sequence[Any]) -> None:  # results of `picture`
        """Process the frames of a segment, None for those that could not be read. Called once for each try to read the
        segment. May raise StorageError."""
        ...


@dataclass(frozen=True)
class DriveTask:
    """One drive as a group processes it: frames of height x width, cut into chunks.

    Frames that are left out (the car stands) do not exist for the network: chunks, segments and everything in `forward`
    use places among the kept frames. `numbers` gives the frame of the drive for each place.
    """

    drive: Drive
    height: int
    width: int
    chunks: tuple[range, ...]  # ranges of places among the kept frames
    segment_length: int  # most frames that are decoded in one task; chunk size - overlap is a good choice
    kept: tuple[int, ...] | None = None  # numbers of the frames that are in chunks, increasing from 0; None: all
    tracker: FrameTracker | None = None  # gets every frame in the task that decodes it

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"frames of {self.width}x{self.height} pixels")
        name, total = f"drive {self.drive.drive_id}", self.drive.frame_count
        if self.kept is not None:
            rising = all(before < after for before, after in itertools.pairwise(self.kept))
            if not self.kept or self.kept[0] != 0 or not rising or self.kept[-1] >= total:
                raise ValueError(f"{name}: kept frames must rise from 0 and be below {total}, got {self.kept[:5]} ...")
        plan_segments(self.chunks, self.segment_length)  # refuses gaps, disorder and lengths below one
        if not self.chunks or self.chunks[0].start != 0 or self.chunks[-1].stop != self.frame_count:
            raise ValueError(
                f"{name}: expected chunks over all of {self.frame_count} frames, "
                f"got {self.chunks[:1]} ... {self.chunks[-1:]}"
            )

    @property
    def frame_count(self) -> int:
        """Number of frames that are in chunks, which the network sees."""
        return self.drive.frame_count if self.kept is None else len(self.kept)

    @property
    def network_camera(self) -> Camera | None:
        """The pinhole camera of the network's pictures; None where nothing is known of the drive's camera."""
        drive = self.drive
        if drive.camera is None:
            return None
        view = drive.camera.view(self.width, self.height)
        if view is not None:
            return view.pinhole
        geometry = preprocess.frame_geometry(drive.source_width, drive.source_height, self.height, self.width)
        resized = geometry.resized_width, geometry.resized_height
        return cropped(drive.camera.camera, resized, geometry.left, geometry.top, (self.width, self.height))

    @property
    def numbers(self) -> Sequence[int]:
        """The drive's frame number of each kept frame."""
        return range(self.drive.frame_count) if self.kept is None else self.kept

    def reading(self, drive_index: int, frames: range) -> FrameReading:
        """What a task needs to read the frames at these places."""
        segment = segment_of(self.drive, drive_index, frames, self.numbers, self.height, self.width)
        return replace(segment, tracker=self.tracker)


@dataclass(frozen=True)
class Segment:
    """All that a task needs on any node to decode the frames at places start ... stop-1."""

    drive_index: int
    drive_id: str
    start: int
    stop: int
    numbers: tuple[int, int]  # of the first and the last frame in the drive, for messages
    uris: tuple[str, ...]  # for each frame its image, or the video file that contains it
    wanted_ns: tuple[int, ...] | None  # video: presentation times in that file
    height: int
    width: int
    source_size: tuple[int, int]  # (width, height) of the drive's first frame, upright; others are refused
    views: tuple[View, ...] = ()  # how frames are rectified; none: they are only resized and cropped
    turn: int | None = None  # degrees to the right by which stored frames are turned; None: as the files say
    white: int = preprocess.WHITE  # the value of white in pictures of more than 8 bits
    is_joined: bool = False  # a video of several clips
    tracker: FrameTracker | None = None
    film_numbers: tuple[int, ...] | None = None  # video whose times are not known: numbers of the frames in that file
    cameras: tuple[int, ...] = ()  # of a rig whose cameras differ: which of the views each frame has

    def camera_at(self, place: int) -> int:
        """Which of the views a frame of the segment has."""
        return self.cameras[place] if self.cameras else 0

    def size_at(self, place: int) -> tuple[int, int]:
        """Width and height that a frame of the segment must have."""
        if not self.cameras:
            return self.source_size
        lens = self.views[self.cameras[place]].lens
        return lens.width, lens.height

    def decode(self) -> FrameBatch:
        """As `decode_segment`."""
        return decode_segment(self)


class FrameReading(Protocol):
    """What a task needs to read the frames at some places. Must be picklable."""

    @property
    def drive_index(self) -> int:
        """Number of the drive among those of its group."""
        ...

    def decode(self) -> FrameBatch:
        """Read, decode and resize the frames. Errors are recorded in the result, not raised."""
        ...


@dataclass(frozen=True)
class FrameBatch:
    """One decoded segment: frames start ... start+n-1 of a drive."""

    drive_index: int
    start: int
    images: NDArray[np.uint8]  # (n, height, width, 3), thumbnails (n, height, width); grey where not ok
    ok: NDArray[np.bool_]  # (n,)
    reasons: tuple[str | None, ...]  # why a frame is not ok
    storage_failure: str | None = None  # set: nothing was read, since the store failed; images has no frames


def rank_segments(tasks: Sequence[DriveTask], rank: int, world_size: int) -> Iterator[FrameReading]:
    """The segments that one rank of a group reads, in order: the frames of its chunks of every drive, each frame
    once."""
    for drive_index, task in enumerate(tasks):
        share = rank_chunks(len(task.chunks), world_size)[rank]
        for frames in plan_segments([task.chunks[k] for k in share], task.segment_length):
            yield task.reading(drive_index, frames)


def segment_of(
    drive: Drive, drive_index: int, frames: range, numbers: Sequence[int], height: int, width: int
) -> Segment:
    """The segment of these places; numbers[place] is the number of the frame in the drive."""
    wanted = numbers[frames.start : frames.stop]
    is_video = drive.kind == "video"
    views = drive.camera.views(width, height) if drive.camera else ()
    return Segment(
        drive_index=drive_index,
        drive_id=drive.drive_id,
        start=frames.start,
        stop=frames.stop,
        numbers=(wanted[0], wanted[-1]),
        uris=tuple(drive.uris[drive.clip_of(number) if is_video else number] for number in wanted),
        wanted_ns=tuple(drive.shown_at(number) for number in wanted) if is_video else None,
        height=height,
        width=width,
        source_size=(drive.source_width, drive.source_height),
        views=views,
        turn=drive.turn,
        white=drive.white,
        is_joined=len(drive.clips) > 1,
        cameras=tuple(number % len(views) for number in wanted) if len(views) > 1 else (),
    )


def read_frames(
    task: DriveTask, frames: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str | None, ...]]:
    """Read frames at some places: images (S, height, width, 3), whether they are good (S,), reasons why not (S,).

    Consecutive frames are read together. Raises StorageError where the store does not answer.
    """
    images, ok = [], []
    reasons: list[str | None] = []
    borders = [i for i in range(1, len(frames)) if frames[i] != frames[i - 1] + 1]
    for begin, end in itertools.pairwise([0, *borders, len(frames)]):
        run = range(frames[begin], frames[end - 1] + 1)
        batch = decode_segment(segment_of(task.drive, 0, run, task.numbers, task.height, task.width))
        if batch.storage_failure is not None:
            raise StorageError(batch.storage_failure)
        images.append(batch.images)
        ok.append(batch.ok)
        reasons += batch.reasons
    return np.concatenate(images), np.concatenate(ok), tuple(reasons)


def decode_segment(segment: Segment, waits_s: Sequence[float] | None = None) -> FrameBatch:
    """Read, decode and resize the frames of a segment. Errors are recorded in the result, not raised.

    waits_s: seconds between tries when the store does not answer; by default those of `patiently`.
    """

    tracker, views = segment.tracker, segment.views
    tracked = () if tracker is None else enlarged(views, tracker.long_side)
    pictures: list[object] = []
    lens = preprocess.LensPictures()

    def prepare(image: Image.Image, place: int) -> NDArray[np.uint8]:
        camera = segment.camera_at(place)
        if views:
            prepared = preprocess.rectified_image(lens.of(image), views[camera])
        else:
            prepared = preprocess.prepare_image(image, segment.height, segment.width)
        if tracker is not None and not preprocess.shows_nothing(prepared):
            grey = preprocess.grey_view(lens.of(image), tracked[camera]) if views else preprocess.grey_picture(image)
            pictures.append(tracker.picture(grey))
        return prepared

    shape = (segment.stop - segment.start, segment.height, segment.width, 3)
    batch = _decoded(segment, np.full(shape, GREY, np.uint8), prepare, None, waits_s)
    if tracker is None or batch.storage_failure is not None:
        return batch
    seen = iter(pictures[len(pictures) - int(batch.ok.sum()) :])  # those of the try that succeeded
    try:
        tracker.segment_done(segment.start, [next(seen) if ok else None for ok in batch.ok])
    except StorageError as error:
        return _not_read(segment, batch.images[:0], error)
    return batch


def decode_thumbnails(segment: Segment, waits_s: Sequence[float] | None = None) -> FrameBatch:
    """As `decode_segment`, but small grey pictures (n, height, width). JPEGs are decoded at a reduced size."""
    size = (segment.width, segment.height)

    def prepare(image: Image.Image, place: int) -> NDArray[np.uint8]:
        return preprocess.thumbnail(image, *size)

    shape = (segment.stop - segment.start, segment.height, segment.width)
    return _decoded(segment, np.full(shape, GREY, np.uint8), prepare, size, waits_s)


_Prepare = Callable[[Image.Image, int], NDArray[np.uint8]]  # of a frame, and its place in the segment


def _decoded(
    segment: Segment,
    images: NDArray[np.uint8],
    prepare: _Prepare,
    draft: tuple[int, int] | None,
    waits_s: Sequence[float] | None,
) -> FrameBatch:
    """images (n, ...): grey at first; each frame is overwritten with the result of `prepare`."""
    reasons: list[str | None] = [None] * len(images)

    def decode() -> None:
        if segment.wanted_ns is not None or segment.film_numbers is not None:
            _decode_video(segment, images, prepare, reasons)
        else:
            _decode_images(segment, images, prepare, draft, reasons)

    try:
        patiently(decode, waits_s)
    except StorageError as error:
        return _not_read(segment, images[:0], error)
    ok = np.array([reason is None for reason in reasons], dtype=np.bool_)
    images[~ok] = GREY
    return FrameBatch(segment.drive_index, segment.start, images, ok, tuple(reasons))


def _decode_images(
    segment: Segment,
    images: NDArray[np.uint8],
    prepare: _Prepare,
    draft: tuple[int, int] | None,
    reasons: list[str | None],
) -> None:
    frames = itertools.groupby(range(len(segment.uris)), key=segment.uris.__getitem__)
    pictures = [(uri, list(places)) for uri, places in frames]  # neighbours with one file are views of one picture
    readable = [uri for uri, _ in pictures if NO_PICTURE not in uri]
    with contextlib.closing(read_ahead(readable, storage.read_bytes)) as contents:
        for uri, places in pictures:
            if NO_PICTURE in uri:
                reasons[places[0]] = f"camera {uri.rpartition(NO_PICTURE)[2]} has no picture of this instant"
                continue
            why = _prepare_all(segment, places, next(contents), prepare, draft, images)
            for place in places:
                nothing = why is None and preprocess.shows_nothing(images[place])
                reasons[place] = _reason(uri, DecodeError(_NOTHING)) if nothing else why


def _prepare_all(
    segment: Segment,
    places: Sequence[int],
    contents: Contents,
    prepare: _Prepare,
    draft: tuple[int, int] | None,
    images: NDArray[np.uint8],
) -> str | None:
    """Decode a picture and prepare it for its frames; returns why it cannot be used, if so. Raises StorageError where
    the store does not answer."""
    uri = segment.uris[places[0]]
    try:
        size, turn, white = segment.size_at(places[0]), segment.turn, segment.white
        image = preprocess.decode_image(contents(), expected_size=size, draft=draft, turn=turn, white=white)
        for place in places:
            images[place] = prepare(image, place)
        return None
    except DecodeError as error:
        return _reason(uri, error)
    except NotFoundError as error:
        # the store answers, so only this file is missing (if too many are missing, the drive fails)
        why = "is a link that leads nowhere" if storage.is_dangling(uri) else "vanished since the drive was listed"
        return f"{why}: {error}"
    except UnreadableFileError as error:
        return str(error)


def _decode_video(segment: Segment, images: NDArray[np.uint8], prepare: _Prepare, reasons: list[str | None]) -> None:
    for i, decoded in enumerate(_film_frames(segment)):
        reasons[i] = None
        if isinstance(decoded, DecodeError):
            reasons[i] = str(decoded)
        elif decoded.size != segment.source_size:
            width, height = segment.source_size
            got = f"{decoded.width}x{decoded.height}"
            reasons[i] = f"expected {width}x{height} pixels as the video says, got {got}"
        else:
            images[i] = prepare(decoded, i)
            if preprocess.shows_nothing(images[i]):
                reasons[i] = _NOTHING


def _film_frames(segment: Segment) -> Iterator[Image.Image | DecodeError]:
    """The frames of a segment from its video files. Where one of several clips is missing, the others are read."""
    frames = segment.wanted_ns if segment.film_numbers is None else segment.film_numbers
    assert frames is not None
    decode = video.decode_at if segment.film_numbers is None else video.decode_numbers
    for uri, group in itertools.groupby(zip(segment.uris, frames, strict=True), key=lambda one: one[0]):
        wanted = [frame for _, frame in group]
        given = 0
        try:
            for decoded in decode(uri, wanted, segment.turn):
                given += 1
                yield decoded
        except NotFoundError as error:
            if not segment.is_joined:
                raise
            yield from [DecodeError(f"vanished since the drive was listed: {error}")] * (len(wanted) - given)
        except UnreadableFileError as error:
            if not segment.is_joined:
                raise
            yield from [DecodeError(str(error))] * (len(wanted) - given)
        except DecodeError as error:  # no film, where the numbers of its frames are looked up
            yield from [error] * (len(wanted) - given)


def _reason(uri: str, error: DecodeError) -> str:
    return f"{storage.parent_and_name(uri)[1]}: {error}"


def _not_read(segment: Segment, nothing: NDArray[np.uint8], error: StorageError) -> FrameBatch:
    first, last = segment.numbers
    what = f"drive {segment.drive_id}, frames {first} to {last}: {error}"
    return FrameBatch(segment.drive_index, segment.start, nothing, np.empty(0, dtype=np.bool_), (), what)
