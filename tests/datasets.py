"""Writes calibrations as data sets publish them."""

from __future__ import annotations

from collections.abc import Mapping
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
