"""What the first names in a folder show: whether it is a drive, contains drives, or neither."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline import storage
from pipeline.cameras.fields import CalibrationError
from pipeline.ingest import video
from pipeline.ingest.drives import KITTI_FOLDERS, is_drive, is_image_name
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.preprocess import UNREAD
from pipeline.ingest.rig_drive import camera_folders
from pipeline.storage import NotFoundError, RefusedError
from pipeline.storage.retry import patiently

# Names in the first request of a listing; the first image or camera folder is nearly always among them.
FIRST_LOOK_NAMES = 50
# KITTI's folder of sequences is not part of a drive's name; poses/ beside it holds the ground truth.
SEQUENCES, _POSES = "sequences", "poses"
# Folders with other pictures beside the folders of cameras: nuScenes' maps.
_NOT_DRIVES = (("samples", "maps"),)
_RESULT_FILES = {"manifest.json", "poses.parquet"}


@dataclass(frozen=True)
class FolderLook:
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
    has_rig: bool = False  # it is a drive of several cameras
    cameras: tuple[str, ...] = ()  # URIs of their folders, the reference first; empty where a rig file is damaged

    @property
    def holds_more(self) -> bool:
        """Whether there are folders or videos in it."""
        return bool(self.folders or self.videos)


def look_into(uri: str, first_page: int = FIRST_LOOK_NAMES) -> FolderLook:
    """List a folder; stop when its first names show that it is a drive."""
    folders, videos, images, has_unread = [], [], 0, False
    image: str | None = None
    plain: list[str] = []  # names without an ending: links to drives have such names
    result_files = set()
    for number, entry in enumerate(storage.iter_folder(uri, first_page), 1):
        if entry.is_folder and entry.name in KITTI_FOLDERS:
            return FolderLook(True)
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
            return FolderLook(True, image=image)
    if is_drive(images, len(videos), len(folders)):
        return FolderLook(True, image=image)
    if result_files == _RESULT_FILES:
        return FolderLook(False, is_result=True)
    if SEQUENCES in folders and _POSES in folders:
        folders.remove(_POSES)
    passed_over = [name for beside, name in _NOT_DRIVES if beside in folders and name in folders]
    return FolderLook(
        False,
        tuple(sorted((name for name in folders if name not in passed_over), key=natural_key)),
        tuple(sorted(videos, key=natural_key)),
        tuple(name for name in sorted(plain) if storage.is_local(uri) and storage.is_dangling(storage.join(uri, name))),
        has_unread,
        passed_over=tuple(passed_over),
        images=images,
    )


def look_again(uri: str, rig: str | None = None) -> FolderLook | None:
    """The listing of a folder; None where it is gone or refused: planning reports it. rig: see `with_cameras`."""
    try:
        return patiently(lambda: with_cameras(look_into(uri), uri, rig))
    except (NotFoundError, RefusedError):
        return None


def with_cameras(look: FolderLook, uri: str, rig: str | None) -> FolderLook:
    """The listing, and the cameras in the folder. rig: auto or a rig file; None: each folder is of one camera.

    A folder whose rig file is damaged is a drive: planning fails it, with the reason. Raises StorageError.
    """
    if rig is None or look.image is not None:
        return look
    try:
        cameras = camera_folders(uri, rig)
    except CalibrationError:
        return replace(look, has_rig=True)
    return replace(look, has_rig=bool(cameras), cameras=tuple(cameras))
