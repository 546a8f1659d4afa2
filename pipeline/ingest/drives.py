"""What a drive is: a folder of images, a KITTI odometry sequence, or a video; its frames, times and identity.

Only names, sizes and headers are read here. A frame that turns out to be bad later keeps its number.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline import storage
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.orientation import UPRIGHT
from pipeline.common.visible_text import visible
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest import preprocess, video
from pipeline.ingest.calibration import known_camera
from pipeline.ingest.dataset_times import PICTURES, camera_folder, dataset_times
from pipeline.ingest.frame_masks import AUTO, masks_digest
from pipeline.ingest.frame_series import Series, find_series, unused_files
from pipeline.ingest.frame_times import check_rising, read_times
from pipeline.ingest.preprocess import ImageHeader
from pipeline.storage import Listing, NotFoundError

# KITTI's left cameras: colour where it is there, else grey.
KITTI_FOLDERS = ("image_2", "image_0")
HEADER_BYTES = 64 * 1024  # holds the size in all but JPEGs with large embedded previews
_DEEP_LOOKED_AT = 6  # pictures of more than 8 bits that are read to see which range they use
FIRST_FRAMES_TRIED = 50  # a drive that begins with more unreadable files is not worth its listing

_CAMERA_FOLDER = re.compile(r"image_\d+")
# What lies beside frames and is read by its name, or says nothing of what could be a frame.
_BESIDE = ("calib.txt", "times.txt", "timestamps.txt", "poses.txt", "thumbs.db", "desktop.ini")
# Clips with a picture each (a thumbnail) are clips; a folder of frames may hold a clip or two.
_IMAGES_A_CLIP = 4


@dataclass(frozen=True)
class Drive:
    """One drive: frames 0 ... frame_count-1 after stride or fps were applied."""

    drive_id: str
    source_uri: str
    kind: Literal["images", "video"]
    uris: Sequence[str]  # images: one a frame, in natural order; video: the one file
    frame_count: int
    timestamps_ns: tuple[int, ...] | None  # KITTI: times.txt; video: presentation times; None where unknown
    video_frames: tuple[int, ...] | None  # numbers of the frames that are used, in order of presentation
    source_width: int  # of the first readable frame as it should be seen, pixels
    source_height: int
    listing: Listing  # all files the drive is made of: its identity (names, sizes, etags)
    turn: int | None = None  # degrees to the right that stored frames are turned by; None: what they say themselves
    orientation: int = UPRIGHT  # of the first readable frame, as EXIF says it: 1 is stored upright
    white: int = preprocess.WHITE  # the value of white in pictures of more than 8 bits
    notes: tuple[str, ...] = ()  # what lies in the input and is not used, and what is odd about it, a sentence each
    camera: KnownCamera | None = None  # of the upright frames; None where nothing is known
    masks: str | None = None  # name of what the user's masks hold; None without

    def __post_init__(self) -> None:
        storage.check_drive_id(self.drive_id)
        if self.frame_count < 1:
            raise DriveError(f"drive {self.drive_id}: expected at least one frame, got {self.frame_count}")
        if len(self.uris) != (self.frame_count if self.kind == "images" else 1):
            raise DriveError(f"drive {self.drive_id}: {len(self.uris)} files for {self.frame_count} frames")
        for values in (self.timestamps_ns, self.video_frames):
            if values is None:
                continue
            if len(values) != self.frame_count or any(b <= a for a, b in itertools.pairwise(values)):
                raise DriveError(f"drive {self.drive_id}: expected {self.frame_count} increasing numbers")
        if self.kind == "video" and (self.timestamps_ns is None or self.video_frames is None):
            raise DriveError(f"drive {self.drive_id}: a video's frames are named by number and time")
        if self.source_width < 1 or self.source_height < 1:
            size = f"{self.source_width}x{self.source_height}"
            raise DriveError(f"drive {self.drive_id}: expected frames with pixels, got {size}")

    @property
    def picture(self) -> dict[str, Any]:
        """What of the way frames are seen is told by no setting and changes the result; empty for upright frames of a
        camera of which nothing is known."""
        said: dict[str, Any] = {"orientation": self.orientation} if self.orientation != UPRIGHT else {}
        if self.white != preprocess.WHITE:
            said["white"] = self.white
        if self.camera is not None:
            said["camera"] = self.camera.to_dict()
        return said if self.masks is None else {**said, "masks": self.masks}

    def frame_uris(self) -> list[str]:
        """Names of all frames: their files, or the video with each frame's number behind '#frame='."""
        if self.video_frames is None:
            return list(self.uris)
        return [f"{self.uris[0]}{video.FRAME_MARK}{number}" for number in self.video_frames]


@dataclass(frozen=True)
class _Used:
    """Which frames of a source are used, how they are turned, and what is said of their camera."""

    start: int
    end: int | None
    stride: int
    fps: float | None
    turn: int | None
    camera: CameraConfig

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"expected 0 <= start < end, got start {self.start} and end {self.end}")


def find_drive(
    uri: str,
    *,
    drive_id: str | None = None,
    stride: int = 1,
    fps: float | None = None,
    start: int | None = None,
    end: int | None = None,
    turn: int | None = None,
    camera: CameraConfig | None = None,
    masks: str | None = None,
) -> Drive:
    """Recognise the drive at a URI.

    Args:
        uri: a folder of images, a KITTI odometry sequence folder or its image folder, or a video file.
        drive_id: default is the folder's or file's name (".../sequences/90/image_0" -> "90").
        stride: use every stride-th frame.
        fps: use about so many frames a second instead; needs known times (videos, times.txt).
        start, end: half-open range of the source's frames, before stride or fps; None: all of them.
        turn: degrees to the right that stored frames are turned by, instead of what EXIF or the video says.
        camera: where the calibration is, if it does not lie with the frames.
        masks: a picture, or a folder of pictures, of what is left out; or auto.

    Raises:
        DriveError: nothing usable there, times or a range that do not fit, an unsafe id; says what to do.
        StorageError: no such folder or bucket, refused, or no answer.
        ValueError: a stride below one, a rate that is not positive, or both; a range that is none.
    """
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be positive, got {fps}")
    if fps is not None and stride != 1:
        raise ValueError(f"give a stride or a rate, not both: got stride {stride} and fps {fps}")
    used = _Used(start or 0, end, stride, fps, turn, camera or CameraConfig())
    uri = storage.absolute(uri)
    _check_text([uri])
    name = storage.parent_and_name(uri)[1]
    if video.is_video_name(name):
        drive = _video_drive(uri, drive_id or name.rpartition(".")[0], used)
    else:
        drive = _image_drive(uri, drive_id, used)
    if masks is None or masks == AUTO:
        return drive
    return replace(drive, masks=masks_digest(storage.absolute(masks), drive.drive_id, drive.frame_uris()))


def is_image_name(name: str) -> bool:
    """Whether a file name is an image of a drive; dot-files (".DS_Store", "._000000.png") are not."""
    return not name.startswith(".") and name.lower().endswith(preprocess.SUFFIXES)


def _image_drive(uri: str, drive_id: str | None, used: _Used) -> Drive:
    found, folder, sequence = _image_folder(uri)
    files, notes = frames_of(found)
    drive_id = storage.check_drive_id(
        drive_id or storage.parent_and_name(sequence or camera_folder(folder) or folder)[1]
    )
    times = _kitti_times(sequence, files) if sequence else dataset_times(folder, files)
    selected = _selection(len(files), times, used, drive_id)
    files = files.take(selected)
    first = _first_header(files, drive_id, used.turn)
    _check_size(drive_id, *first.size)
    return Drive(
        drive_id=drive_id,
        source_uri=uri,
        kind="images",
        uris=files.uris,
        frame_count=len(files),
        timestamps_ns=tuple(times[i] for i in selected) if times is not None else None,
        video_frames=None,
        source_width=first.size[0],
        source_height=first.size[1],
        listing=files,
        turn=used.turn,
        orientation=first.orientation,
        white=_white(files) if first.is_deep else preprocess.WHITE,
        notes=notes,
        camera=known_camera(used.camera, folder, found, first.size, first.camera),
    )


def frames_of(files: Listing) -> tuple[Listing, tuple[str, ...]]:
    """The frames of a folder's drive in order, out of a listing in the order of plain text; and what is not used."""
    if files.pattern is not None:  # nearly all drives, and looking at each name costs ten times as much
        return (files if is_image_name(files.pattern) else files.take(())), ()
    names = files.names
    _check_text(names)
    places = [place for place, name in enumerate(names) if is_image_name(name)]
    images = files.take(places)
    others = [name for name in names if not is_image_name(name) and name.lower() not in _BESIDE]
    series = Series(tuple(range(len(images)))) if images.pattern is not None else find_series(images.names)
    return images.take(series.order), (*series.notes, *unused_files(others, preprocess.UNREAD | _CLIPS))


def _check_text(names: Sequence[str]) -> None:
    """Raises DriveError for names that are no UTF-8: tables and pages of results cannot hold them."""
    bad = [name for name in names if not name.isascii() and not _is_text(name)]
    if bad:
        raise DriveError(
            f"{len(bad)} names are not UTF-8, the first {visible(bad[0])!r}; rename them (convmv -f latin1 -t utf8 "
            "--notest FOLDER)"
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_drive(images: int, videos: int, folders: int) -> bool:
    """Whether a folder with so many images, videos and folders is a drive of images.

    A folder with more folders than images holds drives, and the images are an overview. One with clips and hardly more
    pictures than clips holds clips with their thumbnails.
    """
    return images > 0 and images >= folders and images > (_IMAGES_A_CLIP * videos if videos else 0)


def _image_folder(uri: str) -> tuple[Listing, str, str | None]:
    """The folder that holds the images with what is in it, and if it is KITTI's the sequence folder above it."""
    here = storage.list_files(uri)
    if _is_drive_of_images(here):
        parent, name = storage.parent_and_name(uri)
        return here, uri, parent if _CAMERA_FOLDER.fullmatch(name) and storage.parent_and_name(parent)[1] else None
    for name in (*KITTI_FOLDERS, PICTURES):
        folder = storage.join(uri, name)
        try:
            files = storage.list_files(folder)
        except NotFoundError:
            continue
        if _has_images(files):
            return files, folder, uri if name != PICTURES else None
    videos = [name for name in here.names if video.is_video_name(name)]
    if videos:
        hint = f"; it holds {len(videos)} videos, each of them a drive: give one ({videos[0]}), or the folder without "
        hint += "--drive-id for all of them"
    else:
        hint = "; " + "; ".join((*unused_files(here.names, preprocess.UNREAD), "give the folder that holds the frames"))
    raise DriveError(f"no frames in {storage.redacted(uri)}{hint}")


def _has_images(files: Listing) -> bool:
    return any(map(is_image_name, files.names if files.pattern is None else [files.pattern]))


def _is_drive_of_images(files: Listing) -> bool:
    if files.pattern is not None:
        return is_image_name(files.pattern)
    names = files.names
    return is_drive(sum(map(is_image_name, names)), sum(map(video.is_video_name, names)), 0)


_CLIPS = dict.fromkeys(video.SUFFIXES, "a clip is a drive of its own; give it as --input")


def _kitti_times(sequence: str, files: Listing) -> list[int] | None:
    """Times of a KITTI sequence's images in nanoseconds; None where there is no times.txt."""
    place = storage.join(sequence, "times.txt")
    try:
        times = read_times(storage.read_bytes(place), place)
    except NotFoundError:
        return None
    if len(times) != len(files):
        # Part of a sequence: the image's number is its line.
        stems = [name.rpartition(".")[0] for name in files.names]
        if not all(stem.isdecimal() and int(stem) < len(times) for stem in stems):
            raise DriveError(
                f"{place}: expected a line for each of {len(files)} images, got {len(times)} lines; "
                "correct or remove it"
            )
        times = [times[int(stem)] for stem in stems]
    check_rising(times, place)
    return times


def _selection(count: int, times_ns: Sequence[int] | None, used: _Used, drive_id: str) -> Sequence[int]:
    """Which of `count` frames are used."""
    if count and used.start >= count:
        raise DriveError(f"drive {drive_id}: starts at frame {used.start} of {count}; give an earlier start")
    end = count if used.end is None else min(used.end, count)
    if used.fps is None:
        return range(used.start, end, used.stride)
    if times_ns is None:
        raise DriveError(f"drive {drive_id}: fps needs known times, and its frames have none; use a stride")
    period = 1e9 / used.fps
    selected: list[int] = []
    slot = -1
    for i in range(used.start, end):
        # Slots of one period; half a millisecond of slack, as times are often rounded.
        now = math.floor((times_ns[i] - times_ns[used.start] + min(5e5, period / 10)) / period)
        if now > slot:
            selected.append(i)
            slot = now
    return selected


def _first_header(files: Listing, drive_id: str, turn: int | None) -> ImageHeader:
    """What the first image says whose header can be read."""
    reason = ""
    for file in itertools.islice((file for file in files if file.size > 0), FIRST_FRAMES_TRIED):
        try:
            data = storage.read_bytes(file.uri, limit=HEADER_BYTES)
            try:
                return preprocess.read_header(data, turn)
            except DecodeError:
                if file.size <= HEADER_BYTES:
                    raise
            return preprocess.read_header(storage.read_bytes(file.uri), turn)
        except (DecodeError, NotFoundError) as error:
            reason = reason or f"{file.name}: {error}"
    raise DecodeError(
        f"drive {drive_id}: expected a readable image among the first {len(files[:FIRST_FRAMES_TRIED])} of "
        f"{len(files)}, got none ({reason or 'all have no bytes'})"
    )


def _check_size(drive_id: str, width: int, height: int) -> None:
    try:
        preprocess.check_size(width, height)
    except DecodeError as error:
        raise DecodeError(f"drive {drive_id}: {error}") from None


def _white(files: Listing) -> int:
    """The value of white in a drive of pictures of more than 8 bits, by some of them from its whole length."""
    some = sorted({len(files) * part // _DEEP_LOOKED_AT for part in range(_DEEP_LOOKED_AT)})

    def read() -> Iterator[bytes]:
        for place in some:
            with contextlib.suppress(NotFoundError):
                yield storage.read_bytes(files.uri(place))

    return preprocess.white_of(read())


def _video_drive(uri: str, drive_id: str, used: _Used) -> Drive:
    storage.check_drive_id(drive_id)
    file = storage.stored_file(uri)
    if file.size == 0:
        raise DecodeError(f"drive {drive_id}: the video {storage.redacted(uri)} has no bytes")
    timeline = video.read_timeline(uri, used.turn)
    _check_size(drive_id, timeline.width, timeline.height)
    selected = _selection(len(timeline.timestamps_ns), timeline.timestamps_ns, used, drive_id)
    return Drive(
        drive_id=drive_id,
        source_uri=uri,
        kind="video",
        uris=(file.uri,),
        frame_count=len(selected),
        timestamps_ns=tuple(timeline.timestamps_ns[i] for i in selected),
        video_frames=tuple(selected),
        source_width=timeline.width,
        source_height=timeline.height,
        listing=Listing.of([file]),
        turn=used.turn,
        orientation=timeline.orientation,
        notes=timeline.notes,
        camera=known_camera(
            used.camera, storage.parent_and_name(uri)[0], None, (timeline.width, timeline.height), None
        ),
    )
