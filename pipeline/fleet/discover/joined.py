"""Drives of several files or folders, or of a part of a folder: clips, folders whose frame numbers continue, scenes.
`pipeline.ingest` decides which files belong together; here the drives get unique ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline import storage
from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.ingest import nuscenes
from pipeline.ingest.clips import clip_runs, range_name
from pipeline.ingest.drives import is_image_name, plain_id
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.numbered_folders import COMMA_CLIPS, comma_runs, numbered, split_frames
from pipeline.ingest.video import read_clip_header
from pipeline.storage.retry import patiently

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

    Only the names of frames tell scenes apart, so they are listed here.

    Args:
        above, name: names of the folder above this one, and its own.

    Raises StorageError.
    """
    found = _nuscenes_frames(uri) if above in nuscenes.FOLDERS and name.startswith("CAM_") else []
    if not found:
        yield DriveRef(drive_id, uri)
        return
    counted: dict[str, int] = {}
    for begin, end in nuscenes.scene_ranges(found):
        log = _NO_ID.sub("_", found[begin].log)
        counted[log] = counted.get(log, 0) + 1
        scene = ID_SEPARATOR.join([drive_id, log, f"{counted[log]:03d}"])
        yield DriveRef(scene, uri, begin, end, tags=(name,))


def rig_drives(uri: str, drive_id: str, cameras: Sequence[str]) -> list[DriveRef]:
    """The drives of a folder that holds the folders of a rig's cameras: one, or nuScenes' scenes.

    cameras: URIs of the cameras' folders, the reference first. Raises StorageError.
    """
    above, name = storage.parent_and_name(cameras[0])
    found = list(scenes(cameras[0], drive_id, storage.parent_and_name(above)[1], name))
    if len(found) == 1:
        return [DriveRef(drive_id, uri)]
    return [replace(ref, uri=uri, tags=()) for ref in found]


def _nuscenes_frames(uri: str) -> list[nuscenes.NamedFrame]:
    """Log and time of each frame in order; none where a name is not nuScenes'."""
    names = patiently(lambda: storage.list_files(uri)).names
    return nuscenes.named_frames(sorted(filter(is_image_name, names), key=natural_key))
