import json
import re
import struct

import cv2
import numpy as np
import pycolmap
import pytest

from pipeline.cameras.calibration import parse_camera, read_calibration
from pipeline.cameras.camera import Camera
from pipeline.cameras.fields import CalibrationError
from tests.cameras.lenses import LENSES, SIZE, rays

W, H = SIZE
K = [420.0, 0, 322.0, 0, 415.0, 237.75, 0, 0, 1]  # pixels from 0; LENSES have centres at +0.5


def kitti(camera):
    row = f"{camera.fx!r} 0 {camera.cx - 0.5!r} 45.4 0 {camera.fy!r} {camera.cy - 0.5!r} -0.2 0 0 1 0.003"
    return f"P0: {row}\nP2: {row}\nTr: 1 2 3\n".encode(), "calib.txt"


def kitti_raw(camera):
    row = f"{camera.fx!r} 0 {camera.cx - 0.5!r} 45.4 0 {camera.fy!r} {camera.cy - 0.5!r} -0.2 0 0 1 0.003"
    return f"calib_time: 09-Jan-2012 13:57:47\nS_rect_02: {W} {H}\nP_rect_02: {row}\n".encode(), "calib_cam_to_cam.txt"


def opencv(ending, fisheye=False):
    def write(camera):
        store = cv2.FileStorage(ending, cv2.FILE_STORAGE_WRITE | cv2.FILE_STORAGE_MEMORY)
        store.write("image_width", camera.width)
        store.write("image_height", camera.height)
        if fisheye:
            store.write("fisheye_model", 1)
        store.write("camera_matrix", camera.matrix - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        store.write("distortion_coefficients", np.array(camera.params or (0.0,) * 5).reshape(-1, 1))
        return store.releaseAndGetString().encode(), f"camera{ending}"

    return write


def ros(model):
    def write(camera):
        k = [camera.fx, 0, camera.cx - 0.5, 0, camera.fy, camera.cy - 0.5, 0, 0, 1]
        text = f"""image_width: {W}
image_height: {H}
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: {k}
distortion_model: {model}
distortion_coefficients:
  rows: 1
  cols: {len(camera.params)}
  data: {list(camera.params)}
"""
        return text.encode(), "front.yaml"

    return write


def kalibr(model, distortion):
    def write(camera):
        lens = [*(camera.params if model == "eucm" else ()), camera.fx, camera.fy, camera.cx - 0.5, camera.cy - 0.5]
        bent = (
            "" if model == "eucm" else f"\n  distortion_model: {distortion}\n  distortion_coeffs: {list(camera.params)}"
        )
        return (
            f"cam0:\n  camera_model: {model}\n  intrinsics: {lens}\n  resolution: [{W}, {H}]{bent}\n".encode(),
            "c.yaml",
        )

    return write


def nerfstudio(model):
    def write(camera):
        names = ("k1", "k2", "k3", "k4") if model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2", "k3")
        values = {"camera_model": model, "fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
        values |= {"w": W, "h": H, **dict(zip(names, camera.params, strict=False)), "frames": [{"file_path": "a.png"}]}
        return json.dumps(values).encode(), "transforms.json"

    return write


def opensfm(kind):
    def write(camera):
        names = ("k1", "k2", "k3", "k4") if "fisheye" in kind else ("k1", "k2", "p1", "p2", "k3")
        values = {"projection_type": kind, "width": W, "height": H, **dict(zip(names, camera.params, strict=False))}
        if kind not in ("spherical", "equirectangular"):
            values |= {"focal_x": camera.fx / W, "focal_y": camera.fy / W}
            values |= {"c_x": (camera.cx - W / 2) / W, "c_y": (camera.cy - H / 2) / W}
        return json.dumps({"v2 phone": values}).encode(), "camera_models.json"

    return write


def colmap(model, binary):
    def write(camera):
        import tempfile
        from pathlib import Path

        params = list(SIZE) if camera.model == "equirectangular" else [*camera.intrinsics, *camera.params]
        theirs = pycolmap.Camera(camera_id=7, model=model, width=W, height=H, params=params)
        one = pycolmap.Reconstruction()
        one.add_camera_with_trivial_rig(theirs)
        with tempfile.TemporaryDirectory() as folder:
            (one.write_binary if binary else one.write_text)(folder)
            path = Path(folder) / ("cameras.bin" if binary else "cameras.txt")
            return path.read_bytes(), path.name

    return write


def plain(camera):
    model = camera.model
    return ",".join(map(repr, camera.intrinsics)).encode() + f",{model}".encode() + b"".join(
        f",{value!r}".encode() for value in camera.params
    ), "camera.txt"


COLMAP = {
    "pinhole": "PINHOLE",
    "radtan4": "OPENCV",
    "radtan8": "FULL_OPENCV",
    "fisheye": "OPENCV_FISHEYE",
    "eucm": "EUCM",
    "equirectangular": "EQUIRECTANGULAR",
}
FORMATS = [
    ("kitti", kitti, "pinhole", "P2"),
    ("kitti raw", kitti_raw, "pinhole", None),
    *(
        (f"opencv {ending} {name}", opencv(ending), name, None)
        for ending in (".yml", ".xml")
        for name in ("pinhole", "radtan4", "radtan5", "radtan8")
    ),
    ("opencv fisheye", opencv(".yml", True), "fisheye", None),
    ("ros plumb_bob", ros("plumb_bob"), "radtan5", None),
    ("ros rational", ros("rational_polynomial"), "radtan8", None),
    ("ros equidistant", ros("equidistant"), "fisheye", None),
    ("kalibr radtan", kalibr("pinhole", "radtan"), "radtan4", None),
    ("kalibr equidistant", kalibr("pinhole", "equidistant"), "fisheye", None),
    ("kalibr eucm", kalibr("eucm", "none"), "eucm", "cam0"),
    ("nerfstudio", nerfstudio("OPENCV"), "radtan5", None),
    ("nerfstudio fisheye", nerfstudio("OPENCV_FISHEYE"), "fisheye", None),
    ("nerfstudio sphere", nerfstudio("EQUIRECTANGULAR"), "equirectangular", None),
    ("opensfm brown", opensfm("brown"), "radtan5", None),
    ("opensfm fisheye", opensfm("fisheye_opencv"), "fisheye", "v2 phone"),
    ("opensfm sphere", opensfm("spherical"), "equirectangular", None),
    *(
        (f"colmap {name} {binary}", colmap(model, binary), name, "7")
        for name, model in COLMAP.items()
        for binary in (False, True)
    ),
    *((f"plain {name}", plain, name, None) for name in LENSES if name != "equirectangular"),
]


@pytest.mark.parametrize(("write", "name", "which"), [row[1:] for row in FORMATS], ids=[row[0] for row in FORMATS])
def test_every_format_gives_the_lens_that_was_written(write, name, which):
    camera = LENSES[name]
    data, file = write(camera)
    found = read_calibration(data, file, SIZE, which)
    assert (found.width, found.height) == SIZE
    points = rays(camera)
    np.testing.assert_allclose(found.project(points), camera.project(points), atol=1e-6)


def test_opencv_and_ours_differ_by_half_a_pixel():
    data, file = opencv(".yml")(LENSES["radtan4"])
    points = rays(LENSES["radtan4"])
    matrix = np.array(K).reshape(3, 3)
    theirs = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.array(LENSES["radtan4"].params))[0][:, 0]
    np.testing.assert_allclose(read_calibration(data, file, SIZE).project(points), theirs + 0.5, atol=1e-6)


ROS = ros("plumb_bob")(LENSES["radtan5"])[0].decode()
MESSAGE = f"width: {W}\nheight: {H}\nK: {K}\nD: [-0.3, 0.1, 0.001, 0.0, -0.01]\ndistortion_model: plumb_bob\n"
KALIBR = kalibr("pinhole", "radtan")(LENSES["radtan4"])[0].decode()
NERF = nerfstudio("OPENCV")(LENSES["radtan5"])[0].decode()
SFM = opensfm("brown")(LENSES["radtan5"])[0].decode()
CV = opencv(".yml")(LENSES["radtan5"])[0].decode()
XML = opencv(".xml")(LENSES["radtan5"])[0].decode()
KITTI = kitti(LENSES["pinhole"])[0].decode()
TEXT = "1 OPENCV 640 480 420 415 322.5 238.25 -0.3 0.09 0.001 -0.002\n"
BAD = [  # file, text, what is replaced, by what for missing, text, zero, infinite; the field that is named
    ("calib.txt", KITTI.replace("P2", "Q2"), "420.0", ["", "x", "0", "inf"], "P0"),
    ("cameras.txt", TEXT, " 420", ["", " x", " 0", " inf"], "PARAMS|fx"),
    ("cam.yml", CV, "image_width: 640", ["image_width: x", "image_width: 0"], "image_width"),
    ("cam.yml", CV, "camera_matrix:", ["other:"], "camera_matrix"),
    ("cam.yml", CV, "420.", ["x", "0.", ".Inf"], "camera_matrix"),
    ("cam.xml", XML, "420.", ["x", "0.", ".Inf"], "camera_matrix"),
    ("front.yaml", ROS, "420.0", ["''", "x", "0", ".inf"], "camera_matrix"),
    ("front.yaml", ROS, "camera_matrix", ["other"], "camera_matrix"),
    ("front.yaml", ROS, "-0.01]", ["]]", "x]", ".inf]"], "distortion_coefficients|YAML"),
    ("front.yaml", ROS, "image_height: 480", ["", "image_height: x", "image_height: 0"], "image_height"),
    ("front.yaml", ROS, "plumb_bob", ["thin_prism"], "distortion_model"),
    ("c.yaml", KALIBR, "420.0", ["''", "x", "0", ".inf"], "cam0.intrinsics"),
    ("c.yaml", KALIBR, "420.0, ", [""], "cam0.intrinsics"),
    ("c.yaml", KALIBR, "radtan", ["fov"], "cam0.distortion_model"),
    ("c.yaml", KALIBR, "pinhole", ["omni"], "cam0.camera_model"),
    ("transforms.json", NERF, '"fl_x": 420.0', ['"other": 1', '"fl_x": "x"', '"fl_x": 0', '"fl_x": Infinity'], "fl_x"),
    ("transforms.json", NERF, '"w": 640', ['"other": 1', '"w": "x"', '"w": 0', '"w": Infinity'], "w"),
    ("camera_models.json", SFM, '"focal_y"', ['"other"'], "focal_y"),
    ("camera_models.json", SFM, '"height": 480', ['"other": 1', '"height": "x"', '"height": 0'], "height"),
    ("camera_models.json", SFM, '"k1": -0.3', ['"k1": "x"', '"k1": Infinity'], "k1"),
    ("camera_models.json", SFM, "brown", ["fisheye62"], "projection_type"),
    ("cam.yml", CV, "image_width: 640\n", [""], "image_width is missing"),
    ("cam.yml", CV, "distortion_coefficients:", ["other:"], "distortion_coefficients is missing"),
    ("cam.yml", CV, "0., 0., 1. ]", ["0., 0. ]", "0., 0., 1., 1. ]"], "camera_matrix.data: expected 3 x 3 numbers"),
    ("cam.yml", CV, "rows: 3", ["rows: 9", "rows: x", "rows: 0", "dt: d"], "camera_matrix.(data|rows)"),
    ("cam.xml", XML, "<rows>5</rows>", ["<rows>500</rows>", "<rows></rows>"], "distortion_coefficients.(data|rows)"),
    ("cam.yml", CV, "322., 0.,", ["322., 7.,"], r"camera_matrix\[3\]: expected 0"),
    ("cam.yml", CV, "322.", ["0.", "700."], r"camera_matrix\[2\]: expected a principal point inside"),
    ("front.yaml", ROS, "distortion_model", ["other"], "distortion_model is missing"),
    ("front.yaml", ROS, "distortion_coefficients", ["other"], "distortion_coefficients is missing"),
    ("front.yaml", ROS, "[420.0", ["[[1, 2]", "[[420.0]"], r"camera_matrix\[0\]: expected a number"),
    ("front.yaml", MESSAGE, ", -0.01]", ["]"], "D: expected 5 coefficients of plumb_bob, got 4"),
    ("c.yaml", KALIBR, "intrinsics", ["other"], "cam0.intrinsics is missing"),
    ("c.yaml", KALIBR, "resolution", ["other"], "cam0.resolution is missing"),
    ("c.yaml", KALIBR, "distortion_model", ["other"], "cam0.distortion_model is missing"),
    ("transforms.json", NERF, '"p2"', ['"other"'], "p2 is missing"),
    ("transforms.json", NERF, '"cx"', ['"other"'], "cx is missing"),
    ("transforms.json", NERF, '"fl_y"', ['"other"'], "fl_y is missing"),
    ("transforms.json", NERF, '"fl_x": 420.0', [f'"fl_x": {10**400}'], "fl_x: expected a finite number"),
    ("camera_models.json", SFM, '"focal_x"', ['"other"'], "v2 phone.focal_x is missing"),
    ("camera_models.json", SFM, '"k3"', ['"other"'], "v2 phone.k3 is missing"),
    ("camera_models.json", SFM, '"c_x"', ['"other"'], "v2 phone.c_x is missing"),
    ("cameras.txt", TEXT, "1 OPENCV", ["x OPENCV"], "line 1, CAMERA_ID"),
    ("camera.txt", "420,415,322.5,238.25", "420", ["", "x", "0", "inf"], "fx"),
    ("camera.txt", "420,415,322.5,238.25,fisheye,0,0,0,0", "fisheye", ["x"], "model"),
    ("camera.txt", "420,415,322.5,238.25,fisheye,0,0,0,0", ",0,0,0,0", ["", ",0,0,0,x", ",0,0,0,inf"], "params"),
]


@pytest.mark.parametrize(
    ("file", "text", "field"),
    [(file, text.replace(old, new, 1), field) for file, text, old, news, field in BAD for new in news],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_file_and_field(file, text, field):
    with pytest.raises(CalibrationError, match=f"{file}.*({field})") as caught:
        read_calibration(text.encode(), file, SIZE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


SWEPT = {  # a file of each format of text -> how it writes infinity
    "calib.txt": (KITTI, "inf"),
    "cameras.txt": ("# id\n" + TEXT, "inf"),
    "cam.yml": (CV, ".Inf"),
    "cam.xml": (XML, ".Inf"),
    "front.yaml": (ROS, ".inf"),
    "c.yaml": (KALIBR, ".inf"),
    "transforms.json": (NERF, "Infinity"),
    "camera_models.json": (SFM, "Infinity"),
    "camera.txt": ("420,415,322.5,238.25,fisheye,-0.02,0.004,-0.001,0.1", "inf"),
}
# Numbers that say nothing of a camera: versions of languages, other rows of KITTI's, COLMAP's ids.
UNUSED = re.compile(r"%YAML[: ]|version=\"|Tr:[ \d]*|# id\n")


@pytest.mark.parametrize("file", SWEPT)
def test_no_number_of_a_calibration_may_be_missing_text_or_infinite_and_no_size_or_focal_length_zero(file):
    text, infinity = SWEPT[file]
    numbers = list(re.finditer(r"(?<![\w.#])-?\d+\.?\d*(?:[eE][-+]?\d+)?(?![\w.])", text))
    used = [one for one in numbers if not re.search(f"({UNUSED.pattern})$", text[: one.start()])]
    assert len(used) >= 8
    zeros = 0
    for one in used:
        for new in ("", '"x"' if file.endswith("json") else "x", infinity, "0"):
            changed = text[: one.start()] + new + text[one.end() :]
            try:
                camera = read_calibration(changed.encode(), file, SIZE)
            except CalibrationError as error:
                assert str(error).startswith(file) and "\n" not in str(error) and len(str(error)) < 300
                zeros += new == "0"
            else:
                assert new == "0", (file, new, text[: one.end()][-40:])
                assert min(camera.fx, camera.fy, camera.cx, camera.cy) > 0.5
    assert zeros >= 4 - 2 * (file == "camera_models.json")  # focal lengths and the principal point, where it counts


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_no_number_of_a_cameras_bin_may_be_infinite_or_none(wrong):
    data, file = colmap("OPENCV", True)(LENSES["radtan4"])
    for place in range(8):
        at = len(data) - 8 * (8 - place)
        changed = data[:at] + struct.pack("<d", wrong) + data[at + 8 :]
        if wrong == 0 and place >= 4:
            assert read_calibration(changed, file, SIZE).params[place - 4] == 0
            continue
        with pytest.raises(CalibrationError, match=r"cameras.bin.*(PARAMS|fx|fy|cx|cy)") as caught:
            read_calibration(changed, file, SIZE)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\x00\xff\xfe", b"[1, 2", b"hello", b"{", b"%YAML:1.0\n---\n", b"<html></html>", b'{"a":' * 9999]
)
@pytest.mark.parametrize("file", ["calib.txt", "cam.yaml", "cameras.bin", "cam.xml"])
def test_what_is_no_calibration_is_said_in_one_line(data, file):
    with pytest.raises(CalibrationError, match=file) as caught:
        read_calibration(data, file, SIZE)
    assert "\n" not in str(caught.value)


def test_a_cut_off_cameras_bin_is_said():
    data, file = colmap("OPENCV", True)(LENSES["radtan4"])
    for length in range(8, len(data)):
        with pytest.raises(CalibrationError, match="ends early"):
            read_calibration(data[:length], file, SIZE)


def test_of_several_cameras_one_must_be_named():
    data, file = kitti(LENSES["pinhole"])
    data = data.replace(b"P2: ", b"P2: 1")  # another focal length
    with pytest.raises(CalibrationError, match=r"calib.txt: has several cameras; name one of P0, P2 .*calib.txt#P0"):
        read_calibration(data, file, SIZE)
    with pytest.raises(CalibrationError, match="has no camera 'P3'"):
        read_calibration(data, file, SIZE, "P3")


def test_a_calibration_at_another_scale_fits_and_one_of_another_shape_is_refused():
    data, file = ros("plumb_bob")(LENSES["radtan5"])
    points = rays(LENSES["radtan5"])
    half = read_calibration(data, file, (320, 240))
    np.testing.assert_allclose(half.project(points), LENSES["radtan5"].project(points) / 2)
    with pytest.raises(CalibrationError, match=r"640x480 .* 480x640"):
        read_calibration(data, file, (480, 640))


def test_a_line_of_text_is_a_camera_and_a_file_s_name_is_none():
    assert parse_camera("700,700,320,240", SIZE) == Camera("pinhole", *SIZE, 700, 700, 320, 240)
    assert parse_camera("calib.txt", SIZE) is None
    assert parse_camera("drives/a,b,c,d.yaml", SIZE) is None
    with pytest.raises(CalibrationError, match="fy"):
        parse_camera("700,0,320,240", SIZE)
    with pytest.raises(CalibrationError, match=r"^camera: cx: expected a finite number"):
        parse_camera("700,700,,240", SIZE)
