"""The calibrations that data sets keep beside their recordings are found and used."""

import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.fields import CalibrationError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.segments import decode_segment, segment_of
from pipeline.synthetic.write import DriveSpec, write_drive
from tests.datasets import EGO_FROM_FRONT, EUROC, EUROC_RIGHT, write_argoverse

FIRST_NS = 315_966_253_899_927_216


def _pictures(folder, size, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number * 9 % 255, 90, 30)).save(folder / name)


@pytest.fixture
def log(tmp_path):
    """A log of Argoverse with two ring cameras, one of them upright, and a stereo camera that is not calibrated."""
    log = tmp_path / "02678d04-cc9f-3148-9f95-1ba66347dff9"
    left = EGO_FROM_FRONT.copy()
    left[:3, 3] += (-0.2, 0.4, 0)
    cameras = {
        "ring_front_center": (Camera("pinhole", 48, 64, 60.0, 60.0, 24.5, 31.5), EGO_FROM_FRONT),
        "ring_front_left": (Camera("pinhole", 64, 48, 55.0, 55.0, 32.5, 23.5), left),
    }
    write_argoverse(log, cameras)
    names = [f"{FIRST_NS + 50_000_000 * n}.jpg" for n in range(3)]
    for name, (camera, _) in cameras.items():
        _pictures(log / "sensors" / "cameras" / name, (camera.width, camera.height), names)
    _pictures(log / "sensors" / "cameras" / "stereo_front_left", (64, 48), names)
    return log


@pytest.mark.parametrize("below", ["", "sensors/cameras"])
def test_the_cameras_of_an_argoverse_log_are_calibrated_and_have_their_places_in_metres(log, below) -> None:
    drive = find_drive(str(log / below), rig="auto")
    assert drive.rig is not None and drive.camera is not None and drive.camera.origin == "calibration"
    assert drive.rig.cameras == ("ring_front_center", "ring_front_left")
    np.testing.assert_allclose(drive.rig.poses[1][:3, 3], (-0.4, 0, -0.2), atol=1e-9)  # left and behind
    assert [camera.fx for camera in drive.camera.rig] == [60, 55]
    assert [drive.size_of(frame) for frame in range(2)] == [(48, 64), (64, 48)]
    (note,) = drive.notes
    assert "folders beside the cameras are not used: stereo_front_left;" in note
    assert decode_segment(segment_of(drive, 0, range(6), range(6), 28, 42)).ok.all()


def test_one_camera_of_an_argoverse_log_is_calibrated_too_and_one_without_a_row_is_not(log) -> None:
    cameras = log / "sensors" / "cameras"
    drive = find_drive(str(cameras / "ring_front_center"))
    assert drive.camera is not None and drive.camera.camera.intrinsics == (60, 60, 24.5, 31.5)
    assert find_drive(str(cameras / "stereo_front_left")).camera is None
    assert find_drive(str(cameras / "ring_front_left"), camera=CameraConfig("none")).camera is None
    named = find_drive(str(cameras / "ring_front_left"), camera=CameraConfig("40,40,32,24")).camera
    assert named is not None and named.camera.fx == 40


def test_a_rig_without_calibrations_has_neither_focal_lengths_nor_places(log) -> None:
    for camera in ("ring_front_center", "ring_front_left"):  # cameras of several sizes need calibrations
        shutil.copytree(
            log / "sensors" / "cameras" / "stereo_front_left", log / "sensors" / "cameras" / camera, dirs_exist_ok=True
        )
    (log / "calibration" / "egovehicle_SE3_sensor.feather").write_bytes(b"broken")
    drive = find_drive(str(log), rig="auto", camera=CameraConfig("none"))
    assert drive.camera is None and drive.rig is not None and drive.rig.rig_from_camera[1] is None


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("intrinsics.feather", r"correct it, or give --camera\.file \(none: without\)"),
        ("egovehicle_SE3_sensor.feather", r"correct it, or give a rig file as --rig \(--camera\.file none"),
    ],
)
def test_a_damaged_table_of_argoverse_fails_the_drive_with_file_and_advice(log, file, advice) -> None:
    place = log / "calibration" / file
    place.write_bytes(place.read_bytes()[:-200])
    place.write_bytes(place.read_bytes()[:400])
    with pytest.raises(
        CalibrationError, match=rf"calibration/{file}: expected a Feather table, got a damaged.*{advice}"
    ):
        find_drive(str(log), rig="auto")


def test_a_log_without_tables_is_a_rig_of_unknown_cameras(log) -> None:
    shutil.rmtree(log / "calibration")
    shutil.rmtree(log / "sensors" / "cameras" / "ring_front_center")
    shutil.copytree(log / "sensors" / "cameras" / "ring_front_left", log / "sensors" / "cameras" / "ring_rear_left")
    drive = find_drive(str(log), rig="auto")
    assert drive.camera is None and drive.rig is not None and drive.rig.rig_from_camera[1] is None


RAW = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_02: 64 48
S_rect_02: 64 48
P_rect_02: 72.1 0 31.5 4.4 0 72.1 23.5 0.2 0 0 1 0.0027
S_rect_03: 64 48
P_rect_03: 72.1 0 31.5 -33.95 0 72.1 23.5 2.2 0 0 1 0.0027
"""


def test_the_colour_pair_of_kitti_raw_has_its_baseline_and_its_calibrations(tmp_path) -> None:
    drive_folder = tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync"
    names = [f"{n:010d}.png" for n in range(4)]
    for camera in ("image_00", "image_01", "image_02", "image_03"):
        _pictures(drive_folder / camera / "data", (64, 48), names)
        times = "\n".join(f"2011-09-26 13:02:25.{100 * n + 100}000000" for n in range(4))
        (drive_folder / camera / "timestamps.txt").write_text(times + "\n")
    (drive_folder / "oxts" / "data").mkdir(parents=True)
    (drive_folder / "velodyne_points" / "data").mkdir(parents=True)
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(RAW)
    drive = find_drive(str(drive_folder), rig="auto")
    assert drive.rig is not None and drive.rig.cameras == ("image_02", "image_03")
    np.testing.assert_allclose(drive.rig.poses[1][:3, 3], ((4.4 + 33.95) / 72.1, -2 / 72.1, 0), atol=1e-6)
    assert drive.camera is not None and drive.camera.rig == () and drive.camera.camera.fx == 72.1
    assert drive.frame_count == 8 and drive.timestamps_ns is not None
    assert drive.notes == (
        "folders beside the cameras are not used: image_00, image_01; a rig file (--rig) can name them",
    )
    assert decode_segment(segment_of(drive, 0, range(8), range(8), 28, 42)).ok.all()
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(RAW.replace("-33.95", "x"))
    with pytest.raises(CalibrationError, match=r"calib_cam_to_cam\.txt: P_rect_03\[3\]: expected a .* number, got 'x'"):
        find_drive(str(drive_folder), rig="auto")
    assert find_drive(str(drive_folder), rig="auto", camera=CameraConfig("none")).rig.rig_from_camera[1] is None


def test_a_rendered_rig_has_the_same_cameras_by_argoverse_s_tables_as_by_its_own_rig_file(tmp_path) -> None:
    spec = DriveSpec(21, 2, 28, 56, supersample=1, cameras=3, side_field_of_view=65.0, side_height=42)
    write_drive(spec, str(tmp_path / "rendered"), "00")
    rendered = tmp_path / "rendered" / "sequences" / "00"
    own = find_drive(str(rendered), rig="auto")
    assert own.rig is not None and own.camera is not None and len(own.camera.rig) == 3
    names = {"image_0": "ring_front_center", "cam_left": "ring_front_left", "cam_right": "ring_front_right"}
    log, tables = tmp_path / "log", {}
    for folder, pose, camera in zip(own.rig.cameras, own.rig.poses, own.camera.rig, strict=True):
        tables[names[folder]] = (camera, EGO_FROM_FRONT @ pose)
        (log / "sensors" / "cameras" / names[folder]).mkdir(parents=True)
        for number, picture in enumerate(sorted((rendered / folder).glob("*.jpg"))):
            shutil.copy(picture, log / "sensors" / "cameras" / names[folder] / f"{FIRST_NS + number * 50_000_000}.jpg")
    write_argoverse(log, tables)
    found = find_drive(str(log), rig="auto")
    assert found.rig is not None and found.camera is not None
    assert found.rig.cameras == tuple(names[folder] for folder in own.rig.cameras)
    np.testing.assert_allclose(found.rig.poses, own.rig.poses, atol=1e-12)
    assert [one.intrinsics for one in found.camera.rig] == [pytest.approx(one.intrinsics) for one in own.camera.rig]
    assert [found.size_of(frame) for frame in range(3)] == [own.size_of(frame) for frame in range(3)]


@pytest.mark.parametrize("below", ["", "mav0"])
def test_the_pair_of_euroc_has_its_lenses_and_its_baseline(tmp_path, below) -> None:
    body = tmp_path / "MH_01_easy" / "mav0"
    names = [f"{1_403_636_579_763_555_584 + 50_000_000 * n}.png" for n in range(3)]
    for camera, text in (("cam0", EUROC), ("cam1", EUROC_RIGHT)):
        _pictures(body / camera / "data", (752, 480), names)
        (body / camera / "sensor.yaml").write_text(text)
    for other in ("imu0", "leica0", "state_groundtruth_estimate0"):
        (body / other).mkdir()
    drive = find_drive(str(tmp_path / "MH_01_easy" / below), rig="auto")
    assert drive.rig is not None and drive.camera is not None and drive.rig.cameras == ("cam0", "cam1")
    assert drive.rig.poses[1][:3, 3] == pytest.approx((0.110, 0, 0), abs=1e-3)
    assert [(one.model, one.fx) for one in drive.camera.rig] == [("radtan", 458.654), ("radtan", 457.587)]
    assert drive.notes == () and drive.frame_count == 6
    alone = find_drive(str(body / "cam1")).camera
    assert alone is not None and alone.origin == "calibration" and alone.camera.fx == 457.587
    (body / "cam1" / "sensor.yaml").write_text(EUROC_RIGHT.replace("T_BS", "T_SB"))
    with pytest.raises(CalibrationError, match=r"cam1/sensor\.yaml: T_BS is missing.*give a rig file as --rig"):
        find_drive(str(body), rig="auto")
    assert find_drive(str(body), rig="auto", camera=CameraConfig("none")).camera is None
