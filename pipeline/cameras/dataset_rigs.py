"""Reads the calibrations of cameras that data sets keep beside their recordings: Argoverse 2, KITTI, EuRoC.

Lengths are metres, axes of cameras OpenCV's. Principal points are counted from the centre of the first pixel, which is
(0.5, 0.5) here, so 0.5 is added.

Argoverse's pictures are published without distortion: k1, k2 and k3 are those of the raw pictures and must not be
applied (argoverse/av2-api, issues 219 and 226).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera, Model
from pipeline.cameras.feather import read_feather
from pipeline.cameras.fields import CalibrationError, Fields
from pipeline.cameras.rig_files import nearest_rigid

Array = NDArray[np.float64]
Poses = dict[str, Array]
"""Cameras by name: poses (4, 4) in one frame that all have in common."""

_SENSOR = "sensor_name"
_INTRINSICS = ("fx_px", "fy_px", "cx_px", "cy_px", "height_px", "width_px")
_POSE = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
_LENSES: Mapping[str, Model] = {"radial-tangential": "radtan", "equidistant": "fisheye"}  # EuRoC's words
_NORM = 1e-2  # most by which the length of a quaternion differs from one


def argoverse_camera(data: bytes, file: str, sensor: str) -> Camera | None:
    """A camera of Argoverse's calibration/intrinsics.feather; None where the table has no row of it (some logs lack
    their stereo cameras). Raises CalibrationError, with file, sensor and column."""
    row = next((row for name, row in _rows(data, file, _INTRINSICS) if name == sensor), None)
    if row is None:
        return None
    size = row.size("width_px"), row.size("height_px")
    fx, fy, cx, cy = row.focal("fx_px"), row.focal("fy_px"), row.number("cx_px"), row.number("cy_px")
    return row.camera(lambda: Camera("pinhole", *size, fx, fy, cx + 0.5, cy + 0.5), ("cx_px", "cy_px"))


def argoverse_poses(data: bytes, file: str, sensors: Collection[str]) -> Poses:
    """The poses of these sensors on the car (ego_from_sensor) in Argoverse's calibration/egovehicle_SE3_sensor.feather;
    those without a row are left out. Raises CalibrationError, with file, sensor and column."""
    poses: Poses = {}
    for name, row in _rows(data, file, _POSE):
        if name in sensors:
            numbers = [row.number(column) for column in _POSE]
            poses[name] = rigid_motion(row, "qw qx qy qz", numbers[:4], numbers[4:])
    return poses


def kitti_poses(text: str, file: str) -> dict[int, Array]:
    """The poses of rectified cameras by number, in the axes of camera 0, from the projections P0: ... of a calib.txt
    or P_rect_00: ... of calib_cam_to_cam.txt. A projection is K [I | t]: the camera is at -t. Empty without such
    lines. Raises CalibrationError, with file and line."""
    poses: dict[int, Array] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition(":")
        number = name.removeprefix("P_rect_").removeprefix("P")
        if not name.startswith("P") or not (number.isascii() and number.isdecimal() and len(number) < 3):
            continue
        fields = Fields(file, {name: rest.split()})
        projection = np.reshape(fields.numbers(name, 12), (3, 4))
        try:
            place = -np.linalg.solve(projection[:, :3], projection[:, 3])
        except np.linalg.LinAlgError:
            place = np.full(3, np.nan)
        if not np.isfinite(place).all():
            raise fields.error(name, "a projection K [I | t] whose K has an inverse", rest.strip())
        poses[int(number)] = np.eye(4)
        poses[int(number)][:3, 3] = place
    return poses


def euroc_camera(data: bytes, file: str) -> Camera:
    """The camera of EuRoC's cam0/sensor.yaml. Raises CalibrationError, with file and field."""
    fields = _yaml(data, file)
    for name, expected in (("sensor_type", "camera"), ("camera_model", "pinhole")):
        if fields.text(name) != expected:
            raise fields.error(name, expected, fields.values[name])
    width, height = fields.numbers("resolution", 2)
    if min(width, height) < 1:
        raise fields.error("resolution", "a size above zero", f"{width:g} x {height:g}")
    fx, fy, cx, cy = fields.numbers("intrinsics", 4)
    kind = fields.text("distortion_model")
    if kind not in _LENSES:
        raise fields.error("distortion_model", " or ".join(_LENSES), kind)
    lens = tuple(fields.numbers("distortion_coefficients", 4))
    size = int(width), int(height)
    centre = "intrinsics[2]", "intrinsics[3]"
    return fields.camera(lambda: Camera(_LENSES[kind], *size, fx, fy, cx + 0.5, cy + 0.5, lens), centre)


def euroc_pose(data: bytes, file: str) -> Array:
    """The pose (4, 4) of a camera of EuRoC in the body's axes: T_BS of its sensor.yaml. Raises CalibrationError, with
    file and field."""
    fields = _yaml(data, file).part("T_BS")
    return nearest_rigid(fields, "data", np.reshape(fields.numbers("data", 16), (4, 4)))


def _yaml(data: bytes, file: str) -> Fields:
    try:
        values = yaml.safe_load(data)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise CalibrationError(f"{file}: expected YAML, got {' '.join(str(error).split())[:100]}") from None
    if not isinstance(values, dict):
        raise CalibrationError(f"{file}: expected YAML with fields, as EuRoC's sensor.yaml has them")
    return Fields(file, {str(name): value for name, value in values.items()})


def rigid_motion(fields: Fields, name: str, quaternion: list[float], place: list[float]) -> Array:
    """The pose (4, 4) of a quaternion w x y z and a position. Raises CalibrationError, which names the field `name`,
    for a quaternion that is none of a rotation."""
    w, x, y, z = quaternion
    if abs(float(np.linalg.norm(quaternion)) - 1) > _NORM:
        raise fields.error(name, "a quaternion of length 1", quaternion)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    pose[:3, 3] = place
    return pose


def _rows(data: bytes, file: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Fields]]:
    """The name of each sensor in a table, and its values."""
    seen = set()
    for number, values in enumerate(read_feather(data, file, {_SENSOR: str, **dict.fromkeys(columns, float)})):
        name = Fields(file, values, f"row {number}, ").text(_SENSOR)
        if name in seen:
            raise CalibrationError(
                f"{file}: row {number}, {_SENSOR}: expected each sensor once, got {name[:40]!r} again"
            )
        seen.add(name)
        yield name, Fields(file, values, f"{name[:60]}.")
