"""Finds the drives of an input: below a prefix (by its layout), in a drive list, or a single drive.

Folders are listed, but not their frames: listing a folder stops once its first names show that it is a drive. A prefix
with 10,000 drives costs ten requests for its own listing and a small one for each drive. Planning lists the frames.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from pipeline import storage
from pipeline.common.visible_text import visible
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.fleet.discover.drive_list import DRIVE_LIST_SUFFIXES, read_drive_list
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.discover.joined import (
    ID_SEPARATOR,
    clip_drives,
    folder_drives,
    is_family,
    may_go_on,
    scenes,
)
from pipeline.fleet.discover.link_guard import LinkGuard
from pipeline.ingest import video
from pipeline.ingest.dataset_times import PICTURES
from pipeline.ingest.drives import KITTI_FOLDERS, is_drive, is_image_name
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.preprocess import UNREAD
from pipeline.storage import NotFoundError, RefusedError
from pipeline.storage.retry import patiently

# Listings in flight at a time: each is small, and a store answers in between some ms and some 100 ms.
LOOKS_AHEAD = 32
# Names in the first request of a listing; the first image or camera folder is nearly always among them.
FIRST_LOOK_NAMES = 50
# Folders below --input that are searched for drives (a date, a city, a vehicle, the drive).
DEPTH = 4
# KITTI's folder of sequences is not part of a drive's name; poses/ beside it holds the ground truth.
_SEQUENCES, _POSES = "sequences", "poses"
# Folders with other pictures beside the folders of cameras: nuScenes' maps.
_NOT_DRIVES = (("samples", "maps"),)
_ARGOVERSE = ("sensors", "cameras")  # LOG/sensors/cameras/ring_front_center/*.jpg: not part of a drive's name
_RESULT_FILES = {"manifest.json", "poses.parquet"}
_GIVE = "give the drive's images or video, or a folder of such"
_NOTED = 20  # further notes are only counted


def iter_drives(
    source: str, leave_out: str | None = None, note: Callable[[str], None] = lambda said: None, join: bool = True
) -> Iterator[DriveRef | RefusedDrive]:
    """All drives of an input, as they are found. An entry that cannot be a drive is yielded as RefusedDrive; the others
    follow.

    Args:
        source: a drive list (formats: `pipeline.fleet.discover.drive_list`), a video, a folder of images, a KITTI
            sequence, or a folder that contains such, at most DEPTH levels down. Below a folder, names that begin with
            "." or "_" are left out. The id of a drive is its name after the names of the folders above it.
        leave_out: a folder that is not searched though it may be below source: the output of the run.
        note: called with one line for each part of the input that is not used.
        join: make one drive of files and folders that belong together (clips, folders whose frame numbers continue),
            and cut nuScenes' folders into scenes; else each video and each folder of pictures is a drive.

    A folder with more folders than images contains drives, and its images (an overview) are ignored. Otherwise it is
    one drive, and its folders (masks, depth) are ignored. A folder without pictures (lidar, GPS) gives a note; one
    whose pictures cannot be read (HEIC) gives a drive that fails. A drive in a folder named data (KITTI raw, EuRoC) has
    the name of the folder above. Links to folders are followed, each folder once. Results of this program are no
    drives. Of two drives with one id the second is refused. Memory grows with the number of ids, not of frames.

    Raises:
        DriveError: the input does not exist, cannot be listed, or is not a readable drive list; or, at the end, it
            contains no drive.
        StorageError: the store failed.
    """
    source = storage.absolute(source)
    name = storage.parent_and_name(source)[1].lower()
    if name.endswith(DRIVE_LIST_SUFFIXES):
        return _checked(read_drive_list(source, note))
    if video.is_video_name(name):
        return _checked([DriveRef(_stem(storage.parent_and_name(source)[1]), source)])
    top = _look(source)
    if top.is_drive:
        above, own = storage.parent_and_name(source)
        parts = scenes(source, own, storage.parent_and_name(above)[1], own) if join else [DriveRef(own, source)]
        return _checked(parts)
    if top.is_result:
        raise DriveError(f"{storage.redacted(source)} is a result of this program; {_GIVE}")
    if top.has_unread and not (top.folders or top.videos):
        return _checked(
            [DriveRef(storage.parent_and_name(source)[1], source)]
        )  # planning says which files are not read
    if not top.folders and not top.videos and not top.dangling:
        raise DriveError(
            f"no drives below {storage.redacted(source)}: it holds no images, no videos and no folders; "
            f"give a folder of drives, a drive, or a drive list ({', '.join(DRIVE_LIST_SUFFIXES)})"
        )
    return _checked(_below(source, top, storage.absolute(leave_out) if leave_out else None, note, join))


@dataclass(frozen=True)
class _Look:
    """The contents of a folder. is_drive: images or KITTI's cameras; the other fields may then be unknown. dangling:
    dangling links that may have led to drives; has_unread: there are pictures of formats that are not read;
    passed_over: folders that contain no drives, as the folders beside them show."""

    is_drive: bool
    folders: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    dangling: tuple[str, ...] = ()
    has_unread: bool = False
    is_result: bool = False
    passed_over: tuple[str, ...] = ()
    images: int = 0  # beside drives: thumbnails, an overview
    image: str | None = None  # the name of one

    @property
    def holds_more(self) -> bool:
        """Whether there are folders or videos in it."""
        return bool(self.folders or self.videos)


def _look(uri: str, first_page: int = FIRST_LOOK_NAMES) -> _Look:
    """List a folder; stop when its first names show that it is a drive."""
    folders, videos, images, has_unread = [], [], 0, False
    image: str | None = None
    plain: list[str] = []  # names without an ending: links to drives have such names
    result_files = set()
    for number, entry in enumerate(storage.iter_folder(uri, first_page), 1):
        if entry.is_folder and entry.name in KITTI_FOLDERS:
            return _Look(True)
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_folder:
            folders.append(entry.name)
        elif is_image_name(entry.name):
            images += 1
            image = image or entry.name
        elif video.is_video_name(entry.name):
            videos.append(entry.name)
        elif entry.name in _RESULT_FILES:
            result_files.add(entry.name)
        elif "." not in entry.name:
            plain.append(entry.name)
        elif "." + entry.name.lower().rpartition(".")[2] in UNREAD:
            has_unread = True
        if number >= first_page and images > len(folders) and is_drive(images, len(videos), len(folders)):
            return _Look(True, image=image)
    if is_drive(images, len(videos), len(folders)):
        return _Look(True, image=image)
    if result_files == _RESULT_FILES:
        return _Look(False, is_result=True)
    if _SEQUENCES in folders and _POSES in folders:
        folders.remove(_POSES)
    passed_over = [name for beside, name in _NOT_DRIVES if beside in folders and name in folders]
    return _Look(
        False,
        tuple(sorted((name for name in folders if name not in passed_over), key=natural_key)),
        tuple(sorted(videos, key=natural_key)),
        tuple(name for name in sorted(plain) if storage.is_local(uri) and storage.is_dangling(storage.join(uri, name))),
        has_unread,
        passed_over=tuple(passed_over),
        images=images,
    )


@dataclass
class _Waiting:
    """An entry below the source that waits to be handled: a folder (with its listing, once that has begun), a video, or
    a drive of several files."""

    path: tuple[str, ...]
    is_folder: bool
    look: Future[_Look | None] | None = None
    ref: DriveRef | None = None


def _below(
    source: str, top: _Look, leave_out: str | None, note: Callable[[str], None], join: bool
) -> Iterator[DriveRef | RefusedDrive]:
    """Drives below a folder in natural order of their paths: depth first; the next folders are listed in advance. Where
    a folder cannot be listed, the others follow, and StorageError is raised at the end."""
    links = LinkGuard(source, DEPTH, leave_out)
    unused = _Unused(note)
    refused: deque[RefusedDrive] = deque()

    def expand(place: tuple[str, ...], look: _Look) -> None:
        """Put the contents of a folder at the front of the queue."""
        names = [name for name in look.folders if _is_searched(storage.join(source, *place, name))]
        if join and not look.videos and is_family(names):
            families[place] = tuple(names)
        waiting.extendleft(reversed(clips_of(place, look.videos)))
        waiting.extendleft(_Waiting((*place, name), True) for name in reversed(names))
        if look.images:
            where = storage.redacted(storage.join(source, *place))
            unused.add(f"{look.images} picture(s) in {where} are not used: the drives are the clips or folders there")
        for name in look.passed_over:
            unused.add(f"{storage.redacted(storage.join(source, *place, name))} holds pictures that no camera took")
        for name in look.dangling:
            uri = storage.join(source, *place, name)
            reason = f"{uri} is a symbolic link to {os.readlink(uri)}, which is not there"
            refused.append(RefusedDrive(visible(_id_of((*place, name), source)), visible(uri), visible(reason)))

    def clips_of(place: tuple[str, ...], videos: tuple[str, ...]) -> list[_Waiting]:
        """The entries for a folder's videos; clips that are one drive are one entry."""
        joined: dict[str, DriveRef | None] = {}
        if join and len(videos) > 1:
            prefix = _id_of((*place, ""), source) if place else ""
            try:
                for ref, run in clip_drives(storage.join(source, *place), _id_of(place, source), prefix, videos):
                    joined |= {**dict.fromkeys(run), run[0]: ref}
            except StorageError as error:
                unseen.append(error)
                return []
        single = [_Waiting((*place, name), False) for name in videos if name not in joined]
        put = [_Waiting((*place, name), False, ref=ref) for name, ref in joined.items() if ref is not None]
        return sorted([*single, *put], key=lambda one: natural_key(one.path[-1]))

    def taken_together(path: tuple[str, ...], look: _Look) -> list[DriveRef]:
        """The drives in this folder and in the folders numbered like it, which are removed from the queue."""
        names = families.pop(path[:-1])
        after = waiting[0].look if waiting and waiting[0].path[:-1] == path[:-1] else None
        second = after.result() if after is not None else None
        pictures = look.is_drive and second is not None and may_go_on(look.image, second.image)
        if not pictures and not look.videos:
            return []
        place = path[:-1]
        found = folder_drives(storage.join(source, *place), _id_of(place, source), names, look.videos)
        taken = {(*place, name) for _, run in found for name in run}
        for one in [one for one in waiting if one.path in taken]:
            if one.look is not None:
                one.look.cancel()
            waiting.remove(one)
        return [ref for ref, _ in found]

    def _is_searched(uri: str) -> bool:
        why_not = None if uri == leave_out else links.why_not(uri)
        if why_not:
            unused.add(why_not)
        return uri != leave_out and not why_not

    unseen: list[StorageError] = []
    found = 0
    families: dict[tuple[str, ...], tuple[str, ...]] = {}  # folder -> numbered folders in it
    waiting: deque[_Waiting] = deque()
    with ThreadPoolExecutor(LOOKS_AHEAD, thread_name_prefix="look") as pool:
        expand((), top)
        try:
            while waiting or refused:
                while refused:
                    found += 1
                    yield refused.popleft()
                if not waiting:
                    break
                for one in islice(waiting, LOOKS_AHEAD):
                    if one.is_folder and one.look is None:
                        one.look = pool.submit(_look_again, storage.join(source, *one.path))
                here = waiting.popleft()
                path = here.path
                uri = storage.join(source, *path)
                try:
                    look = here.look.result() if here.look is not None else None
                    together = taken_together(path, look) if look is not None and path[:-1] in families else []
                    is_drive_here = look is None or look.is_drive or (look.has_unread and not look.holds_more)
                    refs = together
                    if here.ref is not None:
                        refs = [here.ref]
                    elif not together and is_drive_here:
                        name = _id_of(path if here.is_folder else (*path[:-1], _stem(path[-1])), source)
                        above = path[-2] if len(path) > 1 else storage.parent_and_name(source)[1]
                        is_images = join and look is not None and look.is_drive
                        refs = list(scenes(uri, name, above, path[-1])) if is_images else [DriveRef(name, uri)]
                except StorageError as error:
                    unseen.append(error)
                    continue
                found += len(refs)
                yield from refs
                if refs or look is None:
                    continue
                if look.is_result:
                    unused.add(f"{storage.redacted(uri)} is a result of this program, no drive")
                elif not (look.holds_more or look.dangling or look.passed_over):
                    unused.add(f"{storage.redacted(uri)} holds no pictures")
                elif len(path) >= DEPTH + _deeper(path):
                    found += 1
                    # planning will fail with its name; otherwise drives deeper down would be lost silently
                    yield DriveRef(_id_of(path, source), uri)
                else:
                    expand(path, look)
        finally:
            for one in waiting:
                if one.look is not None:
                    one.look.cancel()
    unused.close()
    if unseen:
        raise StorageError(f"{len(unseen)} folder(s) could not be looked into, the first: {unseen[0]}")
    if not found:
        raise DriveError(f"no drives below {storage.redacted(source)}: {unused.first or 'it is empty'}; {_GIVE}")


def _deeper(path: tuple[str, ...]) -> int:
    """Number of levels in a path that a data set's layout adds."""
    return len(_ARGOVERSE) if any(path[at : at + 2] == _ARGOVERSE for at in range(len(path))) else 0


class _Unused:
    """Notes about folders that are not used: the first ones one by one, of the rest the number."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._count = note, 0
        self.first = ""

    def add(self, said: str) -> None:
        self.first = self.first or said
        self._count += 1
        if self._count <= _NOTED:
            self._note(said)

    def close(self) -> None:
        if self._count > _NOTED:
            self._note(f"{self._count - _NOTED} more folders are not used")


def _look_again(uri: str) -> _Look | None:
    """The listing of a folder; None where it is gone or refused: then planning reports it."""
    try:
        return patiently(lambda: _look(uri))
    except (NotFoundError, RefusedError):
        return None


def _id_of(path: tuple[str, ...], source: str) -> str:
    names = path[1:] if len(path) > 1 and path[0] == _SEQUENCES else path
    for at in range(len(names)):
        if names[at : at + 2] == _ARGOVERSE and at + 2 < len(names):
            names = names[:at] + names[at + 2 :]
            break
    if not names or names[-1] == PICTURES:
        names = names[:-1] or (storage.parent_and_name(source)[1],)
    return ID_SEPARATOR.join(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _checked(found: Iterable[DriveRef | RefusedDrive]) -> Iterator[DriveRef | RefusedDrive]:
    """Refuse ids that cannot be folder names, and ids that are taken."""
    seen: dict[str, str] = {}
    for ref in found:
        if isinstance(ref, RefusedDrive):
            yield ref
            continue
        try:
            storage.check_drive_id(ref.drive_id)
        except PipelineError as error:
            reason = str(error).replace("(--drive-id)", "(rename it, or name it in a drive list)")
            yield RefusedDrive(visible(ref.drive_id), visible(ref.uri), visible(reason))
            continue
        if ref.drive_id in seen:
            other = storage.redacted(seen[ref.drive_id])
            reason = f"drive id {ref.drive_id!r} is taken by {other}; give this one another id in a drive list"
            yield RefusedDrive(visible(ref.drive_id), visible(ref.uri), visible(reason))
            continue
        seen[ref.drive_id] = ref.uri
        yield ref
