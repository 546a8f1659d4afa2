"""Finds the calibration of a drive: the file that the settings name, one beside the frames, or EXIF."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline import storage
from pipeline.cameras.calibration import SIDECARS, parse_camera, read_calibration
from pipeline.cameras.camera import Camera
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.known_camera import KnownCamera, Origin
from pipeline.cameras.rectify import SPHERE_VIEWS
from pipeline.ingest.dataset_calibrations import KITTI_RAW, dataset_camera
from pipeline.storage import Listing, NotFoundError, UnreadableFileError

_CAMERA_FOLDER = re.compile(r"image_0?(\d)")


def named_camera(config: CameraConfig, folder: str, size: tuple[int, int]) -> Camera | None:
    """The camera that the settings name; None where they name none. folder: of the frames; its name may tell which
    camera of a file applies. Raises CalibrationError, StorageError."""
    if config.file is None or config.file == "none":
        return None
    camera = parse_camera(config.file, size)
    if camera is not None:
        return camera
    place, _, which = config.file.partition("#")
    try:
        data = storage.read_bytes(storage.absolute(place))
    except NotFoundError as error:
        raise CalibrationError(f"--camera.file: {error}") from None
    except UnreadableFileError as error:
        raise CalibrationError(f"--camera.file: {error}; give the calibration file itself") from None
    return read_calibration(data, storage.redacted(place), size, which or None, _which(folder))


def lying_camera(folder: str, files: Listing | None, size: tuple[int, int]) -> Camera | None:
    """The camera of a calibration beside the frames: in their folder, as calib.txt in the folder above, or where
    KITTI's raw recordings and Argoverse have it; None where there is none.

    folder: of the frames; files: its contents, None where they are not known (the folder of a video).
    """
    beside = frozenset() if files is None else _others(files)
    places = [storage.join(folder, name) for name in SIDECARS if name in beside]
    if files is None:
        places.append(storage.join(folder, SIDECARS[0]))
    else:
        above, name = storage.parent_and_name(folder)
        if name == "data" and _CAMERA_FOLDER.fullmatch(storage.parent_and_name(above)[1]):
            date = storage.parent_and_name(storage.parent_and_name(above)[0])[0]
            places.append(storage.join(date, KITTI_RAW))
        elif storage.parent_and_name(above)[1]:
            places.append(storage.join(above, SIDECARS[0]))
    try:
        camera = _first_of(places, folder, size)
        return dataset_camera(folder, size) if camera is None and files is not None else camera
    except CalibrationError as error:
        raise CalibrationError(f"{error}; correct it, or give --camera.file (none: without)") from None


def _first_of(places: Sequence[str], folder: str, size: tuple[int, int]) -> Camera | None:
    """The camera of the first of these files that exists."""
    for place in places:
        try:
            data = storage.read_bytes(place)
        except NotFoundError:
            continue
        return read_calibration(data, storage.redacted(place), size, likely=_which(folder))
    return None


def known_camera(
    config: CameraConfig, folder: str, files: Listing | None, size: tuple[int, int], exif: Camera | None
) -> KnownCamera | None:
    """What is known of a drive's camera: the calibration that the settings name, else one beside the frames, else EXIF;
    None without any. size: (width, height) of upright frames."""
    camera = named_camera(config, folder, size)
    origin: Origin = "calibration"
    if camera is None and config.file is None:
        camera = lying_camera(folder, files, size)
        if camera is None and exif is not None:
            camera, origin = exif, "exif"
    camera = _looking(config, camera)
    return None if camera is None else KnownCamera(camera, origin, config.fov)


def _looking(config: CameraConfig, camera: Camera | None) -> Camera | None:
    """The camera, turned to the one view that is asked for. Raises CalibrationError where it does not look there."""
    names = config.view_names
    if len(names) > 1:
        raise CalibrationError(f"--camera.views {config.views}: a drive looks one way; several make several drives")
    if not names or (names[0] == "front" and (camera is None or camera.model != "equirectangular")):
        return camera
    if camera is None or camera.model != "equirectangular":
        found = "no calibration" if camera is None else f"a {camera.model} camera"
        raise CalibrationError(
            f"--camera.views {names[0]}: only an equirectangular camera sees to all sides, and this drive has {found}; "
            "give --camera.file equirectangular if its frames are such"
        )
    return camera.turned(SPHERE_VIEWS[names[0]])


def _which(folder: str) -> str:
    """The name that the camera of this folder has in a calibration of several: P2 for image_2 in KITTI's, else that of
    the folder (cam0 in Kalibr's)."""
    above, name = storage.parent_and_name(folder)
    own = storage.parent_and_name(above)[1] if name == "data" else name
    found = _CAMERA_FOLDER.fullmatch(own)
    return f"P{found.group(1)}" if found else own


def _others(files: Listing) -> frozenset[str]:
    """Names in a folder, unless it holds a long run of frames."""
    return frozenset() if files.pattern is not None else frozenset(files.names)
