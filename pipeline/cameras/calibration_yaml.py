"""Calibrations of OpenCV (YAML and XML), ROS and Kalibr. All of them count pixels from 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2

from pipeline.cameras.camera import Camera, Model
from pipeline.cameras.fields import CalibrationError, Fields

Size = tuple[int, int]

# Names that OpenCV's own samples and programs around it write.
_MATRIX = ("camera_matrix", "Camera_Matrix", "cameraMatrix", "K", "M1", "intrinsic_matrix")
_DISTORTION = (
    "distortion_coefficients",
    "Distortion_Coefficients",
    "distCoeffs",
    "dist_coeffs",
    "dist_coefs",
    "D",
    "D1",
)
_WIDTH, _HEIGHT = ("image_width", "image_Width", "width"), ("image_height", "image_Height", "height")
_SKEW = 1e-6  # of a matrix, over its focal length: more is no camera of ours
_FISHEYE = ("fisheye_model", "Fisheye_Model", "fisheye", "useFisheye")


def opencv_camera(text: str, file: str, size: Size) -> Camera:
    """A file that cv2.FileStorage wrote: matrix and coefficients, as its calibration sample names them."""
    store = cv2.FileStorage()
    try:
        opened = store.open(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    except (cv2.error, SystemError) as error:
        raise CalibrationError(f"{file}: expected a file of OpenCV's, got {_said(error)}") from None
    if not opened:
        raise CalibrationError(f"{file}: expected a file of OpenCV's")
    try:
        root = store.root()
        names = list(root.keys()) if root.isMap() else []
        values = {name: _node(root.getNode(name), name, file) for name in names}
    finally:
        store.release()
    fields = Fields(file, values)
    width, height = (
        (fields.size(_named(values, _WIDTH)), fields.size(_named(values, _HEIGHT)))
        if any(name in values for name in (*_WIDTH, *_HEIGHT))
        else size
    )
    name = _named(values, _DISTORTION)
    distortion = fields.numbers(name)  # without them a lens would pass for a pinhole, whose coefficients are zeros
    fisheye = any(bool(fields.number(one, 0.0)) for one in _FISHEYE)
    return _from_matrix(fields, _named(values, _MATRIX), distortion, name, fisheye, (width, height))


def _node(node: cv2.FileNode, name: str, file: str) -> object:
    """What a node holds: a number, a text, or a list of numbers for a matrix or sequence."""
    if node.isReal() or node.isInt():
        return node.real()
    if node.isString():
        return node.string()
    if node.isSeq():
        return [_node(node.at(i), f"{name}[{i}]", file) for i in range(node.size())]
    if node.isMap():
        parts = {part: _node(node.getNode(part), f"{name}.{part}", file) for part in list(node.keys())}
        return _matrix(Fields(file, parts, f"{name}.")) if "data" in parts else parts
    return None


def _matrix(fields: Fields) -> list[object]:
    """The values of a matrix. Their number must fit its shape: FileNode.mat() writes past the end of the matrix where a
    file has more, and returns uninitialised memory where it has fewer."""
    rows, columns = fields.size("rows"), fields.size("cols")
    data = fields.value("data")
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise fields.error("data", "a list of numbers", data)
    if len(data) != rows * columns:
        raise fields.error("data", f"{rows} x {columns} numbers", len(data))
    return list(data)


def ros_camera(values: Mapping[str, object], file: str, size: Size) -> Camera:
    """camera_info as camera_calibration writes it (camera_matrix: {rows, cols, data}) or as a message (K, D)."""
    fields = Fields(file, values)
    known = [name for name in (*_MATRIX, "k") if name in values]
    if not known:
        raise CalibrationError(f"{file}: camera_matrix is missing; a camera_info has it, or K")
    plain = {
        str(name): _matrix(Fields(file, value, f"{name}."))
        if name in (*known, *_DISTORTION, "d") and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    fields = Fields(file, {name: _flat(value) for name, value in plain.items()})
    sized = [name for name in (*_WIDTH, *_HEIGHT) if name in values]
    if sized:
        size = fields.size(_named(values, _WIDTH)), fields.size(_named(values, _HEIGHT))
    name = next((one for one in (*_DISTORTION, "d") if one in values), _DISTORTION[0])
    model = fields.text("distortion_model")
    distortion = fields.numbers(name)
    if model not in ("plumb_bob", "rational_polynomial", "equidistant", "fisheye", "none"):
        raise fields.error("distortion_model", "plumb_bob, rational_polynomial or equidistant", model)
    # A drive that was rectified before has none. plumb_bob has five; where a shape says four, four are all there are.
    wanted = {"plumb_bob": 5, "rational_polynomial": 8}.get(model)
    if wanted and distortion and len(distortion) < wanted and not isinstance(values[name], Mapping):
        raise fields.error(name, f"{wanted} coefficients of {model}", len(distortion))
    return _from_matrix(fields, known[0], distortion, name, model in ("equidistant", "fisheye"), size)


def kalibr_cameras(values: Mapping[str, object], file: str) -> Mapping[str, Camera]:
    """camchain: cam0, cam1 ... with camera_model, intrinsics, distortion_model, distortion_coeffs, resolution."""
    whole = Fields(file, {str(name): part for name, part in values.items()})
    return {name: _kalibr_camera(whole.part(name)) for name in whole.values if is_kalibr_name(name)}


def is_kalibr_name(name: str) -> bool:
    """Whether a block of YAML has a camera's name in a camchain: cam0, cam1 ..."""
    return name.startswith("cam") and name[3:].isdecimal()


def _kalibr_camera(fields: Fields) -> Camera:
    width, height = fields.numbers("resolution", 2)
    if min(width, height) < 1:
        raise fields.error("resolution", "a size above zero", f"{width:g} x {height:g}")
    size = int(width), int(height)
    model = fields.text("camera_model")
    if model not in ("pinhole", "eucm"):
        raise fields.error("camera_model", "pinhole or eucm", model)
    lens = fields.numbers("intrinsics", 4 if model == "pinhole" else 6)
    fx, fy, cx, cy = lens[-4:]
    if min(fx, fy) <= 0:
        raise fields.error("intrinsics", "focal lengths above zero", f"{fx:g} and {fy:g}")
    lens_model: Model
    if model == "eucm":
        lens_model, params, centre = "eucm", tuple(lens[:2]), ("intrinsics[4]", "intrinsics[5]")
    else:
        lens_model, params = _kalibr_lens(fields)
        centre = ("intrinsics[2]", "intrinsics[3]")
    return fields.camera(lambda: Camera(lens_model, *size, fx, fy, cx + 0.5, cy + 0.5, params), centre)


def _kalibr_lens(fields: Fields) -> tuple[Model, tuple[float, ...]]:
    kind = fields.text("distortion_model")
    if kind not in ("radtan", "equidistant", "none"):
        raise fields.error("distortion_model", "radtan, equidistant or none", kind)
    if kind == "none":
        return "pinhole", ()
    return "radtan" if kind == "radtan" else "fisheye", tuple(fields.numbers("distortion_coeffs", 4))


def _from_matrix(
    fields: Fields, matrix: str, distortion: Sequence[float], name: str, fisheye: bool, size: Size
) -> Camera:
    """fx 0 cx 0 fy cy 0 0 1 and OpenCV's coefficients."""
    k = fields.numbers(matrix, 9)
    if k[0] <= 0 or k[4] <= 0:
        raise fields.error(matrix, "focal lengths above zero (its 1st and 5th number)", f"{k[0]:g} and {k[4]:g}")
    for place, known in ((1, 0), (3, 0), (6, 0), (7, 0), (8, 1)):
        if abs(k[place] - known) > _SKEW * k[0]:
            raise fields.error(f"{matrix}[{place}]", f"{known}: fx 0 cx 0 fy cy 0 0 1", k[place])
    values = list(distortion)
    if not fisheye:
        while len(values) > 8 and not values[-1]:  # OpenCV pads to 12 or 14: thin prisms and tilted sensors
            values.pop()
        if len(values) in (6, 7):
            values += [0.0] * (8 - len(values))
    if fisheye and len(values) != 4:
        raise fields.error(name, "4 coefficients of a fisheye", len(values))
    if not fisheye and len(values) not in (0, 4, 5, 8):
        raise fields.error(name, "4, 5 or 8 coefficients (or none)", len(values))
    model: Model = "fisheye" if fisheye else "radtan" if any(values) else "pinhole"
    if model == "pinhole":
        values = []
    return fields.camera(
        lambda: Camera(model, *size, k[0], k[4], k[2] + 0.5, k[5] + 0.5, tuple(values)),
        (f"{matrix}[2]", f"{matrix}[5]"),
    )


def _named(values: Mapping[str, object], names: Sequence[str]) -> str:
    """The first of several names that the file has; the first of all where it has none."""
    return next((name for name in names if name in values), names[0])


def _flat(value: object) -> object:
    """Rows of a matrix one after the other."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    rows = [row for row in value if isinstance(row, Sequence) and not isinstance(row, str)]
    return [one for row in rows for one in row] if len(rows) == len(value) else value


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
