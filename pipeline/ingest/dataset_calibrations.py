"""Finds the calibrations that data sets keep beside their recordings: of one camera, and the poses of several.

Argoverse 2: LOG/calibration/ for LOG/sensors/cameras/<camera>/. KITTI: SEQUENCE/calib.txt for SEQUENCE/image_2/, and
DATE/calib_cam_to_cam.txt for DATE/DRIVE/image_02/data/ (`pipeline.ingest.calibration` reads KITTI's intrinsics).
nuScenes: ROOT/v1.0-*/ for ROOT/samples/CAM_*/ (`nuscenes_calibrations.py`). EuRoC: mav0/cam0/sensor.yaml for
mav0/cam0/data/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.cameras import feather
from pipeline.cameras.calibration import fitted
from pipeline.cameras.camera import Camera
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.dataset_rigs import argoverse_camera, argoverse_poses, euroc_camera, euroc_pose, kitti_poses
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.known_camera import KnownCamera
from pipeline.ingest.dataset_times import PICTURES
from pipeline.ingest.drive import Drive
from pipeline.ingest.nuscenes import FOLDERS
from pipeline.ingest.nuscenes_calibrations import Found, scene_calibration
from pipeline.storage import NotFoundError

KITTI_RAW = "calib_cam_to_cam.txt"
"""KITTI raw: DATE/calib_cam_to_cam.txt, DATE/DRIVE/image_02/data/*.png."""
_KITTI = "calib.txt"
_KITTI_CAMERA = re.compile(r"image_(0?)(\d)")
_ARGOVERSE = ("sensors", "cameras")
_INTRINSICS = ("calibration", "intrinsics.feather")
_EXTRINSICS = ("calibration", "egovehicle_SE3_sensor.feather")
_EUROC = "sensor.yaml"
_FILE_BYTES = feather.MOST_BYTES  # of all these files, which have some thousand

Poses = Mapping[str, NDArray[np.float64]]


def dataset_camera(folder: str, size: tuple[int, int]) -> Camera | None:
    """The camera of a folder of pictures by its data set's file (Argoverse, EuRoC); None without it. size: of its
    upright frames. Raises CalibrationError, with file and field; StorageError."""
    above, name = storage.parent_and_name(folder)
    log = _argoverse_log(above)
    if log is not None:
        place = storage.join(log, *_INTRINSICS)
    elif name == PICTURES and not _KITTI_CAMERA.fullmatch(storage.parent_and_name(above)[1]):
        place = storage.join(above, _EUROC)
    else:
        return None
    data = _read(place, _FILE_BYTES)
    if data is None:
        return None
    file = storage.redacted(place)
    camera = euroc_camera(data, file) if log is None else argoverse_camera(data, file, name)
    return None if camera is None else fitted(camera, size, file)


def in_scene(cameras: Mapping[str, Drive], config: CameraConfig) -> tuple[dict[str, Drive], list[str]]:
    """Cameras by folder with nuScenes' calibration of their scene, where nothing better than EXIF is known of them; and
    notes on those whose pictures its tables do not tell. All pictures of a drive are of one scene. Raises
    CalibrationError, with file, field and what to do; StorageError."""
    calibrated = dict(cameras)
    reasons: dict[str, list[str]] = {}
    for folder, drive in cameras.items() if config.file is None else ():
        if drive.kind != "images" or (drive.camera is not None and drive.camera.origin == "calibration"):
            continue
        size = drive.source_width, drive.source_height
        try:
            found = _in_scene(drive)
            camera = None if found.calibration is None else fitted(found.calibration.camera, size, found.file)
        except CalibrationError as error:
            raise CalibrationError(f"{error}; correct it, or give --camera.file (none: without)") from None
        if camera is not None:
            calibrated[folder] = replace(drive, camera=KnownCamera(camera, "calibration", config.fov))
        elif found.why_not:
            reasons.setdefault(found.why_not, []).append(folder)
    names = {
        why: ("camera {} is" if len(who) == 1 else "cameras {} are").format(", ".join(who))
        for why, who in reasons.items()
    }
    return calibrated, [f"{who} not calibrated: {why}" for why, who in names.items()]


def dataset_poses(place: str, cameras: Mapping[str, Drive]) -> Poses:
    """Poses (4, 4) of the cameras in folders below `place`, metres, in one frame; without those that no file of the
    data set tells. Raises CalibrationError, with file, field and what to do; StorageError."""
    try:
        return _poses(place, cameras)
    except CalibrationError as error:
        raise CalibrationError(
            f"{error}; correct it, or give a rig file as --rig (--camera.file none: without calibrations)"
        ) from None


def _in_scene(drive: Drive) -> Found:
    files = drive.listing
    return scene_calibration(files.uri_of_folder.rstrip("/"), (files[0].name, files[-1].name))


def _poses(place: str, drives: Mapping[str, Drive]) -> Poses:
    log = _argoverse_log(place)
    if log is not None:
        table = storage.join(log, *_EXTRINSICS)
        data = _read(table, _FILE_BYTES)
        return {} if data is None else argoverse_poses(data, storage.redacted(table), drives)
    if storage.parent_and_name(place)[1] in FOLDERS:
        found = {folder: _in_scene(drive).calibration for folder, drive in drives.items()}
        return {folder: one.pose for folder, one in found.items() if one is not None}
    cameras = {folder: _KITTI_CAMERA.fullmatch(folder) for folder in drives}
    if not all(cameras.values()):
        return _euroc_poses(place, drives)
    files = [storage.join(place, _KITTI)]
    above = storage.parent_and_name(place)[0]
    if storage.parent_and_name(above)[1] and any(found and found[1] for found in cameras.values()):
        files.append(storage.join(above, KITTI_RAW))
    for file in files:
        data = _read(file, _FILE_BYTES)
        if data is not None:
            poses = kitti_poses(data.decode("utf-8", "replace"), storage.redacted(file))
            numbers = {folder: int(found[2]) for folder, found in cameras.items() if found}
            return {folder: poses[number] for folder, number in numbers.items() if number in poses}
    return {}


def _euroc_poses(place: str, drives: Mapping[str, Drive]) -> Poses:
    poses = {}
    for folder, drive in drives.items():
        if storage.parent_and_name(drive.listing.uri_of_folder)[1] == PICTURES:
            file = storage.join(place, folder, _EUROC)
            data = _read(file, _FILE_BYTES)
            if data is not None:
                poses[folder] = euroc_pose(data, storage.redacted(file))
    return poses


def _argoverse_log(place: str) -> str | None:
    """The log whose cameras' folders are in LOG/sensors/cameras; None for another place."""
    above, name = storage.parent_and_name(place)
    log, sensors = storage.parent_and_name(above)
    return log if (sensors, name) == _ARGOVERSE else None


def _read(place: str, limit: int) -> bytes | None:
    """A file of at most `limit` bytes; None without it. Raises CalibrationError for a larger one, StorageError."""
    try:
        data = storage.read_bytes(place, limit + 1)
    except NotFoundError:
        return None
    if len(data) > limit:
        raise CalibrationError(f"{storage.redacted(place)}: expected at most {limit:,} bytes, got more")
    return data
