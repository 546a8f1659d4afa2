"""Makes one drive of several cameras, which are found by their folders or by a rig file, and aligned by time stamps.

`find_drive` finds the drive of each camera. Here they become one drive, in which frame f is camera f % C at instant
f // C. An instant is a frame of the reference camera.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rig import Rig
from pipeline.cameras.rig_calibrations import read_rig_camera
from pipeline.cameras.rig_files import read_rig
from pipeline.common.visible_text import visible
from pipeline.errors import DriveError
from pipeline.ingest import nuscenes
from pipeline.ingest.dataset_calibrations import dataset_poses, in_scene
from pipeline.ingest.drive import NO_PICTURE, Drive
from pipeline.ingest.frame_choice import FrameChoice, selected_frames
from pipeline.ingest.frame_series import natural_key
from pipeline.ingest.nuscenes import in_one_scene
from pipeline.ingest.rig_times import matched
from pipeline.storage import Listing, NotFoundError

AUTO = "auto"
"""The value of --rig that finds cameras by their folders."""

VIEWS = "views"
"""The value of --rig that makes the views of equirectangular frames cameras (`pipeline.ingest.sphere_rig`)."""

_RIG_FILE = "rig_config.json"  # COLMAP's; it is also found in a drive's folder
_BELOW = ("", "samples", "sensors/cameras", "images", "mav0")  # nuScenes, Argoverse 2, exports of Waymo's data, EuRoC
_PAIRS = (("image_2", "image_3"), ("image_02", "image_03"), ("image_0", "image_1"), ("image_00", "image_01"))
_CAMERA = re.compile(  # cam0, camera_front, CAM_BACK, but no drives called camden_1 and camden_2
    r"(?:cam(?:era)?|view)(?:[-_ ]?\d+|[-_ ]\w+)|ring_\w+|(?:FRONT|SIDE|REAR|BACK)(?:_LEFT|_RIGHT)?", re.IGNORECASE
)
_AHEAD = re.compile(r"(?:cam(?:era)?[-_ ]?|ring_)?front(?:[-_ ]cent(?:er|re))?", re.IGNORECASE)
# Folders that hold no camera's pictures for certain: other sensors, maps, and what was made of the pictures.
_OTHER = re.compile(
    r"[._]|(?:lidar|radar|velodyne|pointclouds?|oxts|imu|gps|gnss|leica|vicon|state|maps?|calib\w*|poses?|annotations?|"
    r"labels?|masks?|depths?|seg\w*)"
    r"(?:[^a-z]|$)",
    re.IGNORECASE,
)
_SHOWN = 6
_MOST_CAMERAS = 16
TOLERANCE_S = 0.025
"""Most seconds between pictures of one instant where the settings do not say it."""
_FILE_BYTES = 1 << 28

_Poses = Mapping[str, NDArray[np.float64] | None]


@dataclass(frozen=True)
class _Found:
    """Folders of cameras below `uri` (paths from it), the reference first, with poses in metres where a rig file has
    them."""

    uri: str
    poses: _Poses
    file: _RigFile | None = None
    missing: str | None = None  # a camera of the file that has no folder


@dataclass(frozen=True)
class _RigFile:
    """A rig file: its contents, its name, and the name of each folder's camera in it."""

    data: bytes
    name: str
    cameras: Mapping[str, str]

    def camera(self, folder: str, drive: Drive) -> Camera | None:
        """The calibration of a folder's camera; None where the file has none. Raises CalibrationError."""
        size = drive.source_width, drive.source_height
        return read_rig_camera(self.data, self.name, self.cameras[folder], size)


def check_rig(rig: str) -> None:
    """Raises CalibrationError for a rig file that cannot be read, StorageError where there is none."""
    if rig not in (AUTO, VIEWS):
        place = storage.absolute(rig)
        read_rig(storage.read_small(place, _FILE_BYTES), storage.redacted(place))


def camera_folders(uri: str, rig: str) -> list[str]:
    """URIs of the cameras' folders in a folder that is a drive of several cameras by this rig (auto, or a file), the
    reference first; empty for other folders. Of a rig file's cameras one is enough: `rig_drive` says which are missing.
    views: as auto, since such a folder is no drive of one equirectangular camera.
    Raises CalibrationError, StorageError."""
    try:
        found = _found(storage.absolute(uri), AUTO if rig == VIEWS else rig)
    except NotFoundError:
        return []
    return [] if found is None else [storage.join(found.uri, *folder.split("/")) for folder in found.poses]


def rig_drive(
    uri: str,
    rig: str,
    tolerance_s: float | None,
    drive_id: str | None,
    used: FrameChoice,
    find: Callable[[str], Drive],
) -> Drive:
    """The drive of all cameras of a folder.

    Args:
        uri: the folder that holds the cameras' folders.
        rig: auto, or the place of a rig file (`pipeline.cameras.rig_files`).
        tolerance_s: most seconds between pictures of one instant; None: 0.025, for nuScenes 0.06. Where a camera has no
            times, pictures of one name belong together.
        used: which instants are used.
        find: gives the drive of one camera's folder, all of its frames.

    Raises:
        DriveError: fewer than two cameras; pictures that have neither times nor names in common. CalibrationError: a
        rig file that cannot be read. StorageError.
    """
    uri = storage.absolute(uri)
    found = _found(uri, rig)
    if found is None:
        raise DriveError(
            f"{storage.redacted(uri)}: expected folders of two cameras or more (cam_*, CAM_*, ring_*, image_2 and "
            "image_3); give the folder that holds them, or leave out --rig"
        )
    if found.file is not None and found.missing is not None:
        raise DriveError(
            f"{found.file.name}: camera {found.missing} has no folder of this name in {storage.redacted(uri)}"
        )
    name = storage.check_drive_id(drive_id or storage.parent_and_name(uri)[1])
    notes = list(_unused(found))
    cameras = _cameras(found, name, used, find, notes)
    whole = next(iter(cameras.values()))
    cameras, used = in_one_scene(cameras, used, name, notes)
    cameras, uncalibrated = in_scene(cameras, used.camera)
    notes += uncalibrated
    reference = next(iter(cameras))
    base = cameras[reference]
    if tolerance_s is None:
        tolerance_s = TOLERANCE_S if base is whole else nuscenes.TOLERANCE_S
    taken = selected_frames(base.frame_count, base.timestamps_ns, used, name)
    others = {folder: one for folder, one in cameras.items() if folder != reference}
    at_once = tuple(cameras) in _PAIRS  # KITTI's pairs are, whatever the times of their files
    met = {
        folder: matched(base, one, tolerance_s, taken, at_once, f"drive {name}: pictures of camera {folder}")
        for folder, one in others.items()
    }
    steps = {folder: one.step for folder, one in met.items()}
    for folder, step in steps.items():
        missing = sum(step[instant] is None for instant in taken)
        if missing == len(taken):
            raise DriveError(
                f"drive {name}: no picture of camera {folder} was taken within {tolerance_s:g} s of one of "
                f"{reference}; give a larger --rig-tolerance, or move the folder away"
            )
        if missing:
            notes.append(f"camera {folder} has no picture of {missing} of {len(taken)} instants")
        notes += met[folder].notes(folder, reference)
    uris = _uris(base, others, steps, taken)
    known = _known_camera(cameras, notes)
    sizes = Counter((one.source_width, one.source_height) for one in cameras.values())
    (width, height), _ = sizes.most_common(1)[0]  # of equally many the reference's, which is the first
    times = base.timestamps_ns
    return replace(
        base,
        drive_id=name,
        source_uri=uri,
        uris=uris,
        frame_count=len(uris),
        timestamps_ns=None if times is None else tuple(times[i] for i in taken for _ in cameras),
        listing=_listing(found.uri, cameras),
        notes=tuple(itertools.chain(notes, *(one.notes for one in cameras.values()))),
        source_width=width,
        source_height=height,
        camera=known,
        rig=Rig.of(
            _poses(found, cameras, used),
            reference,
            [folder for folder, one in met.items() if one.out_of_step],
            {folder: one.late for folder, one in met.items()},
        ),
    )


def _cameras(
    found: _Found, name: str, used: FrameChoice, find: Callable[[str], Drive], notes: list[str]
) -> dict[str, Drive]:
    """Folder -> the drive of its camera, the reference first. The calibration in a rig file is used before one beside
    the frames, but not where the settings name one. Unless all are calibrated, cameras whose pictures have
    another size than the reference's are left out, and noted. Raises DriveError for a video, and where fewer than two
    cameras are left."""
    cameras = {folder: find(storage.join(found.uri, *folder.split("/"))) for folder in found.poses}
    film = next((folder for folder, one in cameras.items() if one.kind != "images"), None)
    if film is not None:
        raise DriveError(f"drive {name}: camera {film} is a video; give folders of pictures")
    for folder, one in list(cameras.items()) if used.camera.file is None else ():
        camera = None if found.file is None else found.file.camera(folder, one)
        if camera is not None:
            cameras[folder] = replace(one, camera=KnownCamera(camera, "calibration", used.camera.fov))
    if all(_is_calibrated(one) for one in cameras.values()):
        return cameras
    reference, first = next(iter(cameras.items()))
    for folder, one in list(cameras.items()):
        if (one.source_width, one.source_height) == (first.source_width, first.source_height):
            continue
        notes.append(
            f"camera {folder} is not used: its pictures have {one.source_width}x{one.source_height} pixels, those of "
            f"{reference} {first.source_width}x{first.source_height}; pictures of several sizes are used if all "
            "cameras are calibrated"
        )
        del cameras[folder]
    if len(cameras) < 2:
        raise DriveError(f"drive {name}: expected two cameras with pictures of one size; {'; '.join(notes)}")
    return cameras


def _is_calibrated(drive: Drive) -> bool:
    return drive.camera is not None and drive.camera.origin == "calibration"


def _known_camera(cameras: Mapping[str, Drive], notes: list[str]) -> KnownCamera | None:
    """What is known of the cameras, if it is the same of all, or all are calibrated. If not, that is noted."""
    known = [one.camera for one in cameras.values()]
    if all(one == known[0] for one in known):
        return known[0]
    calibrated = {folder: one.camera.camera for folder, one in cameras.items() if one.camera and _is_calibrated(one)}
    if known[0] is not None and len(calibrated) == len(cameras):
        return replace(known[0], rig=tuple(calibrated.values()))
    if calibrated:
        without = ", ".join(folder for folder in cameras if folder not in calibrated)
        notes.append(
            f"the calibrations of {', '.join(calibrated)} are not used, since {without} has none: the network's own "
            "focal lengths are used; calibrate all cameras, or none"
        )
    else:
        notes.append("EXIF gives the cameras different focal lengths: the network's own focal lengths are used")
    return None


def _uris(
    base: Drive, others: Mapping[str, Drive], steps: Mapping[str, Sequence[int | None]], taken: Sequence[int]
) -> list[str]:
    """The URIs of all cameras' pictures, instant by instant; the URI of a missing picture contains NO_PICTURE."""
    uris: list[str] = []
    for instant in taken:
        uris.append(base.uris[instant])
        for folder, camera in others.items():
            place = steps[folder][instant]
            uris.append(base.uris[instant] + NO_PICTURE + folder if place is None else camera.uris[place])
    return uris


def _found(uri: str, rig: str) -> _Found | None:
    """The cameras of a folder; None where there are fewer than two."""
    if rig != AUTO:
        place = storage.absolute(rig)
        return _named(uri, storage.read_small(place, _FILE_BYTES), storage.redacted(place))
    folders = set(storage.list_folders(uri))
    try:
        data = storage.read_small(storage.join(uri, _RIG_FILE), _FILE_BYTES)
    except NotFoundError:
        pass
    else:
        return _named(uri, data, _RIG_FILE)
    for left, right in _PAIRS:
        if {left, right} <= folders:
            return _Found(uri, {left: None, right: None})
    for below in _BELOW:
        place = storage.join(uri, *below.split("/")) if below else uri
        if below and below.split("/")[0] not in folders:
            continue
        try:
            names = storage.list_folders(place)
        except NotFoundError:
            continue
        cameras = sorted((name for name in names if _CAMERA.fullmatch(name)), key=natural_key)
        if len(cameras) >= 2:
            cameras.sort(key=lambda name: _AHEAD.fullmatch(name) is None)
            return _Found(place, dict.fromkeys(cameras[:_MOST_CAMERAS]))
    return None


def _named(uri: str, data: bytes, file: str) -> _Found:
    """The cameras of a rig file with their folders: the path in the file, or a folder named like its last part. Raises
    CalibrationError."""
    poses, names = read_rig(data, file), dict[str, str]()
    there: dict[str, NDArray[np.float64] | None] = {}
    folders = storage.list_folders(uri)
    missing = None
    for name, pose in poses.items():
        last = name.rpartition("/")[2]
        if last in folders:
            there[last], names[last] = pose, name
        elif storage.exists(storage.join(uri, *name.split("/"))):
            there[name], names[name] = pose, name
        else:
            missing = missing or name
    return _Found(uri, there, file=_RigFile(data, file, names), missing=missing)


def _poses(found: _Found, cameras: Mapping[str, Drive], used: FrameChoice) -> _Poses:
    """The pose of each camera: by the rig file, else by the files of the data set, unless the settings say to use no
    calibration. Raises CalibrationError."""
    poses = {folder: found.poses[folder] for folder in cameras}
    if found.file is not None or used.camera.file == "none":
        return poses
    return {**poses, **dataset_poses(found.uri, cameras)}


def _unused(found: _Found) -> tuple[str, ...]:
    """Notes on folders beside those of the cameras that may hold pictures too, and on nuScenes' other pictures."""
    notes: list[str] = []
    cameras = {folder.partition("/")[0] for folder in found.poses}
    others = [name for name in storage.list_folders(found.uri) if name not in cameras and not _OTHER.match(name)]
    if others:
        shown = ", ".join(sorted(others, key=natural_key)[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        notes.append(
            f"folders beside the cameras are not used: {visible(shown)}{more}; a rig file (--rig) can name them"
        )
    above, name = storage.parent_and_name(found.uri)
    keyframes, between = nuscenes.FOLDERS
    if name == keyframes and between in storage.list_folders(above):
        notes.append(
            f"the pictures between the keyframes ({between}, ten a second instead of two) are not used; give that "
            "folder as --input to use them instead"
        )
    return tuple(notes)


def _listing(uri: str, cameras: Mapping[str, Drive]) -> Listing:
    """The files of all cameras, names with their folders."""
    names: list[str] = []
    sizes: list[int] = []
    etags: list[str | None] = []
    for folder, drive in sorted(cameras.items()):
        below = drive.listing.uri_of_folder.removeprefix(uri.rstrip("/") + "/") or folder + "/"
        own = drive.listing.columns()
        names += [below + name for name in own[0]]
        sizes += own[1]
        etags += own[2]
    return Listing(uri, names, sizes, etags)
