"""Where the cameras of a rig sit, as other programs write it: COLMAP's rig_config.json, Kalibr's camchain.yaml,
nerfstudio's transforms.json, and KITTI's projections. Lengths are taken as metres.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.cameras.fields import CalibrationError

Array = NDArray[np.float64]
Poses = dict[str, Array]
"""Cameras by name, the reference first: poses (4, 4) in one common frame, OpenCV axes."""

_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # nerfstudio's cameras look along -z, y up


def read_rig(data: bytes, file: str) -> Poses:
    """Poses of the cameras that a file names; a file with several rigs gives its first.

    Cameras are known by the folder of their pictures (COLMAP, nerfstudio) or as Kalibr calls them (cam0, cam1).
    Raises CalibrationError for a file that is none of the three, or numbers in it that are no pose.
    """
    try:
        values = yaml.safe_load(data) if file.endswith((".yaml", ".yml")) else json.loads(data)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CalibrationError(f"{file}: expected JSON or YAML, got {' '.join(str(error).split())[:100]}") from None
    try:
        if isinstance(values, list) and values and isinstance(values[0], dict):
            poses = _colmap(values[0])
        elif isinstance(values, dict) and "frames" in values:
            poses = _nerfstudio(values)
        elif isinstance(values, dict) and any(str(name).startswith("cam") for name in values):
            poses = _kalibr(values)
        else:
            raise ValueError("no camera")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        said = " ".join(str(error).split())[:100]
        raise CalibrationError(
            f"{file}: expected COLMAP's rig_config.json, Kalibr's camchain.yaml or nerfstudio's transforms.json with "
            f"two cameras or more ({said})"
        ) from None
    for name, pose in poses.items():
        turn = pose[:3, :3]
        if not np.isfinite(pose).all() or np.abs(turn @ turn.T - np.eye(3)).max() > 1e-2 or np.linalg.det(turn) < 0:
            raise CalibrationError(f"{file}, camera {name}: expected a rotation and a place, got {turn.tolist()}")
        u, _, v = np.linalg.svd(turn)
        pose[:3, :3] = u @ v
    if len(poses) < 2:
        raise CalibrationError(f"{file}: expected two cameras or more, got {len(poses)}")
    return poses


def kitti_pair(text: str, left: int, right: int) -> Array | None:
    """left_from_right (4, 4) of two rectified cameras by their projections P<n> (calib.txt); None where they are not
    there. P = K [I | t]: the camera sits at -t of camera 0."""
    places = []
    for number in (left, right):
        line = next((one for one in text.splitlines() if one.startswith(f"P{number}:")), "")
        try:
            projection = np.array(line.partition(":")[2].split(), np.float64).reshape(3, 4)
            places.append(-np.linalg.solve(projection[:, :3], projection[:, 3]))
        except (ValueError, np.linalg.LinAlgError):
            return None
    pose = np.eye(4)
    pose[:3, 3] = places[1] - places[0]
    return pose if np.isfinite(pose).all() else None


def _pose(rotation: Array, place: object) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = np.array(place, np.float64).reshape(3)
    return pose


def _colmap(rig: Mapping[str, Any]) -> Poses:  # as the file has it; read_rig refuses what is no rig
    """cam_from_rig of each sensor, w x y z; the one with ref_sensor is the rig."""
    found: list[tuple[bool, str, Array]] = []
    for sensor in rig["cameras"]:
        is_reference = bool(sensor.get("ref_sensor"))
        camera_from_rig = np.eye(4)
        if not is_reference:
            w, x, y, z = map(float, sensor["cam_from_rig_rotation"])
            camera_from_rig = _pose(Rotation.from_quat([x, y, z, w]).as_matrix(), sensor["cam_from_rig_translation"])
        name = str(sensor["image_prefix"]).strip("/")
        found.append((not is_reference, name, np.asarray(np.linalg.inv(camera_from_rig), np.float64)))
    found.sort(key=lambda one: one[0])
    return {name: pose for _, name, pose in found}


def _kalibr(values: Mapping[str, Any]) -> Poses:  # as the file has it; read_rig refuses what is no rig
    """T_cn_cnm1 of each camera: from the camera before it to it."""
    poses: Poses = {}
    world_from_before = np.eye(4)
    for name in sorted((str(one) for one in values if str(one).startswith("cam")), key=lambda one: (len(one), one)):
        if poses:
            step = np.asarray(values[name]["T_cn_cnm1"], np.float64).reshape(4, 4)
            world_from_before = world_from_before @ np.linalg.inv(step)
        poses[name] = world_from_before.copy()
    return poses


def _nerfstudio(values: Mapping[str, Any]) -> Poses:  # as the file has it; read_rig refuses what is no rig
    """transform_matrix of pictures in folders, a folder a camera: the mean of what pictures of one name say of two."""
    frames: dict[str, dict[str, Array]] = {}
    for frame in values["frames"]:
        folder, _, name = str(frame["file_path"]).strip("./").rpartition("/")
        pose = np.asarray(frame["transform_matrix"], np.float64).reshape(4, 4) @ _OPENGL
        frames.setdefault(folder, {})[name.rpartition(".")[0] or name] = pose
    reference, *others = frames
    poses = {reference: np.eye(4)}
    for folder in others:
        both = frames[folder].keys() & frames[reference].keys()
        if not both:
            raise ValueError(f"no picture of {folder} has the name of one of {reference}")
        relative = np.stack([np.linalg.inv(frames[reference][one]) @ frames[folder][one] for one in sorted(both)])
        rotation = Rotation.from_matrix(relative[:, :3, :3]).mean().as_matrix()
        poses[folder] = _pose(rotation, np.median(relative[:, :3, 3], axis=0))
    return poses
