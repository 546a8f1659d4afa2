"""Reads calibration files of other programs (`read_calibration`). The content of a file shows its format.

| file | pixels | what is read |
| --- | --- | --- |
| KITTI `calib.txt`, `calib_cam_to_cam.txt` | from 0 | P0 ... P3; P_rect_00 ... with S_rect_00 ... |
| COLMAP `cameras.txt`, `cameras.bin` | centres at +0.5 | ten of its models |
| OpenCV YAML and XML | from 0 | camera_matrix, distortion_coefficients, image_width, image_height |
| ROS camera_info YAML | from 0 | plumb_bob, rational_polynomial, equidistant |
| Kalibr camchain YAML | from 0 | pinhole with radtan, equidistant or none; eucm |
| nerfstudio `transforms.json` | centres at +0.5 | OPENCV, OPENCV_FISHEYE, PINHOLE, EQUIRECTANGULAR |
| OpenSfM `camera_models.json` | its own, about the middle | perspective, brown, fisheye, fisheye_opencv, spherical |
| `fx,fy,cx,cy[,model,params...]` | centres at +0.5 | a line of text, in a file or in place of a file's name |
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from pipeline.cameras.calibration_json import nerfstudio_cameras, opensfm_cameras
from pipeline.cameras.calibration_text import colmap_binary, colmap_text, is_plain, kitti_cameras, plain_camera
from pipeline.cameras.calibration_yaml import is_kalibr_name, kalibr_cameras, opencv_camera, ros_camera
from pipeline.cameras.camera import Camera
from pipeline.cameras.fields import CalibrationError

Size = tuple[int, int]
"""Width and height of the frames, pixels."""

SIDECARS = ("calib.txt", "calib_cam_to_cam.txt", "camera_info.yaml", "camchain.yaml", "cameras.txt", "cameras.bin")
"""Names of calibration files that are used where they lie with a drive. transforms.json and camera_models.json are read
only where --camera.file names them: beside a drive they may be another program's estimate."""

_ALL_AROUND = "equirectangular"

FORMATS = (
    "KITTI calib.txt, COLMAP cameras.txt or .bin, OpenCV YAML or XML, ROS camera_info YAML, Kalibr camchain YAML, "
    "nerfstudio transforms.json, OpenSfM camera_models.json, or fx,fy,cx,cy[,model,params]"
)


def read_calibration(data: bytes, file: str, size: Size, which: str | None = None, likely: str | None = None) -> Camera:
    """The camera of a calibration file, for frames of this size.

    Args:
        data: the file.
        file: its name, for messages; its ending helps to tell the format.
        size: of the (upright) frames. A calibration of another size with the same aspect ratio is scaled to it. Formats
            that hold no size are taken for calibrations of frames of this size.
        which: the camera of a file with several: P2, cam1, COLMAP's number, OpenSfM's name.
        likely: the camera that is used where `which` is not given and the file has it.

    Raises:
        CalibrationError: one line with file and field.
    """
    cameras = _cameras(data, file, size)
    if which is None and likely in cameras:
        which = likely
    if which is None and len(set(cameras.values())) == 1:  # one, or several that are all alike
        which = next(iter(cameras))
    if which is None or which not in cameras:
        names = ", ".join(list(cameras)[:8])
        said = f"has no camera {which!r}" if which else "has several cameras"
        raise CalibrationError(f"{file}: {said}; name one of {names} behind the file ({file}#{next(iter(cameras))})")
    return fitted(cameras[which], size, file)


def is_camera(text: str) -> bool:
    """Whether a text is a camera itself (fx,fy,cx,cy[,model,params...] or equirectangular), and no file's name."""
    return is_plain(text) or text.strip().lower() == _ALL_AROUND


def parse_camera(text: str, size: Size) -> Camera | None:
    """The camera of a text fx,fy,cx,cy[,model,params...] or equirectangular; None where the text is neither and may
    name a file."""
    if text.strip().lower() == _ALL_AROUND:
        return Camera.equirectangular(*size)
    return plain_camera(text, "camera", size) if is_plain(text) else None


def fitted(camera: Camera, size: Size, file: str) -> Camera:
    """The camera for frames of this size. CalibrationError where their shapes differ."""
    width, height = size
    if (camera.width, camera.height) == size:
        return camera
    # Cameras offer sizes that are rounded to even numbers: a pixel or two of the shape are no other crop.
    if abs(camera.width * height - camera.height * width) > 2 * max(width, height):
        raise CalibrationError(
            f"{file}: it is of {camera.width}x{camera.height} pixels and the frames have {width}x{height}, which is "
            f"another shape; give the calibration of these (upright) frames"
        )
    return camera.resized(width, height)


def _cameras(data: bytes, file: str, size: Size) -> Mapping[str, Camera]:
    """All cameras of a file, by name."""
    name = file.partition("#")[0].lower()
    if name.endswith(".bin"):
        return colmap_binary(data, file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CalibrationError(f"{file}: expected text, got bytes; calibrations are {FORMATS}") from None
    start = text.lstrip()
    if not start:
        raise CalibrationError(f"{file}: the file is empty; calibrations are {FORMATS}")
    if start.startswith(("%YAML", "<")):
        return {"camera": opencv_camera(text, file, size)}
    if start.startswith("{"):
        return _of_json(text, file, size)
    if name.endswith((".yaml", ".yml")):
        return _of_yaml(text, file, size)
    if is_plain(text):
        return {"camera": plain_camera(text, file, size)}
    if ":" in start.partition("\n")[0] and not start.startswith("#"):
        return kitti_cameras(text, file, size)
    return colmap_text(text, file)


def _of_json(text: str, file: str, size: Size) -> Mapping[str, Camera]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{file}: expected JSON, got {str(error)[:80]}") from None
    if not isinstance(values, Mapping):
        raise CalibrationError(f"{file}: expected a JSON object; calibrations are {FORMATS}")
    if "frames" in values or "fl_x" in values or "camera_angle_x" in values:
        return {"camera": nerfstudio_cameras(values, file, size)}
    return opensfm_cameras(values, file)


def _of_yaml(text: str, file: str, size: Size) -> Mapping[str, Camera]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise CalibrationError(f"{file}: expected YAML, got {said[:100]}") from None
    if not isinstance(values, Mapping):
        raise CalibrationError(f"{file}: expected YAML with fields; calibrations are {FORMATS}")
    if any(is_kalibr_name(str(name)) for name in values):
        return kalibr_cameras(values, file)
    return {"camera": ros_camera(values, file, size)}
