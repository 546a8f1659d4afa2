"""Calibrations of nerfstudio (transforms.json) and OpenSfM (camera_models.json)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pipeline.cameras.camera import Camera, Model
from pipeline.cameras.fields import CalibrationError, Fields

Size = tuple[int, int]

_OF_NERFSTUDIO = ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2", "camera_angle_x")

# The coefficients of each projection_type (opensfm/io.py): a file has all of them, or none where all are zero.
_OF_OPENSFM = {
    "perspective": ("k1", "k2"),
    "radial": ("k1", "k2"),
    "brown": ("k1", "k2", "p1", "p2", "k3"),
    "fisheye": ("k1", "k2"),
    "fisheye_opencv": ("k1", "k2", "k3", "k4"),
}


def nerfstudio_cameras(values: Mapping[str, object], file: str, size: Size) -> Camera:
    """The one camera of transforms.json. Pixel centres are at +0.5, as in COLMAP."""
    merged = dict(values)
    frames = values.get("frames")
    if frames is not None and not isinstance(frames, list):
        raise CalibrationError(f"{file}: frames: expected a list, got {type(frames).__name__}")
    for place, frame in enumerate(frames or ()):
        if not isinstance(frame, Mapping):
            raise CalibrationError(f"{file}: frames[{place}]: expected a block of fields")
        for name in _OF_NERFSTUDIO:
            if name in frame and merged.setdefault(name, frame[name]) != frame[name]:
                raise CalibrationError(
                    f"{file}: frames[{place}].{name}: {frame[name]} where another frame has {merged[name]}; "
                    "a drive has one camera"
                )
    fields = Fields(file, merged)
    width, height = (fields.size("w"), fields.size("h")) if fields.there("w") or fields.there("h") else size
    model = fields.text("camera_model") if fields.there("camera_model") else "OPENCV"
    if model == "EQUIRECTANGULAR":
        for name in ("fl_x", "fl_y", "cx", "cy"):
            fields.number(name, 0.0)  # of no use to a sphere; nonsense in them is a damaged file all the same
        return Camera.equirectangular(width, height)
    if model not in ("OPENCV", "OPENCV_FISHEYE", "PINHOLE", "SIMPLE_PINHOLE"):
        raise fields.error("camera_model", "OPENCV, OPENCV_FISHEYE, PINHOLE or EQUIRECTANGULAR", model)
    if not fields.there("fl_x") and fields.there("camera_angle_x"):
        angle = fields.number("camera_angle_x")
        if not 0 < angle < math.pi:
            raise fields.error("camera_angle_x", "radians above zero and below pi", angle)
        fx = fy = width / 2 / math.tan(angle / 2)
    else:
        fx, fy = fields.focal("fl_x"), fields.focal("fl_y")
    fields.all_or_none("cx", "cy")
    fields.all_or_none("k1", "k2", *(("k3", "k4") if model == "OPENCV_FISHEYE" else ("p1", "p2")))
    cx, cy = fields.number("cx", width / 2), fields.number("cy", height / 2)
    k1, k2, k3, k4, p1, p2 = (fields.number(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    lens: Model = "pinhole"
    params: tuple[float, ...] = ()
    if model == "OPENCV_FISHEYE":
        lens, params = "fisheye", (k1, k2, k3, k4)
    elif any((k1, k2, k3, k4, p1, p2)):
        if k4:
            raise fields.error("k4", "0: OpenCV's model has no fourth radial term", k4)
        lens, params = "radtan", (k1, k2, p1, p2, k3) if k3 else (k1, k2, p1, p2)
    return fields.camera(lambda: Camera(lens, width, height, fx, fy, cx, cy, params))


def opensfm_cameras(values: Mapping[str, object], file: str) -> Mapping[str, Camera]:
    """Cameras by name. OpenSfM's coordinates begin in the middle of the image; their unit is its larger side."""
    cameras = {}
    whole = Fields(file, {str(name): value for name, value in values.items()})
    for name in whole.values:
        cameras[name] = _opensfm_camera(whole.part(name))
    if not cameras:
        raise CalibrationError(f"{file}: it has no cameras")
    return cameras


def _opensfm_camera(fields: Fields) -> Camera:
    kind = fields.text("projection_type")
    width, height = fields.size("width"), fields.size("height")
    if kind in ("spherical", "equirectangular"):
        return Camera.equirectangular(width, height)
    side = max(width, height)
    # perspective and fisheye have one focal length, the others two; files of either kind have been seen with the other.
    is_one = fields.there("focal") or (kind in ("perspective", "fisheye") and not fields.there("focal_x"))
    fx, fy = (fields.focal("focal"),) * 2 if is_one else (fields.focal("focal_x"), fields.focal("focal_y"))
    fields.all_or_none("c_x", "c_y")
    fields.all_or_none(*_OF_OPENSFM.get(kind, ()))
    cx, cy = fields.number("c_x", 0.0), fields.number("c_y", 0.0)
    k1, k2, k3, k4, p1, p2 = (fields.number(name, 0.0) for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    lens: Model
    if kind in ("perspective", "simple_radial", "radial", "brown"):
        lens, params = "radtan", (k1, k2, p1, p2, k3) if k3 else (k1, k2, p1, p2)
    elif kind in ("fisheye", "fisheye_opencv"):
        lens, params = "fisheye", (k1, k2, k3, k4)
    else:
        raise fields.error("projection_type", "perspective, brown, radial, fisheye, fisheye_opencv or spherical", kind)
    return fields.camera(
        lambda: Camera(
            lens, width, height, fx * side, fy * side, cx * side + width / 2, cy * side + height / 2, params
        ),
        ("c_x", "c_y"),
    )
