"""Reads the calibrations of a rig's cameras from the files that tell their poses (`rig_files.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.cameras.calibration import fitted
from pipeline.cameras.calibration_json import nerfstudio_cameras
from pipeline.cameras.calibration_text import colmap_camera
from pipeline.cameras.calibration_yaml import kalibr_cameras
from pipeline.cameras.camera import Camera
from pipeline.cameras.fields import Fields
from pipeline.cameras.rig_files import blocks, rig_values

_FOCAL = ("fl_x", "camera_angle_x")


def read_rig_camera(data: bytes, file: str, name: str, size: tuple[int, int]) -> Camera | None:
    """The calibration of one camera in a rig file; None where the file has poses only.

    data, file: as `read_rig` takes them; name: the camera's, as `read_rig` gives it; size: width and height of its
    (upright) frames. Of Kalibr it is the camera's block with `intrinsics`, of COLMAP `camera_model_name` and
    `camera_params`, of nerfstudio the numbers of the frames in the camera's folder, or of all frames. Raises
    CalibrationError, with the file and the field, for numbers that are no camera, or one of another shape than the
    frames.
    """
    values = rig_values(data, file)
    if isinstance(values, list):
        camera = _colmap(Fields(file, values[0]), name, size)
    elif "frames" in values:
        camera = _nerfstudio(values, file, name, size)
    else:
        part = values.get(name)
        has_any = isinstance(part, Mapping) and part.get("intrinsics") is not None
        camera = kalibr_cameras({name: part}, file)[name] if has_any else None
    return None if camera is None else fitted(camera, size, file)


def _colmap(rig: Fields, name: str, size: tuple[int, int]) -> Camera | None:
    for sensor in blocks(rig, "cameras"):
        if sensor.text("image_prefix").strip("/") != name:
            continue
        if not sensor.all_or_none("camera_model_name", "camera_params"):
            return None
        numbers = {"MODEL": sensor.text("camera_model_name"), "WIDTH": size[0], "HEIGHT": size[1]}
        return colmap_camera(Fields(rig.file, {**numbers, "PARAMS": sensor.value("camera_params")}, sensor.where))
    return None


def _nerfstudio(values: Mapping[str, object], file: str, name: str, size: tuple[int, int]) -> Camera | None:
    def is_of_camera(frame: Fields) -> bool:
        return frame.text("file_path").removeprefix("./").rpartition("/")[0] == name

    mine = [frame.values for frame in blocks(Fields(file, values), "frames") if is_of_camera(frame)]
    has_any = any(one in part for part in (values, *mine) for one in _FOCAL)
    return nerfstudio_cameras({**values, "frames": mine}, file, size) if has_any else None
