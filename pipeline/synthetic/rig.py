"""The cameras of one car: their poses, and the file with these poses."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

MOST_CAMERAS = 6
STEREO_BASELINE_M = 0.54
"""KITTI's."""
FRONT = "image_0"
RIG_FILE = "rig_config.json"

# folder, degrees turned to the right, place in the front camera's axes (right, down, ahead), metres
_AROUND = (
    ("cam_left", -55.0, (-0.45, 0.0, -0.3)),
    ("cam_right", 55.0, (0.45, 0.0, -0.3)),
    ("cam_back_left", -110.0, (-0.5, 0.0, -1.2)),
    ("cam_back_right", 110.0, (0.5, 0.0, -1.2)),
    ("cam_back", 180.0, (0.0, 0.0, -2.0)),
)


@dataclass(frozen=True, eq=False)
class RigCamera:
    """A camera beside the front one: its folder, and front_from_camera (4, 4), metres, OpenCV axes."""

    folder: str
    front_from_camera: NDArray[np.float64]


def rig_cameras(count: int) -> tuple[RigCamera, ...]:
    """The cameras beside the front one of a rig of `count`: a right eye for two, else cameras that look around.

    Raises ValueError for a count that is not 1 to MOST_CAMERAS.
    """
    if not 1 <= count <= MOST_CAMERAS:
        raise ValueError(f"cameras must be 1 to {MOST_CAMERAS}, not {count}")
    places = (("image_1", 0.0, (STEREO_BASELINE_M, 0.0, 0.0)),) if count == 2 else _AROUND[: count - 1]
    cameras = []
    for folder, degrees, place in places:
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
        pose[:3, 3] = place
        cameras.append(RigCamera(folder, pose))
    return tuple(cameras)


def rig_file(cameras: tuple[RigCamera, ...]) -> str:
    """The rig in the format of COLMAP's rig_config.json: poses are cam_from_rig, quaternions are w x y z, and the rig's
    frame is that of the front camera."""
    sensors: list[dict[str, object]] = [{"image_prefix": f"{FRONT}/", "ref_sensor": True}]
    for camera in cameras:
        inverse = np.linalg.inv(camera.front_from_camera)
        x, y, z, w = Rotation.from_matrix(inverse[:3, :3]).as_quat()
        sensors.append(
            {
                "image_prefix": f"{camera.folder}/",
                "cam_from_rig_rotation": [float(part) for part in (w, x, y, z)],
                "cam_from_rig_translation": [float(part) for part in inverse[:3, 3]],
            }
        )
    return json.dumps([{"cameras": sensors}], indent=1) + "\n"
