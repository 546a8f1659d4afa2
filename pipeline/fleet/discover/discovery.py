"""Which drives there are: below a prefix (found by layout), in a manifest, or one alone.

Names of folders are read, names of frames are not: a look at a folder stops at its first image. A prefix with 10,000
drives costs ten requests for its own listing and one small one a drive; frames are listed when a drive is planned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import DriveError, StorageError
from pipeline.fleet.discover.drive_list import MANIFEST_SUFFIXES, read_manifest_refs
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.ingest import video
from pipeline.ingest.drives import KITTI_FOLDERS, is_drive, is_image_name
from pipeline.ingest.frame_series import natural_key
from pipeline.storage import NotFoundError, RefusedError
from pipeline.storage.retry import patiently

# Looks under way at a time: a store answers each in some ms to some 100 ms, and they are small.
LOOKS_AHEAD = 32
# Names asked for in the first request of a look; the first image or camera folder is nearly always among them.
FIRST_LOOK_NAMES = 50
# Folders below --input that are searched for drives (a date, a city, a vehicle, the drive).
DEPTH = 4
# Between the parts of an id: fleet/2024-05-01/0007 is the drive 2024-05-01__0007 of fleet.
ID_SEPARATOR = "__"
# KITTI's folder of sequences adds nothing to a drive's name; poses/ beside it holds the truth.
_SEQUENCES, _POSES = "sequences", "poses"


def iter_drives(
    source: str, leave_out: str | None = None, note: Callable[[str], None] = lambda said: None
) -> Iterator[DriveRef | RefusedDrive]:
    """All drives of an input, as they are found; what cannot be a drive comes as RefusedDrive and stops nothing.

    Args:
        source: a manifest (`pipeline.fleet.discover.drive_list` says which), a video, a folder of images,
            a KITTI sequence, or a folder that holds such, at most DEPTH levels down. Below a prefix names that begin
            with "." or "_" are left out. The id of a drive is its name, with the names of the folders
            above it in front of it.
        leave_out: a folder that holds no drives though it may lie below source: the run's output.
        note: told in one line what of the input is not used, as it is found.

    A folder with more folders than images holds drives, and the images are nothing of theirs (an overview); else it is
    one drive, and its folders are nothing of its own (masks, depth). A folder without images, videos and folders is a
    drive too: it fails by name later, where it would be missed otherwise. Two drives of one id: the second is refused.
    Memory grows with the ids, not with the frames.

    Raises:
        DriveError: the input itself is not there, cannot be listed, or is not a readable manifest; StorageError too.
    """
    source = storage.absolute(source)
    name = storage.parent_and_name(source)[1].lower()
    if name.endswith(MANIFEST_SUFFIXES):
        return _checked(read_manifest_refs(source, note))
    if video.is_video_name(name):
        return _checked([DriveRef(_stem(storage.parent_and_name(source)[1]), source)])
    top = _look(source)
    if top.is_drive:
        return _checked([DriveRef(storage.parent_and_name(source)[1], source)])
    if not top.folders and not top.videos:
        raise DriveError(
            f"no drives below {storage.redacted(source)}: it holds no images, no videos and no folders; "
            f"give a folder of drives, a drive, or a manifest ({', '.join(MANIFEST_SUFFIXES)})"
        )
    return _checked(_below(source, top, storage.absolute(leave_out) if leave_out else None))


@dataclass(frozen=True)
class _Look:
    """What a folder holds. is_drive: images or KITTI's cameras; the rest may then be unknown."""

    is_drive: bool
    folders: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()


def _look(uri: str, first_page: int = FIRST_LOOK_NAMES) -> _Look:
    """One listing of a folder, stopped when its first names say that it is a drive."""
    folders, videos, images = [], [], 0
    for number, entry in enumerate(storage.iter_folder(uri, first_page), 1):
        if entry.is_folder and entry.name in KITTI_FOLDERS:
            return _Look(True)
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_folder:
            folders.append(entry.name)
        elif is_image_name(entry.name):
            images += 1
        elif video.is_video_name(entry.name):
            videos.append(entry.name)
        if number >= first_page and images > len(folders) and is_drive(images, len(videos), len(folders)):
            return _Look(True)
    if is_drive(images, len(videos), len(folders)):
        return _Look(True)
    if _SEQUENCES in folders and _POSES in folders:
        folders.remove(_POSES)
    return _Look(False, tuple(sorted(folders, key=natural_key)), tuple(sorted(videos, key=natural_key)))


def _below(source: str, top: _Look, leave_out: str | None) -> Iterator[DriveRef]:
    """Drives below a folder in natural order of their paths: depth first, with looks ahead. A folder that the store
    does not let us look into costs no other drive, and is said at the end: raises StorageError there."""

    def expand(place: tuple[str, ...], look: _Look) -> None:
        """Put what a folder holds in front of what waits."""
        waiting.extendleft(((*place, name), False, None) for name in reversed(look.videos))
        folders = [(*place, name) for name in reversed(look.folders)]
        waiting.extendleft((path, True, None) for path in folders if storage.join(source, *path) != leave_out)

    unseen: list[StorageError] = []
    waiting: deque[tuple[tuple[str, ...], bool, Future[_Look | None] | None]] = deque()
    with ThreadPoolExecutor(LOOKS_AHEAD, thread_name_prefix="look") as pool:
        expand((), top)
        try:
            while waiting:
                for index in range(min(LOOKS_AHEAD, len(waiting))):
                    path, is_folder, future = waiting[index]
                    if is_folder and future is None:
                        waiting[index] = path, is_folder, pool.submit(_look_again, storage.join(source, *path))
                path, is_folder, future = waiting.popleft()
                uri = storage.join(source, *path)
                try:
                    look = future.result() if future is not None else None
                except StorageError as error:
                    unseen.append(error)
                    continue
                if look is None or look.is_drive or len(path) >= DEPTH or not (look.folders or look.videos):
                    yield DriveRef(_id_of(path if is_folder else (*path[:-1], _stem(path[-1]))), uri)
                else:
                    expand(path, look)
        finally:
            for _, _, future in waiting:
                if future is not None:
                    future.cancel()
    if unseen:
        raise StorageError(f"{len(unseen)} folder(s) could not be looked into, the first: {unseen[0]}")


def _look_again(uri: str) -> _Look | None:
    """A look at a folder that was just listed; None where it is gone or closed to us: the plan says so by name."""
    try:
        return patiently(lambda: _look(uri))
    except (NotFoundError, RefusedError):
        return None


def _id_of(path: tuple[str, ...]) -> str:
    names = path[1:] if len(path) > 1 and path[0] == _SEQUENCES else path
    return ID_SEPARATOR.join(names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _checked(found: Iterable[DriveRef | RefusedDrive]) -> Iterator[DriveRef | RefusedDrive]:
    """Refuse ids that are no folder names, and ids that were there before."""
    seen: dict[str, str] = {}
    for ref in found:
        if isinstance(ref, RefusedDrive):
            yield ref
            continue
        try:
            storage.check_drive_id(ref.drive_id)
        except DriveError as error:
            reason = str(error).replace("(--drive-id)", "(rename it, or name it in a manifest)")
            yield RefusedDrive(ref.drive_id, ref.uri, reason)
            continue
        if ref.drive_id in seen:
            other = storage.redacted(seen[ref.drive_id])
            reason = f"drive id {ref.drive_id!r} is taken by {other}; give this one another id in a manifest"
            yield RefusedDrive(ref.drive_id, ref.uri, reason)
            continue
        seen[ref.drive_id] = ref.uri
        yield ref
