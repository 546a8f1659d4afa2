"""Finds the drive at a URI: a folder of images, a recording of a data set, a video, or the clips of one recording.

Only names, sizes and headers are read here. A frame that cannot be decoded later keeps its number.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline import storage
from pipeline.cameras.config import CameraConfig
from pipeline.common.visible_text import visible
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest import preprocess, video
from pipeline.ingest.calibration import known_camera
from pipeline.ingest.capture_order import order_notes
from pipeline.ingest.clips import clip_runs, clips_between, ends_of_range, range_name
from pipeline.ingest.dataset_calibrations import in_scene
from pipeline.ingest.dataset_times import PICTURES, camera_folder, dataset_times
from pipeline.ingest.drive import Drive
from pipeline.ingest.films import joined_drive, video_drive
from pipeline.ingest.frame_choice import FrameChoice, check_frame_size, selected_frames
from pipeline.ingest.frame_masks import AUTO, masks_digest
from pipeline.ingest.frame_series import Series, find_series, unused_files
from pipeline.ingest.frame_times import check_rising, read_times
from pipeline.ingest.image_times import image_times
from pipeline.ingest.numbered_folders import comma_files, comma_range, comma_runs, split_frames
from pipeline.ingest.positions_names import is_positions_name, positions_beside
from pipeline.ingest.preprocess import ImageHeader
from pipeline.ingest.rig_drive import VIEWS, rig_drive
from pipeline.ingest.sphere_rig import views_drive
from pipeline.storage import Listing, NotFoundError, UnreadableFileError

__all__ = ["KITTI_FOLDERS", "Drive", "find_drive", "frames_of", "is_drive", "is_image_name"]

# KITTI's left cameras: colour where it exists, else grey.
KITTI_FOLDERS = ("image_2", "image_0")
KITTI_RAW_FOLDERS = ("image_02", "image_00")
HEADER_BYTES = 64 * 1024  # contains the image size, except in JPEGs with large embedded previews
_DEEP_LOOKED_AT = 6  # pictures of more than 8 bits that are read to find the range that they use
FIRST_FRAMES_TRIED = 50  # a drive that begins with more unreadable files is refused

_CAMERA_FOLDER = re.compile(r"image_\d+")
# Files beside frames that other code reads, or that certainly are no frames.
_BESIDE = ("calib.txt", "times.txt", "timestamps.txt", "poses.txt", "thumbs.db", "desktop.ini")
# Images for each clip above which a folder is a drive of images: one picture for each clip is a thumbnail.
_IMAGES_A_CLIP = 4


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
    join: bool = True,
    rig: str | None = None,
    rig_tolerance_s: float | None = None,
) -> Drive:
    """Recognise the drive at a URI.

    Args:
        uri: a folder of images, a KITTI odometry sequence folder or its image folder, a video file; a folder whose
            videos, or numbered folders, are one recording; FOLDER/FIRST..LAST for the clips from one to another.
        drive_id: by default the name of the folder or file (".../sequences/90/image_0" -> "90").
        stride: use every stride-th frame.
        fps: use about this many frames a second instead; needs known times (videos, times.txt).
        start, end: half-open range of the source's frames, before stride or fps; None: all of them.
        turn: degrees to the right by which stored frames are turned, instead of the value in EXIF or the video.
        camera: where the calibration is, if it is not beside the frames.
        masks: a picture, or a folder of pictures, that masks pixels; or auto.
        join: whether several clips or folders may be one drive.
        rig: the folder holds several cameras' folders: auto, or a rig file; views: the views of equirectangular frames
            are cameras; None: one camera.
        rig_tolerance_s: most seconds between pictures of one instant; None: as the layout needs (`rig_drive`).

    Raises:
        DriveError: no usable frames, times or a range that do not fit, an unsafe id; says what to do.
        StorageError: no such folder or bucket, access refused, or no answer.
        ValueError: a stride below one, a rate that is not positive, both of them, or an invalid range.
    """
    _check_rate(stride, fps)
    used = FrameChoice(start or 0, end, stride, fps, turn, camera or CameraConfig())
    uri = storage.absolute(uri)
    _check_text([uri])
    if rig == VIEWS:
        drive = views_drive(uri, used, lambda choice: _one_drive(uri, drive_id, choice, join))
    elif rig is not None:
        every = replace(used, start=0, end=None, stride=1, fps=None)

        def of_camera(folder: str) -> Drive:
            return _folder_drive(folder, None, every, join)

        drive = rig_drive(uri, rig, rig_tolerance_s, drive_id, used, of_camera)
    else:
        drive = _one_drive(uri, drive_id, used, join)
    if masks is None or masks == AUTO:
        return drive
    return replace(drive, masks=masks_digest(storage.absolute(masks), drive.drive_id, drive.frame_uris()))


def _check_rate(stride: int, fps: float | None) -> None:
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be positive, got {fps}")
    if fps is not None and stride != 1:
        raise ValueError(f"give a stride or a rate, not both: got stride {stride} and fps {fps}")


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image of a drive; hidden files (".DS_Store", "._000000.png") are not."""
    return not name.startswith(".") and name.lower().endswith(preprocess.SUFFIXES)


def _one_drive(uri: str, drive_id: str | None, used: FrameChoice, join: bool) -> Drive:
    """The drive of one camera."""
    name = storage.parent_and_name(uri)[1]
    if ends_of_range(name) is not None or comma_range(name) is not None:
        return _range_drive(uri, drive_id, used)
    if video.is_video_name(name):
        return video_drive(uri, drive_id or name.rpartition(".")[0], used)
    drive = _folder_drive(uri, drive_id, used, join)
    found, notes = in_scene({name: drive}, used.camera)
    return replace(found[name], notes=(*drive.notes, *notes))


def _range_drive(uri: str, drive_id: str | None, used: FrameChoice) -> Drive:
    """The drive of FOLDER/FIRST..LAST: clips, or comma2k19's segments."""
    folder, name = storage.parent_and_name(uri)
    ends = ends_of_range(name)
    if ends is not None:
        files = storage.list_files(folder)
        clips = clips_between([one for one in files.names if video.is_video_name(one)], *ends)
        if clips:
            return joined_drive(folder, _taken(files, clips), drive_id or ends[0].rpartition(".")[0], used)
    first, last = ends or comma_range(name) or ("", "")
    for run in comma_runs(folder, storage.list_folders(folder)) if ends is None else []:
        if {first, last} <= set(run.folders):
            run = replace(run, folders=run.folders[run.folders.index(first) : run.folders.index(last) + 1])
            files, times = comma_files(folder, run)
            return joined_drive(folder, files, drive_id or plain_id(first), used, times)
    raise DriveError(f"{storage.redacted(uri)}: expected the first and the last of clips whose names go on counting")


def _folder_drive(uri: str, drive_id: str | None, used: FrameChoice, join: bool) -> Drive:
    """The drive of a folder: of images, clips or numbered folders."""
    here = storage.list_files(uri)
    found = _image_folder(uri, here)
    if found is not None:
        return _image_drive(uri, found, drive_id, used)
    videos = [name for name in here.names if video.is_video_name(name)]
    if join:
        name = drive_id or plain_id(storage.parent_and_name(uri)[1])
        if videos:
            runs = clip_runs(videos, lambda clip: video.read_clip_header(storage.join(uri, clip)))
            longest = max(runs, key=len)
            if len(runs) == 1 and len(longest) > 1:
                return joined_drive(uri, _taken(here, longest), name, used)
            if len(longest) > 1:
                raise DriveError(
                    f"no frames in {storage.redacted(uri)}; it holds {len(videos)} videos of {len(runs)} drives: give "
                    f"one ({range_name(longest)} has {len(longest)} clips), or the folder without --drive-id for all"
                )
        else:
            folders = storage.list_folders(uri)
            segments = comma_runs(uri, folders)
            if len(segments) == 1:
                files, times = comma_files(uri, segments[0])
                return joined_drive(uri, files, name, used, times)
            frames = split_frames(uri, folders)
            if frames is not None:
                return _image_drive(uri, (_beside(here, frames), uri, None), drive_id, used)
    if videos:
        hint = f"; it holds {len(videos)} videos, each of them a drive: give one ({videos[0]}), or the folder without "
        hint += "--drive-id for all of them"
    else:
        hint = "; " + "; ".join((*unused_files(here.names, preprocess.UNREAD), "give the folder that holds the frames"))
    raise DriveError(f"no frames in {storage.redacted(uri)}{hint}")


def _beside(here: Listing, below: Listing) -> Listing:
    """The files in folders below one, and the files beside these folders (a calibration)."""
    if not len(here):
        return below
    names, sizes, etags = below.columns()
    more = here.columns()
    return Listing(here.uri_of_folder, names + more[0], sizes + more[1], etags + more[2])


def plain_id(name: str) -> str:
    """A recording's name as an id: comma2k19's names contain a bar between device and time."""
    return name.replace("|", "_")


def _taken(files: Listing, names: Sequence[str]) -> Listing:
    places = {name: place for place, name in enumerate(files.names)}
    return files.take([places[name] for name in names])


def _image_drive(uri: str, place: tuple[Listing, str, str | None], drive_id: str | None, used: FrameChoice) -> Drive:
    found, folder, sequence = place
    names = positions_beside(() if found.pattern is not None else found.names)
    beside = tuple(storage.join(folder, name) for name in names)
    files, notes = frames_of(found)
    is_raw = folder != uri and not sequence and storage.parent_and_name(folder)[0] != uri  # uri: a KITTI raw recording
    drive_id = storage.check_drive_id(
        drive_id or storage.parent_and_name(uri if is_raw else sequence or camera_folder(folder) or folder)[1]
    )
    times = _kitti_times(sequence, files) if sequence else dataset_times(folder, files)
    if times is None:
        times = image_times(files, used.start, used.end)
    selected = selected_frames(len(files), times, used, drive_id)
    files = files.take(selected)
    first = _first_header(files, drive_id, used.turn)
    check_frame_size(drive_id, *first.size)
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
        notes=(*notes, *order_notes(files)),
        camera=known_camera(used.camera, folder, found, first.size, first.camera),
        beside=beside,
    )


def frames_of(files: Listing) -> tuple[Listing, tuple[str, ...]]:
    """The frames of a folder's drive in order, from a listing sorted as plain text; and notes on files that are not
    used."""
    if files.pattern is not None:  # true for nearly all drives; checking each name would take ten times as long
        return (files if is_image_name(files.pattern) else files.take(())), ()
    names = files.names
    _check_text(names)
    places = [place for place, name in enumerate(names) if is_image_name(name)]
    images = files.take(places)
    others = [
        name
        for name in names
        if not is_image_name(name) and name.lower() not in _BESIDE and not is_positions_name(name)
    ]
    series = Series(tuple(range(len(images)))) if images.pattern is not None else find_series(images.names)
    return images.take(series.order), (*series.notes, *unused_files(others, preprocess.UNREAD | _CLIPS))


def _check_text(names: Sequence[str]) -> None:
    """Raises DriveError for names that are not UTF-8: tables and pages of results cannot contain them."""
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
    """Whether a folder with these numbers of images, videos and folders is a drive of images.

    A folder with more folders than images contains drives, and the images are an overview. A folder with at most four
    pictures for each clip contains clips and their thumbnails.
    """
    return images > 0 and images >= folders and images > (_IMAGES_A_CLIP * videos if videos else 0)


def _image_folder(uri: str, here: Listing) -> tuple[Listing, str, str | None] | None:
    """(contents of the folder of images, its URI, KITTI's sequence folder above it or None) for a folder that has
    images or contains such a folder; else None."""
    if _is_drive_of_images(here):
        parent, name = storage.parent_and_name(uri)
        return here, uri, parent if _CAMERA_FOLDER.fullmatch(name) and storage.parent_and_name(parent)[1] else None
    for names in (
        (KITTI_FOLDERS[0],),
        (KITTI_FOLDERS[1],),
        (PICTURES,),
        *((raw, PICTURES) for raw in KITTI_RAW_FOLDERS),
    ):
        folder = storage.join(uri, *names)
        try:
            files = storage.list_files(folder)
        except NotFoundError:
            continue
        if _has_images(files):
            return files, folder, uri if names[0] in KITTI_FOLDERS else None
    return None


def _has_images(files: Listing) -> bool:
    return any(map(is_image_name, files.names if files.pattern is None else [files.pattern]))


def _is_drive_of_images(files: Listing) -> bool:
    if files.pattern is not None:
        return is_image_name(files.pattern)
    names = files.names
    return is_drive(sum(map(is_image_name, names)), sum(map(video.is_video_name, names)), 0)


_CLIPS = dict.fromkeys(video.SUFFIXES, "a clip is a drive of its own; give it as --input")


def _kitti_times(sequence: str, files: Listing) -> list[int] | None:
    """Times of a KITTI sequence's images in nanoseconds; None without times.txt."""
    place = storage.join(sequence, "times.txt")
    try:
        times = read_times(storage.read_bytes(place), place)
    except NotFoundError:
        return None
    if len(times) != len(files):
        # a part of a sequence: the number of an image is that of its line
        stems = [name.rpartition(".")[0] for name in files.names]
        if not all(stem.isdecimal() and int(stem) < len(times) for stem in stems):
            raise DriveError(
                f"{place}: expected a line for each of {len(files)} images, got {len(times)} lines; "
                "correct or remove it"
            )
        times = [times[int(stem)] for stem in stems]
    check_rising(times, place)
    return times


def _first_header(files: Listing, drive_id: str, turn: int | None) -> ImageHeader:
    """The header of the first image whose header can be read."""
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
        except (DecodeError, NotFoundError, UnreadableFileError) as error:
            reason = reason or f"{file.name}: {error}"
    raise DecodeError(
        f"drive {drive_id}: expected a readable image among the first {len(files[:FIRST_FRAMES_TRIED])} of "
        f"{len(files)}, got none ({reason or 'all have no bytes'})"
    )


def _white(files: Listing) -> int:
    """The value of white in a drive of pictures of more than 8 bits, from some pictures spread over the drive."""
    some = sorted({len(files) * part // _DEEP_LOOKED_AT for part in range(_DEEP_LOOKED_AT)})

    def read() -> Iterator[bytes]:
        for place in some:
            with contextlib.suppress(NotFoundError, UnreadableFileError):
                yield storage.read_bytes(files.uri(place))

    return preprocess.white_of(read())
