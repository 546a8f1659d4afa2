"""Calibrations as plain lines (KITTI, COLMAP, fx,fy,cx,cy) and COLMAP's binary file."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pipeline.cameras.camera import MODELS, Camera, Model
from pipeline.cameras.fields import CalibrationError, Fields

Size = tuple[int, int]

# COLMAP's sensor/models.h: number, name, how its parameters are ours. Numbers and orders are part of its file format.
_COLMAP_IDS = {
    0: "SIMPLE_PINHOLE",
    1: "PINHOLE",
    2: "SIMPLE_RADIAL",
    3: "RADIAL",
    4: "OPENCV",
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    16: "EUCM",
    17: "EQUIRECTANGULAR",
}
_COLMAP_PARAMS = {
    "SIMPLE_PINHOLE": ("f", "cx", "cy"),
    "PINHOLE": ("fx", "fy", "cx", "cy"),
    "SIMPLE_RADIAL": ("f", "cx", "cy", "k"),
    "RADIAL": ("f", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2"),
    "FULL_OPENCV": ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "OPENCV_FISHEYE": ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4"),
    "SIMPLE_RADIAL_FISHEYE": ("f", "cx", "cy", "k"),
    "RADIAL_FISHEYE": ("f", "cx", "cy", "k1", "k2"),
    "EUCM": ("fx", "fy", "cx", "cy", "alpha", "beta"),
    "EQUIRECTANGULAR": ("w", "h"),
}
_SKEW = 1e-6  # of a projection matrix, over its focal length: more is no camera of ours


def kitti_cameras(text: str, file: str, size: Size) -> Mapping[str, Camera]:
    """P0: ... P3: of calib.txt (odometry, object) and P_rect_00: with S_rect_00: of calib_cam_to_cam.txt (raw).

    A projection is 3 x 4, row by row; its pixels are counted from 0. Cameras are known by "P2" and by "2".
    """
    lines = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            lines[name.strip()] = rest.split()
    cameras: dict[str, Camera] = {}
    fields = Fields(file, lines)
    for name in lines:
        if name.startswith("P_rect_"):
            number = name[len("P_rect_") :].lstrip("0") or "0"
            width, height = _rect_size(fields, name)
        elif len(name) == 2 and name[0] == "P" and name[1].isdecimal():
            number, (width, height) = name[1], size
        else:
            continue
        cameras[f"P{number}"] = _from_projection(fields, name, width, height)
    if not cameras:
        raise CalibrationError(f"{file}: P0 is missing; a KITTI calibration has lines P0: to P3:, 12 numbers each")
    return cameras


def _rect_size(fields: Fields, name: str) -> Size:
    width, height = fields.numbers(name.replace("P_", "S_"), 2)
    if min(width, height) < 1:
        raise fields.error(name.replace("P_", "S_"), "a size above zero", f"{width:g} x {height:g}")
    return int(width), int(height)


def _from_projection(fields: Fields, name: str, width: int, height: int) -> Camera:
    p = fields.numbers(name, 12)
    if p[0] <= 0 or p[5] <= 0:
        raise fields.error(name, "focal lengths above zero (its 1st and 6th number)", f"{p[0]:g} and {p[5]:g}")
    if abs(p[1]) > _SKEW * p[0] or any((p[4], p[8], p[9])) or p[10] != 1:
        raise fields.error(name, "fx 0 cx . 0 fy cy . 0 0 1 .", "another matrix")
    return fields.camera(
        lambda: Camera("pinhole", width, height, p[0], p[5], p[2] + 0.5, p[6] + 0.5), (f"{name}[2]", f"{name}[6]")
    )


def colmap_text(text: str, file: str) -> Mapping[str, Camera]:
    """cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]."""
    cameras: dict[str, Camera] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"line {number}, "
        if len(words) < 4:
            raise CalibrationError(f"{file}: {where}expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS[], got {line[:60]!r}")
        if not words[0].isdecimal():
            raise CalibrationError(f"{file}: {where}CAMERA_ID: expected a whole number, got {words[0][:60]!r}")
        values = {"MODEL": words[1], "WIDTH": words[2], "HEIGHT": words[3], "PARAMS": words[4:]}
        cameras[words[0]] = colmap_camera(Fields(file, values, where))
    if not cameras:
        raise CalibrationError(f"{file}: it has no cameras; expected lines of CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]")
    return cameras


def colmap_binary(data: bytes, file: str) -> Mapping[str, Camera]:
    """cameras.bin: a count, then id, model, width, height and parameters of each."""
    cameras: dict[str, Camera] = {}
    try:
        (count,) = struct.unpack_from("<Q", data)
        at = 8
        for _ in range(count):
            number, model, width, height = struct.unpack_from("<IiQQ", data, at)
            name = _COLMAP_IDS.get(model, f"number {model}")
            values = {"MODEL": name, "WIDTH": width, "HEIGHT": height, "PARAMS": []}
            fields = Fields(file, values, f"camera {number}, ")
            if name not in _COLMAP_PARAMS:
                raise fields.error("MODEL", f"one of {', '.join(_COLMAP_PARAMS)}", name)
            at += 24
            values["PARAMS"] = list(struct.unpack_from(f"<{len(_COLMAP_PARAMS[name])}d", data, at))
            at += 8 * len(values["PARAMS"])
            cameras[str(number)] = colmap_camera(fields)
    except struct.error:
        raise CalibrationError(f"{file}: the file ends early, after {len(data)} bytes; copy it again") from None
    if not cameras:
        raise CalibrationError(f"{file}: it has no cameras")
    return cameras


def colmap_camera(fields: Fields) -> Camera:
    """The camera of COLMAP's MODEL, WIDTH, HEIGHT and PARAMS."""
    name = fields.text("MODEL")
    if name not in _COLMAP_PARAMS:
        raise fields.error("MODEL", f"one of {', '.join(_COLMAP_PARAMS)}", name)
    width, height = fields.size("WIDTH"), fields.size("HEIGHT")
    if name == "EQUIRECTANGULAR":
        return Camera.equirectangular(width, height)
    names = _COLMAP_PARAMS[name]
    numbers = fields.numbers("PARAMS", len(names))
    p = Fields(fields.file, dict(zip(names, numbers, strict=True)), fields.where)
    fx, fy = (p.focal("f"),) * 2 if "f" in names else (p.focal("fx"), p.focal("fy"))
    model, params = _colmap_lens(name, p)
    return fields.camera(lambda: Camera(model, width, height, fx, fy, p.number("cx"), p.number("cy"), params))


def _colmap_lens(name: str, p: Fields) -> tuple[Model, tuple[float, ...]]:
    if name.endswith("PINHOLE"):
        return "pinhole", ()
    if name == "EUCM":
        return "eucm", (p.number("alpha"), p.number("beta"))
    if name.endswith("FISHEYE"):
        if name == "OPENCV_FISHEYE":
            return "fisheye", tuple(p.number(k) for k in ("k1", "k2", "k3", "k4"))
        return "fisheye", (p.number("k") if p.there("k") else p.number("k1"), p.number("k2", 0.0), 0.0, 0.0)
    if name == "FULL_OPENCV":
        return "radtan", tuple(p.number(k) for k in ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"))
    k1 = p.number("k") if p.there("k") else p.number("k1")
    return "radtan", (k1, p.number("k2", 0.0), p.number("p1", 0.0), p.number("p2", 0.0))


def is_plain(text: str) -> bool:
    """Whether a text is fx,fy,cx,cy[,model,params...] and not a file's name."""
    words = text.strip().split(",")
    if len(words) < 4 or "\n" in text.strip():
        return False
    # One wrong word among four is a slip in a list of numbers; a name with commas has no numbers at all.
    return sum(map(_is_number, words[:4])) >= 2


def plain_camera(text: str, file: str, size: Size) -> Camera:
    """fx,fy,cx,cy[,model,params...]; pixel centres at +0.5, of frames of this size."""
    words = [word.strip() for word in text.strip().split(",")]
    fields = Fields(file, dict(zip(("fx", "fy", "cx", "cy", "model"), words, strict=False)) | {"params": words[5:]})
    model = fields.text("model").lower() if fields.there("model") else "pinhole"
    if model not in MODELS:
        raise fields.error("model", f"one of {', '.join(MODELS)}", model)
    chosen: Model = next(one for one in MODELS if one == model)
    fx, fy, params = fields.focal("fx"), fields.focal("fy"), tuple(fields.numbers("params"))
    return fields.camera(lambda: Camera(chosen, *size, fx, fy, fields.number("cx"), fields.number("cy"), params))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
