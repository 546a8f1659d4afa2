"""Calibrations in the tables and texts of data sets."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather
from scipy.spatial.transform import Rotation

from pipeline.cameras.camera import Camera
from pipeline.cameras.dataset_rigs import argoverse_camera, argoverse_poses, euroc_camera, euroc_pose, kitti_poses
from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.rig import Rig
from tests.datasets import EGO_FROM_FRONT, EUROC, EUROC_RIGHT, write_argoverse

FRONT = Camera("pinhole", 1550, 2048, 1782.7, 1782.7, 777.3, 1024.4)
LEFT = Camera("pinhole", 2048, 1550, 1685.6, 1685.5, 1026.3, 780.1)
INTRINSICS, EXTRINSICS = "intrinsics.feather", "egovehicle_SE3_sensor.feather"

angles = st.tuples(*[st.floats(-180, 180)] * 3)
places = st.tuples(*[st.floats(-50, 50)] * 3)


def _pose(degrees, place) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    pose[:3, 3] = place
    return pose


def _read(log, cameras):
    write_argoverse(log, cameras)
    return ((log / "calibration" / name).read_bytes() for name in (INTRINSICS, EXTRINSICS))


def test_argoverse_s_tables_give_cameras_with_centres_at_a_half_and_without_distortion(tmp_path) -> None:
    left = EGO_FROM_FRONT @ _pose((0, -45, 0), (-0.3, 0, -0.1))
    cameras = {"ring_front_center": (FRONT, EGO_FROM_FRONT), "ring_front_left": (LEFT, left)}
    intrinsics, extrinsics = _read(tmp_path, cameras)
    for name, (camera, _) in cameras.items():
        found = argoverse_camera(intrinsics, "i", name)
        assert (
            found is not None
            and found.model == "pinhole"
            and (found.width, found.height) == (camera.width, camera.height)
        )
        assert found.intrinsics == pytest.approx(camera.intrinsics)
    assert argoverse_camera(intrinsics, "i", "stereo_front_left") is None  # some logs lack it
    poses = argoverse_poses(extrinsics, "e", cameras)
    assert list(poses) == list(cameras)
    for name, (_, pose) in cameras.items():
        np.testing.assert_allclose(poses[name], pose, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(angles, places, angles, places)
def test_poses_on_the_car_become_poses_by_the_reference_wherever_the_car_s_origin_is(
    tmp_path_factory, a, b, c, d
) -> None:
    ego, front_from_left = _pose(a, b), _pose(c, d)
    cameras = {"left": (LEFT, ego @ front_from_left), "front": (FRONT, ego)}
    _, extrinsics = _read(tmp_path_factory.mktemp("log"), cameras)
    rig = Rig.of(dict(argoverse_poses(extrinsics, "e", cameras)), "front")
    np.testing.assert_allclose(rig.poses[1], front_from_left, atol=1e-9)


def _changed(path, column, row, value) -> bytes:
    table = feather.read_table(str(path))
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    feather.write_feather(table.set_column(place, column, pa.array(values)), str(path))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("fx_px", 0.0, "b.fx_px: expected a number above zero, got 0.0"),
        ("fy_px", float("nan"), "b.fy_px: expected a finite number, got nan"),
        ("cx_px", None, "b.cx_px is missing"),
        ("cx_px", 5000.0, "b.cx_px: expected a principal point inside the picture of 2048x1550"),
        ("width_px", 0, "b.width_px: expected a whole number of pixels above zero, got 0"),
        ("sensor_name", "a", "row 1, sensor_name: expected each sensor once, got 'a' again"),
        ("sensor_name", None, "row 1, sensor_name is missing"),
    ],
)
def test_a_wrong_number_in_the_intrinsics_is_named(tmp_path, column, value, said) -> None:
    write_argoverse(tmp_path, {"a": (FRONT, np.eye(4)), "b": (LEFT, np.eye(4))})
    data = _changed(tmp_path / "calibration" / INTRINSICS, column, 1, value)
    with pytest.raises(CalibrationError, match=f"^i: {said}"):
        argoverse_camera(data, "i", "b")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("qw", 0.5, r"b.qw qx qy qz: expected a quaternion of length 1, got \[0.5, 0.0, 0.0, 0.0\]"),
        ("qz", float("inf"), "b.qz: expected a finite number, got inf"),
        ("tx_m", None, "b.tx_m is missing"),
    ],
)
def test_a_wrong_pose_is_named(tmp_path, column, value, said) -> None:
    write_argoverse(tmp_path, {"a": (FRONT, np.eye(4)), "b": (LEFT, np.eye(4))})
    data = _changed(tmp_path / "calibration" / EXTRINSICS, column, 1, value)
    with pytest.raises(CalibrationError, match=f"^e: {said}"):
        argoverse_poses(data, "e", ["a", "b"])
    assert list(argoverse_poses(data, "e", ["a"])) == ["a"]


def test_kittis_projections_say_where_cameras_sit_in_both_of_its_formats() -> None:
    odometry = "P0: 7 0 3 0 0 7 2 0 0 0 1 0\nP1: 7 0 3 -3.78 0 7 2 0 0 0 1 0\nTr: 1 2\n"
    raw = odometry.replace("P0", "calib_time: 09-Jan-2012 13:57:47\nP_rect_00").replace("P1", "S_00: 1 2\nP_rect_01")
    for text in (odometry, raw):
        poses = kitti_poses(text, "calib.txt")
        assert list(poses) == [0, 1]
        np.testing.assert_allclose(poses[1][:3, 3] - poses[0][:3, 3], (0.54, 0, 0))
        np.testing.assert_array_equal(poses[1][:3, :3], np.eye(3))
    assert kitti_poses("50,50,32,24", "calib.txt") == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("P_rect_02: 7 0", "P_rect_02: expected 12 numbers, got 2"),
        ("P2: 7 0 3 0 0 7 2 0 0 0 1 x", r"P2\[11\]: expected a finite number, got 'x'"),
        ("P2: 7 0 3 0 0 0 2 0 0 0 1 1", r"P2: expected a projection K \[I \| t\] whose K has an inverse"),
    ],
)
def test_a_damaged_projection_is_named(line, said) -> None:
    with pytest.raises(CalibrationError, match=f"^c.txt: {said}"):
        kitti_poses(line, "c.txt")


def test_euroc_s_sensor_has_its_lens_with_centres_at_a_half_and_its_pose_on_the_body() -> None:
    camera = euroc_camera(EUROC.encode(), "sensor.yaml")
    lens = (-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05)
    assert camera == Camera("radtan", 752, 480, 458.654, 457.296, 367.715, 248.875, lens)
    fisheye = euroc_camera(EUROC.replace("radial-tangential", "equidistant").encode(), "sensor.yaml")
    assert fisheye.model == "fisheye"
    left, right = (euroc_pose(text.encode(), "sensor.yaml") for text in (EUROC, EUROC_RIGHT))
    np.testing.assert_allclose(left[:3, :3] @ left[:3, :3].T, np.eye(3), atol=1e-12)
    assert (np.linalg.inv(left) @ right)[:3, 3] == pytest.approx((0.110, 0, 0), abs=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("sensor_type: camera", "sensor_type: imu", "sensor_type: expected camera, got 'imu'"),
        ("camera_model: pinhole", "", "camera_model is missing"),
        ("resolution: [752, 480]", "resolution: [0, 480]", "resolution: expected a size above zero, got '0 x 480'"),
        ("367.215, 248.375", "367.215", "intrinsics: expected 4 numbers, got 3"),
        ("458.654", "-458.654", "fx: expected a focal length above zero"),
        ("367.215", "900", r"intrinsics\[2\]: expected a principal point inside"),
        ("radial-tangential", "omni", "distortion_model: expected radial-tangential or equidistant, got 'omni'"),
        ("sensor_type", "'sensor_type", "expected YAML, got"),
    ],
)
def test_a_wrong_number_in_euroc_s_sensor_is_named(old, new, said) -> None:
    with pytest.raises(CalibrationError, match=f"^s.yaml: {said}"):
        euroc_camera(EUROC.replace(old, new).encode(), "s.yaml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("T_BS:", "T_SB:", "T_BS is missing"),
        ("0.0148655429818", "nan", r"T_BS\.data\[0\]: expected a (finite )?number, got"),
        ("0.0148655429818", "0.9", r"T_BS\.data: expected a rotation and a position"),
        ("0.0148655429818, ", "", r"T_BS\.data: expected 16 numbers, got 15"),
    ],
)
def test_a_wrong_pose_in_euroc_s_sensor_is_named(old, new, said) -> None:
    with pytest.raises(CalibrationError, match=f"^s.yaml: {said}"):
        euroc_pose(EUROC.replace(old, new).encode(), "s.yaml")
