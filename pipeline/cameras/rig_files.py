"""Reads the poses of a rig's cameras from files of other programs: COLMAP's rig_config.json, Kalibr's camchain.yaml
and nerfstudio's transforms.json. Lengths are assumed to be in metres. `dataset_rigs.py` reads those of data sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.cameras.calibration_yaml import is_kalibr_name
from pipeline.cameras.fields import CalibrationError, Fields

Array = NDArray[np.float64]
Poses = dict[str, Array]
"""Cameras by name, the reference first: poses (4, 4) in one common frame, OpenCV axes."""

_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # nerfstudio's cameras look along -z, y up


def read_rig(data: bytes, file: str) -> Poses:
    """Poses of the cameras in a file. Of a file with several rigs the first one is used.

    data: the file's contents; file: its name. The name of a camera is the folder of its pictures (COLMAP, nerfstudio)
    or Kalibr's name for it (cam0, cam1). Raises CalibrationError, with the file and the field, for a file of another
    format, or for numbers that are not a pose.
    """
    values = rig_values(data, file)
    if isinstance(values, list):
        poses = _colmap(Fields(file, values[0]))
    elif "frames" in values:
        poses = _nerfstudio(Fields(file, values))
    else:
        poses = _kalibr(Fields(file, values))
    if len(poses) < 2:
        raise CalibrationError(f"{file}: expected two cameras or more, got {len(poses)}")
    for name in poses:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise CalibrationError(f"{file}: expected the name of a camera's folder below the drive, got {name!r}")
    return poses


def rig_values(data: bytes, file: str) -> list[dict[str, object]] | dict[str, object]:
    """The values of a rig file: COLMAP's list of rigs, nerfstudio's scene with `frames`, or Kalibr's cameras by name.
    Raises CalibrationError for a file of another format."""
    try:
        values = yaml.safe_load(data) if file.endswith((".yaml", ".yml")) else json.loads(data)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CalibrationError(f"{file}: expected JSON or YAML, got {' '.join(str(error).split())[:100]}") from None
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return values
    if isinstance(values, dict) and ("frames" in values or any(is_kalibr_name(str(name)) for name in values)):
        return {str(name): value for name, value in values.items()}
    raise CalibrationError(
        f"{file}: expected COLMAP's rig_config.json, Kalibr's camchain.yaml or nerfstudio's transforms.json"
    )


def _pose(rotation: Array, place: Sequence[float] | Array) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = place
    return pose


def _rigid(fields: Fields, name: str) -> Array:
    """A field with the 4 rows of a rigid motion, as (4, 4) with an exact rotation. Raises CalibrationError."""
    rows = fields.value(name)
    if not isinstance(rows, list) or len(rows) != 4:
        raise fields.error(name, "4 rows of 4 numbers", rows)
    by_row = Fields(fields.file, {f"{name}[{i}]": row for i, row in enumerate(rows)}, fields.where)
    return nearest_rigid(fields, name, np.array([by_row.numbers(row, 4) for row in by_row.values]))


def nearest_rigid(fields: Fields, name: str, pose: Array) -> Array:
    """A pose (4, 4) of rounded numbers, the field `name`, with an exact rotation. Raises CalibrationError if it is no
    rigid motion."""
    turn = pose[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-2 or np.linalg.det(turn) < 0:
        raise fields.error(name, "a rotation and a position", pose.tolist())
    u, _, v = np.linalg.svd(turn)
    return _pose(u @ v, pose[:3, 3])


def blocks(fields: Fields, name: str) -> list[Fields]:
    """The blocks of a field that is a list of blocks of fields. Raises CalibrationError."""
    blocks = fields.value(name)
    if not isinstance(blocks, list):
        raise fields.error(name, "a list of blocks of fields", blocks)
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise fields.error(f"{name}[{number}]", "a block of fields", block)
    return [Fields(fields.file, block, f"{fields.where}{name}[{number}].") for number, block in enumerate(blocks)]


def _colmap(rig: Fields) -> Poses:
    """Poses by cam_from_rig of each sensor (quaternion w x y z); the one with ref_sensor is the reference."""
    poses: Poses = {}
    reference = ""
    for sensor in blocks(rig, "cameras"):
        name = sensor.text("image_prefix").strip("/")
        if name in poses:
            raise sensor.error("image_prefix", "another folder for each camera", name)
        if sensor.values.get("ref_sensor"):
            reference, poses[name] = name, np.eye(4)
            continue
        w, x, y, z = sensor.numbers("cam_from_rig_rotation", 4)
        if not any((w, x, y, z)):
            raise sensor.error("cam_from_rig_rotation", "a quaternion", sensor.values["cam_from_rig_rotation"])
        turn = Rotation.from_quat([x, y, z, w]).as_matrix()
        camera_from_rig = _pose(turn, sensor.numbers("cam_from_rig_translation", 3))
        poses[name] = np.asarray(np.linalg.inv(camera_from_rig), np.float64)
    return {name: poses[name] for name in sorted(poses, key=lambda name: name != reference)}


def _kalibr(chain: Fields) -> Poses:
    """Poses by T_cn_cnm1 of each camera, which is this_from_previous."""
    poses: Poses = {}
    world_from_before = np.eye(4)
    for name in sorted(filter(is_kalibr_name, chain.values), key=lambda name: int(name[3:])):
        if poses:
            world_from_before = world_from_before @ np.linalg.inv(_rigid(chain.part(name), "T_cn_cnm1"))
        poses[name] = world_from_before.copy()
    return poses


def _nerfstudio(scene: Fields) -> Poses:
    """Poses by transform_matrix of pictures in one folder for each camera: the mean over pictures of the same name."""
    frames: dict[str, dict[str, Array]] = {}
    for frame in blocks(scene, "frames"):
        folder, _, name = frame.text("file_path").removeprefix("./").rpartition("/")
        frames.setdefault(folder, {})[name.rpartition(".")[0] or name] = _rigid(frame, "transform_matrix") @ _OPENGL
    if not frames:
        raise scene.error("frames", "two pictures or more", [])
    reference, *others = frames
    poses = {reference: np.eye(4)}
    for folder in others:
        both = frames[folder].keys() & frames[reference].keys()
        if not both:
            raise CalibrationError(
                f"{scene.file}: frames: no picture in {folder} has the name of a picture in {reference}"
            )
        relative = np.stack([np.linalg.inv(frames[reference][one]) @ frames[folder][one] for one in sorted(both)])
        rotation = Rotation.from_matrix(relative[:, :3, :3]).mean().as_matrix()
        poses[folder] = _pose(rotation, np.median(relative[:, :3, 3], axis=0))
    return poses
