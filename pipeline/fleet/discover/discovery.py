"""Finds the drives of an input: below a prefix (by its layout), in a drive list, or a single drive.

Folders are listed, but not their frames: listing a folder stops once its first names show that it is a drive. A prefix
with 10,000 drives costs ten requests for its own listing and a small one for each drive. Planning lists the frames.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

from pipeline import storage
from pipeline.common.visible_text import visible
from pipeline.errors import DriveError, PipelineError, StorageError
from pipeline.fleet.discover.drive_list import DRIVE_LIST_SUFFIXES, read_drive_list
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.discover.folder_look import SEQUENCES, FolderLook, look_again, look_into, with_cameras
from pipeline.fleet.discover.joined import (
    ID_SEPARATOR,
    clip_drives,
    folder_drives,
    is_family,
    may_go_on,
    rig_drives,
    scenes,
)
from pipeline.fleet.discover.link_guard import LinkGuard
from pipeline.ingest import video
from pipeline.ingest.dataset_times import PICTURES
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.rig_drive import AUTO, check_rig

# Listings in flight at a time: each is small, and a store answers in between some ms and some 100 ms.
LOOKS_AHEAD = 32
# Folders below --input that are searched for drives (a date, a city, a vehicle, the drive).
DEPTH = 4
_ARGOVERSE = ("sensors", "cameras")  # LOG/sensors/cameras/ring_front_center/*.jpg: not part of a drive's name
_GIVE = "give the drive's images or video, or a folder of such"
_NOTED = 20  # further notes are only counted


def iter_drives(
    source: str,
    leave_out: str | None = None,
    note: Callable[[str], None] = lambda said: None,
    join: bool = True,
    rig: str | None = None,
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
        rig: auto or a rig file: a folder that holds the folders of several cameras is one drive. With auto, others are
            drives of one camera, which is noted.

    A folder with more folders than images contains drives, and its images (an overview) are ignored. Otherwise it is
    one drive, and its folders (masks, depth) are ignored. A folder without pictures (lidar, GPS) gives a note; one
    whose pictures cannot be read (HEIC) gives a drive that fails. A drive in a folder named data (KITTI raw, EuRoC) has
    the name of the folder above. Links to folders are followed, each folder once. Results of this program are no
    drives. Of two drives with one id the second is refused. Memory grows with the number of ids, not of frames.

    Raises:
        DriveError: the input does not exist, cannot be listed, or is not a readable drive list; the rig file cannot be
            read; or, at the end, the input contains no drive.
        StorageError: the store failed.
    """
    source = storage.absolute(source)
    name = storage.parent_and_name(source)[1].lower()
    if name.endswith(DRIVE_LIST_SUFFIXES):
        return _checked(read_drive_list(source, note))
    if video.is_video_name(name):
        return _checked([DriveRef(_stem(storage.parent_and_name(source)[1]), source)])
    if rig is not None:
        check_rig(rig)
    top = with_cameras(look_into(source), source, rig)
    if top.has_rig:
        return _checked(_of_rig(storage.parent_and_name(source)[1], source, top, join))
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
    search = _Search(source, storage.absolute(leave_out) if leave_out else None, note, join, rig)
    return _checked(search.drives(top))


@dataclass
class _Waiting:
    """An entry below the source that waits to be handled: a folder (with its listing, once that has begun), a video, or
    a drive of several files."""

    path: tuple[str, ...]
    is_folder: bool
    look: Future[FolderLook | None] | None = None
    ref: DriveRef | None = None

    def cancel(self) -> None:
        """Do not list it, if that has not begun."""
        if self.look is not None:
            self.look.cancel()


class _Search:
    """Looks for drives below a folder: depth first, in natural order of the paths; the next folders are listed in
    advance. A folder that cannot be listed does not end the search: the others follow, and StorageError is raised at
    the end."""

    def __init__(
        self, source: str, leave_out: str | None, note: Callable[[str], None], join: bool, rig: str | None
    ) -> None:
        self._source, self._leave_out, self._join, self._rig, self._note = source, leave_out, join, rig, note
        self._single: list[str] = []  # ids of drives of one camera, where rigs are looked for
        self._links = LinkGuard(source, DEPTH, leave_out)
        self._unused = _Unused(note)
        self._refused: deque[RefusedDrive] = deque()
        self._unseen: list[StorageError] = []
        self._families: dict[tuple[str, ...], tuple[str, ...]] = {}  # folder -> numbered folders in it
        self._waiting: deque[_Waiting] = deque()

    def drives(self, top: FolderLook) -> Iterator[DriveRef | RefusedDrive]:
        """The drives, as they are found. top: the listing of the source. Raises the errors of `iter_drives`."""
        found = 0
        with ThreadPoolExecutor(LOOKS_AHEAD, thread_name_prefix="look") as pool:
            self._expand((), top)
            try:
                while self._waiting or self._refused:
                    if self._refused:
                        found += 1
                        yield self._refused.popleft()
                        continue
                    self._list_ahead(pool)
                    for ref in self._next():
                        found += 1
                        yield ref
            finally:
                for one in self._waiting:
                    one.cancel()
        self._unused.close()
        if self._single:
            names = ", ".join(self._single[:3]) + (" ..." if len(self._single) > 3 else "")
            self._note(f"{len(self._single)} drive(s) have one camera, no rig: {names}")
        if self._unseen:
            raise StorageError(f"{len(self._unseen)} folder(s) could not be looked into, the first: {self._unseen[0]}")
        if not found:
            why = self._unused.first or "it is empty"
            raise DriveError(f"no drives below {storage.redacted(self._source)}: {why}; {_GIVE}")

    def _list_ahead(self, pool: ThreadPoolExecutor) -> None:
        for one in islice(self._waiting, LOOKS_AHEAD):
            if one.is_folder and one.look is None:
                one.look = pool.submit(look_again, storage.join(self._source, *one.path), self._rig)

    def _next(self) -> list[DriveRef]:
        """Handle the first entry that waits: its drives, if it is or begins some; else what it contains waits next."""
        here = self._waiting.popleft()
        try:
            look = here.look.result() if here.look is not None else None
            refs = self._drives_at(here, look)
        except StorageError as error:
            self._unseen.append(error)
            return []
        if refs or look is None:
            rigs_wanted = self._rig == AUTO and not (look is not None and look.has_rig)
            return [self._of_one_camera(ref) for ref in refs] if rigs_wanted else refs
        where = storage.redacted(storage.join(self._source, *here.path))
        if look.is_result:
            self._unused.add(f"{where} is a result of this program, no drive")
        elif not (look.holds_more or look.dangling or look.passed_over):
            self._unused.add(f"{where} holds no pictures")
        elif len(here.path) >= DEPTH + _deeper(here.path):
            # planning will fail with its name; otherwise drives deeper down would be lost silently
            return [DriveRef(_id_of(here.path, self._source), storage.join(self._source, *here.path))]
        else:
            self._expand(here.path, look)
        return []

    def _drives_at(self, here: _Waiting, look: FolderLook | None) -> list[DriveRef]:
        """The drives that an entry is, or begins together with folders numbered like it. look: None for a video, and
        for a folder that is gone or refused. Raises StorageError."""
        if look is not None and look.has_rig:
            uri = storage.join(self._source, *here.path)
            return _of_rig(_id_of(here.path, self._source), uri, look, self._join)
        if look is not None and here.path[:-1] in self._families:
            together = self._taken_together(here.path, look)
            if together:
                return together
        if here.ref is not None:
            return [here.ref]
        if not (look is None or look.is_drive or (look.has_unread and not look.holds_more)):
            return []
        path, uri = here.path, storage.join(self._source, *here.path)
        name = _id_of(path if here.is_folder else (*path[:-1], _stem(path[-1])), self._source)
        if not (self._join and look is not None and look.is_drive):
            return [DriveRef(name, uri)]
        above = path[-2] if len(path) > 1 else storage.parent_and_name(self._source)[1]
        return list(scenes(uri, name, above, path[-1]))

    def _of_one_camera(self, ref: DriveRef) -> DriveRef:
        self._single.append(ref.drive_id)
        return replace(ref, rig="none")

    def _taken_together(self, path: tuple[str, ...], look: FolderLook) -> list[DriveRef]:
        """The drives in this folder and in the folders numbered like it, which are removed from the queue."""
        place, waiting = path[:-1], self._waiting
        names = self._families.pop(place)
        after = waiting[0].look if waiting and waiting[0].path[:-1] == place else None
        second = after.result() if after is not None else None
        pictures = look.is_drive and second is not None and may_go_on(look.image, second.image)
        if not pictures and not look.videos:
            return []
        found = folder_drives(storage.join(self._source, *place), _id_of(place, self._source), names, look.videos)
        taken = {(*place, name) for _, run in found for name in run}
        for one in [one for one in waiting if one.path in taken]:
            one.cancel()
            waiting.remove(one)
        return [ref for ref, _ in found]

    def _expand(self, place: tuple[str, ...], look: FolderLook) -> None:
        """Put the contents of a folder at the front of the queue."""
        names = [name for name in look.folders if self._is_searched(storage.join(self._source, *place, name))]
        if self._join and not look.videos and is_family(names):
            self._families[place] = tuple(names)
        self._waiting.extendleft(reversed(self._clips_of(place, look.videos)))
        self._waiting.extendleft(_Waiting((*place, name), True) for name in reversed(names))
        where = storage.join(self._source, *place)
        if look.images:
            self._unused.add(
                f"{look.images} picture(s) in {storage.redacted(where)} are not used: the drives are the clips or "
                "folders there"
            )
        for name in look.passed_over:
            self._unused.add(f"{storage.redacted(storage.join(where, name))} holds pictures that no camera took")
        for name in look.dangling:
            uri = storage.join(where, name)
            reason = f"{uri} is a symbolic link to {os.readlink(uri)}, which is not there"
            drive_id = _id_of((*place, name), self._source)
            self._refused.append(RefusedDrive(visible(drive_id), visible(uri), visible(reason)))

    def _clips_of(self, place: tuple[str, ...], videos: tuple[str, ...]) -> list[_Waiting]:
        """The entries for a folder's videos; clips that are one drive are one entry."""
        joined: dict[str, DriveRef | None] = {}
        if self._join and len(videos) > 1:
            folder, name = storage.join(self._source, *place), _id_of(place, self._source)
            prefix = _id_of((*place, ""), self._source) if place else ""
            try:
                for ref, run in clip_drives(folder, name, prefix, videos):
                    joined |= {**dict.fromkeys(run), run[0]: ref}
            except StorageError as error:
                self._unseen.append(error)
                return []
        single = [_Waiting((*place, name), False) for name in videos if name not in joined]
        put = [_Waiting((*place, name), False, ref=ref) for name, ref in joined.items() if ref is not None]
        return sorted([*single, *put], key=lambda one: natural_key(one.path[-1]))

    def _is_searched(self, uri: str) -> bool:
        if uri == self._leave_out:
            return False
        why_not = self._links.why_not(uri)
        if why_not:
            self._unused.add(why_not)
        return not why_not


def _of_rig(drive_id: str, uri: str, look: FolderLook, join: bool) -> list[DriveRef]:
    """The drives of a folder with cameras' folders. Raises StorageError."""
    return rig_drives(uri, drive_id, look.cameras) if join and look.cameras else [DriveRef(drive_id, uri)]


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


def _id_of(path: tuple[str, ...], source: str) -> str:
    names = path[1:] if len(path) > 1 and path[0] == SEQUENCES else path
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
