"""Writes calibrations as data sets publish them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import feather
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera

EGO_FROM_FRONT = np.eye(4)
"""A car's axes (x ahead, y left, z up) from those of a camera that looks ahead, 1.6 m ahead of and above its origin."""
EGO_FROM_FRONT[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
EGO_FROM_FRONT[:3, 3] = (1.6, 0.1, 1.4)


def quaternion(pose: np.ndarray) -> list[float]:
    """w x y z of a pose's rotation."""
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    return [float(part) for part in (w, x, y, z)]


def write_argoverse(log: Path, cameras: Mapping[str, tuple[Camera, np.ndarray]], compression: str = "lz4") -> None:
    """LOG/calibration/ of Argoverse 2, for pinholes with their poses on the car. The lidars have poses too."""
    folder = log / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    lenses = [camera for camera, _ in cameras.values()]
    table = pa.table(
        {
            "sensor_name": list(cameras),
            "fx_px": [one.fx for one in lenses],
            "fy_px": [one.fy for one in lenses],
            "cx_px": [one.cx - 0.5 for one in lenses],
            "cy_px": [one.cy - 0.5 for one in lenses],
            "k1": [-0.25] * len(lenses),  # of the raw pictures: the published ones have no distortion
            "k2": [-0.12] * len(lenses),
            "k3": [0.2] * len(lenses),
            "height_px": pa.array([one.height for one in lenses], pa.uint16()),
            "width_px": pa.array([one.width for one in lenses], pa.uint16()),
        }
    )
    feather.write_feather(table, str(folder / "intrinsics.feather"), compression=compression)
    poses = {name: pose for name, (_, pose) in cameras.items()} | {"up_lidar": np.eye(4), "down_lidar": np.eye(4)}
    turns = [quaternion(pose) for pose in poses.values()]
    columns: dict[str, list[object]] = {"sensor_name": list(poses)}
    for number, name in enumerate(("qw", "qx", "qy", "qz")):
        columns[name] = [turn[number] for turn in turns]
    for number, name in enumerate(("tx_m", "ty_m", "tz_m")):
        columns[name] = [float(pose[number, 3]) for pose in poses.values()]
    feather.write_feather(pa.table(columns), str(folder / "egovehicle_SE3_sensor.feather"), compression=compression)


Scene = Mapping[str, tuple[Camera, np.ndarray, Sequence[str]]]
"""Cameras of nuScenes: lens, pose on the car, and names of pictures (samples/CAM_FRONT/LOG__CAM_FRONT__TIME.jpg)."""


def write_nuscenes(root: Path, scenes: Sequence[Scene], version: str = "v1.0-mini") -> Path:
    """Its tables sensor, calibrated_sensor and sample_data, written as nuScenes does; returns their folder. Each scene
    has calibrations of its own. A lidar and a radar have records too."""
    folder = root / version
    folder.mkdir(parents=True, exist_ok=True)
    channels = [*dict.fromkeys(name for scene in scenes for name in scene), "LIDAR_TOP", "RADAR_FRONT"]
    kinds = {"CAM": "camera", "LID": "lidar", "RAD": "radar"}
    sensors = [{"token": _token(name), "channel": name, "modality": kinds[name[:3]]} for name in channels]
    calibrated: list[dict[str, object]] = []
    pictures: list[dict[str, object]] = []
    for number, scene in enumerate(scenes):
        for name, (camera, pose, names) in scene.items():
            matrix = [[camera.fx, 0.0, camera.cx - 0.5], [0.0, camera.fy, camera.cy - 0.5], [0.0, 0.0, 1.0]]
            calibrated.append(_calibrated(f"{number} {name}", name, pose, matrix))
            pictures += (_sample_data(f"{number} {name}", one, camera) for one in names)
        for name, ending in (("LIDAR_TOP", "pcd.bin"), ("RADAR_FRONT", "pcd")):
            calibrated.append(_calibrated(f"{number} {name}", name, np.eye(4), []))
            pictures.append(
                _sample_data(f"{number} {name}", f"sweeps/{name}/n1__{name}__15{number:014d}.{ending}", None)
            )
    for file, records in (("sensor", sensors), ("calibrated_sensor", calibrated), ("sample_data", pictures)):
        (folder / f"{file}.json").write_text(json.dumps(records, indent=0))
    return folder


def _token(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _calibrated(key: str, sensor: str, pose: np.ndarray, matrix: list[list[float]]) -> dict[str, object]:
    return {
        "token": _token(key),
        "sensor_token": _token(sensor),
        "translation": [float(part) for part in pose[:3, 3]],
        "rotation": quaternion(pose),
        "camera_intrinsic": matrix,
    }


def _sample_data(key: str, name: str, camera: Camera | None) -> dict[str, object]:
    return {
        "token": _token(name),
        "sample_token": _token(f"sample {name}"),
        "ego_pose_token": _token(name),
        "calibrated_sensor_token": _token(key),
        "timestamp": int(name.rpartition("__")[2].partition(".")[0]),
        "fileformat": name.rpartition(".")[2],
        "is_key_frame": name.startswith("samples/"),
        "height": 0 if camera is None else camera.height,
        "width": 0 if camera is None else camera.width,
        "filename": name,
        "prev": "",
        "next": "",
    }


EUROC = """#Default
sensor_type: camera
comment: VI-Sensor cam0 (MT9M034)

# Sensor extrinsics wrt. the body-frame.
T_BS:
  cols: 4
  rows: 4
  data: [0.0148655429818, -0.999880929698, 0.00414029679422, -0.0216401454975,
         0.999557249008, 0.0149672133247, 0.025715529948, -0.064676986768,
        -0.0257744366974, 0.00375618835797, 0.999660727178, 0.00981073058949,
         0.0, 0.0, 0.0, 1.0]

# Camera specific definitions.
rate_hz: 20
resolution: [752, 480]
camera_model: pinhole
intrinsics: [458.654, 457.296, 367.215, 248.375] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]
"""
"""cam0/sensor.yaml of EuRoC's drones."""
EUROC_RIGHT = EUROC.replace(
    EUROC[EUROC.index("[0.0148") : EUROC.index("# Camera specific")],
    """[0.0125552670891, -0.999755099723, 0.0182237714554, -0.0198435579556,
         0.999598781151, 0.0130119051815, 0.0251588363115, 0.0453689425024,
        -0.0253898008918, 0.0179005838253, 0.999517347078, 0.00786212447038,
         0.0, 0.0, 0.0, 1.0]

""",
).replace("[458.654, 457.296, 367.215, 248.375]", "[457.587, 456.134, 379.999, 255.238]")
"""cam1/sensor.yaml, 11 cm to the right."""
