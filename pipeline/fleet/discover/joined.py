"""Drives of several files or folders, or of a part of a folder: clips, folders whose frame numbers continue, scenes.
`pipeline.ingest` decides which files belong together; here the drives get unique ids.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from pipeline import storage
from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.ingest.clips import MOST_GAP_NS, clip_runs, range_name
from pipeline.ingest.drives import is_image_name, plain_id
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.name_times import time_in
from pipeline.ingest.numbered_folders import COMMA_CLIPS, comma_runs, numbered, split_frames
from pipeline.ingest.video import read_clip_header
from pipeline.storage.retry import patiently

# nuScenes: samples/CAM_FRONT/LOG__CAM_FRONT__MICROSECONDS.jpg, the keyframes of all scenes in one folder a camera.
_NUSCENES_FOLDERS = ("samples", "sweeps")
_NUSCENES_NAME = re.compile(r"(?P<log>.+?)__(?P<camera>CAM_[A-Z_]+)__(?P<time>\d{16})\.\w+")
_NUMBERS = re.compile(r"\d+")
_NO_ID = re.compile(r"[^A-Za-z0-9._-]")
ID_SEPARATOR = "__"
"""Between the parts of an id: fleet/2024-05-01/0007 is the drive 2024-05-01__0007 of fleet."""

Found = tuple[DriveRef, tuple[str, ...]]
"""A drive, and the names of the files or folders that it consists of."""


def clip_drives(uri: str, drive_id: str, prefix: str, videos: Sequence[str]) -> list[Found]:
    """The drives of several clips among a folder's videos; the others are drives of their own.

    A drive of all videos of a folder has the folder's name; otherwise a drive has the name of its first clip.

    Args:
        uri: the folder.
        drive_id: id of a drive of all its videos.
        prefix: comes before a clip's name in an id; empty at the top.
        videos: names in natural order.

    Raises StorageError.
    """
    runs = patiently(lambda: clip_runs(videos, lambda name: read_clip_header(storage.join(uri, name))))
    if len(runs) == 1 and len(runs[0]) > 1:
        return [(DriveRef(drive_id, uri), runs[0])]
    return [
        (DriveRef(f"{prefix}{run[0].rpartition('.')[0]}", storage.join(uri, range_name(run))), run)
        for run in runs
        if len(run) > 1
    ]


def is_family(folders: Sequence[str]) -> bool:
    """Whether the names of some folders differ only in a number."""
    return any(len(run) > 1 for run in numbered(folders))


def may_go_on(first: str | None, second: str | None) -> bool:
    """Whether frame numbers may continue from one folder to the next, judged by the name of one picture of each."""
    if first is None or second is None or _NUMBERS.sub("#", first) != _NUMBERS.sub("#", second):
        return False
    return natural_key(first) < natural_key(second)


def folder_drives(uri: str, drive_id: str, folders: Sequence[str], videos: Sequence[str]) -> list[Found]:
    """The drives that lie in several numbered folders below `uri`.

    Args:
        drive_id: id of a drive of all these folders.
        videos: of the first folder. comma2k19's and openpilot's are recognised by their names; else it holds pictures.

    Raises StorageError.
    """
    if not any(name in COMMA_CLIPS for name in videos):
        frames = patiently(lambda: split_frames(uri, folders))
        return [] if frames is None else [(DriveRef(drive_id, uri), tuple(folders))]
    runs = patiently(lambda: comma_runs(uri, folders))
    name = plain_id(drive_id)
    if len(runs) == 1 and set(runs[0].folders) == set(folders):
        return [(DriveRef(name, uri), runs[0].folders)]
    return [
        (
            DriveRef(f"{name}{ID_SEPARATOR}{run.folders[0]}", storage.join(uri, range_name(run.folders))),
            run.folders,
        )
        for run in runs
    ]


def scenes(uri: str, drive_id: str, above: str, name: str) -> Iterator[DriveRef]:
    """The drives of a folder of pictures: one, or the scenes of nuScenes, which share one folder for each camera.

    A scene ends where the log changes or more than 5 s pass. Only the names of frames tell scenes apart, so they are
    listed here.

    Args:
        above, name: names of the folder above this one, and its own.

    Raises StorageError.
    """
    found = _nuscenes_frames(uri) if above in _NUSCENES_FOLDERS and name.startswith("CAM_") else []
    if not found:
        yield DriveRef(drive_id, uri)
        return
    cuts = [
        at
        for at, (one, two) in enumerate(itertools.pairwise(found), start=1)
        if one[0] != two[0] or not 0 < two[1] - one[1] <= MOST_GAP_NS
    ]
    counted: dict[str, int] = {}
    for begin, end in itertools.pairwise([0, *cuts, len(found)]):
        log = _NO_ID.sub("_", found[begin][0])
        counted[log] = counted.get(log, 0) + 1
        scene = ID_SEPARATOR.join([drive_id, log, f"{counted[log]:03d}"])
        yield DriveRef(scene, uri, begin, end, tags=(name,))


def _nuscenes_frames(uri: str) -> list[tuple[str, int]]:
    """Log and time of each frame in order; none where a name is not nuScenes'."""
    names = patiently(lambda: storage.list_files(uri)).names
    frames = []
    for name in sorted(filter(is_image_name, names), key=natural_key):
        found = _NUSCENES_NAME.fullmatch(name)
        told = time_in(found["time"]) if found is not None else None
        if found is None or told is None:
            return []
        frames.append((found["log"], told.time_ns))
    return frames
