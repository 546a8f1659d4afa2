"""A drive's camera is known from a named file, a file beside the frames, or EXIF; and what follows from it."""

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.config import CameraConfig
from pipeline.cameras.fields import CalibrationError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.segments import DriveTask, decode_segment, segment_of
from tests.cameras.lenses import LENSES
from tests.cameras.test_rectify import picture
from tests.ingest.makers import write_images, write_video

KITTI = "P0: 50 0 31.5 0 0 51 23.5 0 0 0 1 0\nP2: 60 0 31.5 0 0 61 23.5 0 0 0 1 0\n"


def task(drive, height=28, width=42):
    chunks = (range(drive.frame_count),)
    return DriveTask(drive, height, width, chunks, segment_length=drive.frame_count)


def test_a_drive_without_calibration_has_no_camera_and_keeps_its_identity(tmp_path):
    write_images(tmp_path / "drive", 3)
    drive = find_drive(str(tmp_path / "drive"))
    assert drive.camera is None and drive.picture == {} and task(drive).network_camera is None


@pytest.mark.parametrize("given", ["", "image_2"])
def test_a_calib_file_beside_the_image_folder_is_used_for_the_folder_and_for_the_sequence(tmp_path, given):
    write_images(tmp_path / "07" / "image_2", 3)
    (tmp_path / "07" / "calib.txt").write_text(KITTI)
    drive = find_drive(str(tmp_path / "07" / given))
    assert drive.camera.camera.intrinsics == (60, 61, 32, 24)  # P2, and centres at +0.5
    assert drive.camera.origin == "calibration"
    assert drive.picture["camera"]["camera"]["fx"] == 60


def test_the_calibration_of_kitti_raw_is_found_above_the_drive(tmp_path):
    write_images(tmp_path / "2011_09_26" / "drive_0001_sync" / "image_03" / "data", 3)
    text = "S_rect_03: 64 48\nP_rect_03: 70 0 31.5 0 0 71 23.5 0 0 0 1 0\nP_rect_02: 80 0 31.5 0 0 81 23.5 0 0 0 1 0\n"
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(text + "S_rect_02: 64 48\n")
    drive = find_drive(str(tmp_path / "2011_09_26" / "drive_0001_sync" / "image_03" / "data"))
    assert drive.camera.camera.fx == 70


def test_a_view_of_a_sphere_looks_to_the_given_side_and_other_cameras_have_no_views(tmp_path):
    write_images(tmp_path / "drive", 3)  # 64 x 48

    def found(views, file="equirectangular"):
        return find_drive(str(tmp_path / "drive"), camera=CameraConfig(file=file, views=views))

    assert [found(view).camera.camera.cx for view in (None, "front", "left", "right", "rear")] == [32, 32, 16, 48, 0]
    assert found("left").picture != found("right").picture
    assert found("front", "50,50,32,24").camera.camera.model == "pinhole"
    for file, said in (("50,50,32,24", "a pinhole camera"), ("none", "no calibration")):
        with pytest.raises(CalibrationError, match=rf"--camera.views left: only an equirectangular .* has {said}"):
            found("left", file)
    with pytest.raises(CalibrationError, match="a drive looks one way"):
        found("left,right")
    for wrong in ("up", "left,left", ",", ""):
        with pytest.raises(ValueError, match=r"--camera\.views takes some of front,left,right,rear"):
            CameraConfig(views=wrong)


def test_the_calibration_of_a_video_is_found_beside_it(tmp_path):
    video = write_video(tmp_path / "a.mp4", 14)
    (tmp_path / "calib.txt").write_text("P0: 50 0 31.5 0 0 51 23.5 0 0 0 1 0\n")
    assert find_drive(str(video)).camera.camera.fx == 50


def test_a_named_calibration_replaces_the_one_beside_the_frames_and_none_uses_no_calibration(tmp_path):
    write_images(tmp_path / "07" / "image_0", 3)
    (tmp_path / "07" / "calib.txt").write_text(KITTI)
    (tmp_path / "other.txt").write_text(KITTI.replace("50 0", "55 0"))
    uri = str(tmp_path / "07")
    assert find_drive(uri, camera=CameraConfig(f"{tmp_path}/other.txt")).camera.camera.fx == 55
    assert find_drive(uri, camera=CameraConfig(f"{tmp_path}/other.txt#P2")).camera.camera.fx == 60
    assert find_drive(uri, camera=CameraConfig("40,41,32,24")).camera.camera.intrinsics == (40, 41, 32, 24)
    assert find_drive(uri, camera=CameraConfig("none")).camera is None
    with pytest.raises(CalibrationError, match=r"--camera\.file: no such file or folder: .*missing\.txt"):
        find_drive(uri, camera=CameraConfig(f"{tmp_path}/missing.txt"))
    with pytest.raises(CalibrationError, match=r"--camera\.file: .*/07: Is a directory; give the calibration file"):
        find_drive(uri, camera=CameraConfig(uri))


def test_a_broken_calibration_beside_a_drive_gives_an_error_with_advice(tmp_path):
    write_images(tmp_path / "07" / "image_0", 3)
    (tmp_path / "07" / "calib.txt").write_text(KITTI.replace("50 0", "0 0"))
    with pytest.raises(CalibrationError, match=r"07/calib\.txt: P0: expected focal lengths above zero.*--camera\.file"):
        find_drive(str(tmp_path / "07"))


def test_without_a_calibration_the_focal_length_comes_from_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    (tmp_path / "drive").mkdir()
    for number in range(3):
        Image.new("RGB", (80, 60)).save(tmp_path / "drive" / f"{number}.jpg", exif=exif)
    camera = find_drive(str(tmp_path / "drive")).camera
    assert camera.origin == "exif" and camera.camera.fx == pytest.approx(28 * 100 / np.hypot(36, 24))
    assert find_drive(str(tmp_path / "drive"), camera=CameraConfig("none")).camera is None


def test_the_network_s_picture_of_a_pinhole_is_scaled_and_cut_as_the_frames_are(tmp_path):
    write_images(tmp_path / "drive", 2, width=124, height=38)
    drive = find_drive(str(tmp_path / "drive"), camera=CameraConfig("72,72,60,18"))
    camera = task(drive, 14, 42).network_camera  # 124 x 38 -> 46 x 14 -> 42 x 14, 2 cut left and right
    assert camera.intrinsics == pytest.approx((72 * 46 / 124, 72 * 14 / 38, 60 * 46 / 124 - 2, 18 * 14 / 38))


def test_frames_of_a_lens_are_rectified_to_a_pinhole_when_they_are_decoded(tmp_path):
    lens = LENSES["fisheye"]
    (tmp_path / "drive").mkdir()
    for number in range(2):
        picture(lens).save(tmp_path / "drive" / f"{number}.png")
    text = ",".join(map(str, (*lens.intrinsics, "fisheye", *lens.params)))
    drive = find_drive(str(tmp_path / "drive"), camera=CameraConfig(text, fov=80.0))
    plan = task(drive, 126, 168)
    batch = decode_segment(segment_of(drive, 0, range(2), range(2), 126, 168))
    wanted = np.asarray(picture(plan.network_camera)).astype(float)
    assert batch.ok.all()
    assert np.degrees(2 * np.arctan(84 / plan.network_camera.fx)) == pytest.approx(80)
    assert np.abs(batch.images[1] - wanted)[2:-2, 2:-2].mean() < 1.5
