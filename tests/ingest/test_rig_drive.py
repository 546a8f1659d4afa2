"""Drives of several cameras are found by the folders of the cameras."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jobs.reconstruct import many_drives
from models.config import ModelConfig
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rectify import remap_of
from pipeline.cameras.rig import Rig
from pipeline.config import RunConfig
from pipeline.errors import DriveError
from pipeline.fleet.discover.drive_ref import DriveRef
from pipeline.fleet.plan.drive_plan import drive_config, estimate
from pipeline.ingest.drives import find_drive
from pipeline.ingest.rig_drive import camera_folders
from pipeline.ingest.segments import decode_segment, segment_of
from pipeline.prepare import make_task, read_drive


def _camera(folder, names, size=(64, 48)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", size, (number * 9 % 255, 90, 30)).save(folder / name)


NUMBERS = [f"{n:06d}.png" for n in range(6)]


@pytest.mark.parametrize(
    ("below", "cameras"),
    [
        ("", ["cam_front", "cam_left"]),
        ("samples", ["CAM_FRONT", "CAM_BACK", "CAM_FRONT_LEFT"]),
        ("sensors/cameras", ["ring_front_center", "ring_front_left"]),
        ("images", ["FRONT", "FRONT_LEFT", "SIDE_LEFT"]),
    ],
)
def test_cameras_are_recognised_by_their_folders_and_the_front_camera_is_the_first(tmp_path, below, cameras) -> None:
    for camera in cameras:
        _camera(tmp_path / below / camera, NUMBERS)
    drive = find_drive(str(tmp_path), rig="auto", stride=2, start=1)
    assert drive.rig is not None
    assert drive.rig.cameras[0] == cameras[0]
    assert set(drive.rig.cameras) == set(cameras)
    assert drive.frame_count == 3 * len(cameras)
    names = [uri.rpartition("/")[2] for uri in drive.uris]
    assert names == [NUMBERS[n] for n in (1, 3, 5) for _ in cameras]
    assert drive.of_reference.frame_count == 3
    assert drive.picture["rig"] == drive.rig.to_dict()
    found = camera_folders(str(tmp_path), "auto")
    assert found[0] == str(tmp_path / below / cameras[0]) and len(found) == len(cameras)


def test_the_plan_of_a_rig_is_one_drive_with_the_chunks_that_a_run_makes(tmp_path) -> None:
    for camera in ("cam_front", "cam_left"):
        _camera(tmp_path / "van" / camera, NUMBERS)
    config = RunConfig(str(tmp_path / "van"), rig="auto", plan=True, chunk_size=4, overlap=2, stops=False, turns=False)
    many = many_drives(config, [])
    assert many is not None
    (ref,) = many
    assert isinstance(ref, DriveRef) and ref.drive_id == "van"
    drive, model = read_drive(drive_config(config, ref)), ModelConfig.city_tiny()
    task, costs = make_task(drive, config, model), estimate(drive, config, model)
    assert costs.frames == 12 and costs.chunks == len(task.chunks) == 5
    assert many_drives(replace(config, plan=False), []) is None


def test_pictures_of_several_cameras_are_matched_by_their_times(tmp_path) -> None:
    start = 1_600_000_000_000_000_000
    _camera(tmp_path / "cam_front", [f"{start + n * 100_000_000}.png" for n in range(6)])
    late = [f"{start + n * 100_000_000 + 8_000_000}.png" for n in (0, 1, 2, 4, 5)]
    _camera(tmp_path / "cam_left", late)
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.rig is not None and drive.rig.late == (0.0, 0.08) and not any("takes" in one for one in drive.notes)
    assert [uri.rpartition("/")[2] for uri in drive.uris[1::2] if "#" not in uri] == late
    assert "#no-picture-of-cam_left" in drive.uris[7]
    assert any("cam_left has no picture of 1 of 6 instants" in note for note in drive.notes)
    assert drive.timestamps_ns is not None
    assert drive.timestamps_ns[0] == drive.timestamps_ns[1]
    with pytest.raises(DriveError, match=r"within 0\.001 s"):
        find_drive(str(tmp_path), rig="auto", rig_tolerance_s=0.001)


def test_the_place_of_a_camera_that_is_out_of_step_is_not_the_one_in_the_rig_file(tmp_path) -> None:
    start = 1_600_000_000_000_000_000
    times = [start + n * 100_000_000 for n in range(6)]
    _camera(tmp_path / "car" / "cam0", [f"{time}.png" for time in times])
    _camera(tmp_path / "car" / "cam1", [f"{time + (-1) ** n * 18_000_000}.png" for n, time in enumerate(times)])
    file = tmp_path / "chain.yaml"
    file.write_text("cam0: {}\ncam1:\n  T_cn_cnm1: [[0,0,-1,-1],[0,1,0,0],[1,0,0,0],[0,0,0,1]]\n")
    drive = find_drive(str(tmp_path / "car"), rig=str(file))
    assert drive.rig is not None and drive.rig.out_of_step == ("cam1",)
    assert any("cam1 takes its pictures up to 18 ms before or after cam0, not always" in note for note in drive.notes)
    turn, place = drive.rig.poses[1][:3, :3], drive.rig.poses[1][:3, 3]
    assert np.isfinite(turn).all() and np.isnan(place).all()
    assert Rig.from_dict(drive.rig.to_dict()) == drive.rig


@pytest.mark.parametrize(
    "folders", [("campus_1", "campus_2"), ("cambridge", "camden"), ("camera", "cam"), ("viewpoint_1", "viewpoint_2")]
)
def test_folders_whose_names_only_begin_like_a_camera_s_are_no_rig(tmp_path, folders) -> None:
    for folder in folders:
        _camera(tmp_path / folder, NUMBERS[:1])
    assert not camera_folders(str(tmp_path), "auto")


def test_a_folder_with_some_of_a_rig_file_s_cameras_is_its_drive_and_the_missing_one_is_named(tmp_path) -> None:
    file = tmp_path / "chain.yaml"
    file.write_text("cam0: {}\ncam1:\n  T_cn_cnm1: [[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n")
    _camera(tmp_path / "car" / "cam0", NUMBERS)
    assert camera_folders(str(tmp_path / "car"), str(file)) == [str(tmp_path / "car" / "cam0")]
    assert camera_folders(str(tmp_path), str(file)) == []
    with pytest.raises(DriveError, match="camera cam1 has no folder of this name in"):
        find_drive(str(tmp_path / "car"), rig=str(file))


def test_a_kitti_pair_has_its_baseline_and_without_rig_the_sequence_is_one_camera(tmp_path) -> None:
    for folder in ("image_0", "image_1"):
        _camera(tmp_path / "07" / folder, NUMBERS)
    text = "P0: 30 0 16 0 0 30 12 0 0 0 1 0\nP1: 30 0 16 -16.2 0 30 12 0 0 0 1 0\n"
    (tmp_path / "07" / "calib.txt").write_text(text)
    drive = find_drive(str(tmp_path / "07"), rig="auto")
    assert (drive.drive_id, drive.frame_count) == ("07", 12)
    assert drive.camera is not None
    assert drive.rig is not None
    assert np.allclose(drive.rig.poses[1][:3, 3], (0.54, 0, 0))
    assert find_drive(str(tmp_path / "07")).rig is None
    assert find_drive(str(tmp_path / "07")).frame_count == 6


def test_cameras_that_do_not_fit_are_left_out_or_refused_with_the_reason(tmp_path) -> None:
    _camera(tmp_path / "cam_a", NUMBERS)
    with pytest.raises(DriveError, match="two cameras or more"):
        find_drive(str(tmp_path), rig="auto")
    assert not camera_folders(str(tmp_path), "auto")
    assert not camera_folders(str(tmp_path / "nowhere"), "auto")
    _camera(tmp_path / "cam_b", NUMBERS, (48, 64))
    with pytest.raises(DriveError, match="cam_b is not used: its pictures have 48x64"):
        find_drive(str(tmp_path), rig="auto")
    shutil.rmtree(tmp_path / "cam_b")
    _camera(tmp_path / "cam_b", [f"other{n}.png" for n in range(6)])
    with pytest.raises(DriveError, match="neither times nor names in common"):
        find_drive(str(tmp_path), rig="auto")
    (tmp_path / "chain.yaml").write_text("cam0: {}\ncam1:\n  T_cn_cnm1: [[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n")
    with pytest.raises(DriveError, match="camera cam0 has no folder of this name"):
        find_drive(str(tmp_path), rig=str(tmp_path / "chain.yaml"))


def test_cameras_with_different_calibrations_and_sizes_keep_their_own(tmp_path) -> None:
    for folder, size, focal in (("cam_front", (48, 64), 60), ("cam_left", (64, 48), 40), ("cam_right", (64, 48), 44)):
        _camera(tmp_path / folder, NUMBERS, size)
        (tmp_path / folder / "calib.txt").write_text(f"{focal},{focal},{size[0] / 2},{size[1] / 2}\n")
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.camera is not None and drive.camera.origin == "calibration" and not drive.notes
    assert [drive.camera.of(frame).fx for frame in range(6)] == [60, 40, 44] * 2
    assert [drive.size_of(frame) for frame in range(3)] == [(48, 64), (64, 48), (64, 48)]
    assert (drive.source_width, drive.source_height) == (64, 48)  # the commonest shape is the network's
    assert KnownCamera.from_dict(drive.camera.to_dict()) == drive.camera
    assert drive.of_reference.size_of(3) == (48, 64) and drive.of_reference.camera == drive.camera.of_reference
    batch = decode_segment(segment_of(drive, 0, range(2, 8), range(drive.frame_count), 24, 32))
    assert batch.ok.all()
    views = drive.camera.views(32, 24)
    for place, number in enumerate(range(2, 8)):
        with Image.open(drive.uris[number]) as image:
            expected = remap_of(views[number % 3]).apply(image.convert("RGB"))
        np.testing.assert_array_equal(batch.images[place], expected)
    assert {view.pinhole for view in views} == {views[0].pinhole}
    Image.new("RGB", (64, 48), (200, 9, 9)).save(tmp_path / "cam_front" / NUMBERS[1])
    spoilt = decode_segment(segment_of(drive, 0, range(2, 8), range(drive.frame_count), 24, 32))
    assert spoilt.ok.tolist() == [True, False, True, True, True, True]
    assert "expected 48x64" in str(spoilt.reasons[1])


def test_equal_calibrations_are_one_camera_and_incomplete_ones_are_noted(tmp_path) -> None:
    for folder in ("cam_front", "cam_left", "cam_right"):
        _camera(tmp_path / folder, NUMBERS)
        (tmp_path / folder / "calib.txt").write_text("40,40,32,24\n")
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.camera is not None and drive.camera.rig == () and "rig" not in drive.camera.to_dict()
    (tmp_path / "cam_left" / "calib.txt").unlink()
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.camera is None
    (note,) = drive.notes
    assert "the calibrations of cam_front, cam_right are not used, since cam_left has none" in note
    shutil.rmtree(tmp_path / "cam_left")
    _camera(tmp_path / "cam_left", NUMBERS, (64, 32))
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.rig is not None and drive.rig.cameras == ("cam_front", "cam_right") and drive.camera is not None
    (note,) = drive.notes
    assert "cam_left is not used: its pictures have 64x32 pixels" in note and "if all cameras are calibrated" in note


def test_the_calibrations_in_a_rig_file_and_those_by_a_folder_s_name_are_used(tmp_path) -> None:
    lens = "camera_model: pinhole\n  resolution: [64, 48]\n  distortion_model: none"
    chain = (
        f"cam0:\n  {lens}\n  intrinsics: [40, 40, 31.5, 23.5]\ncam1:\n  {lens}\n  intrinsics: [50, 50, 31.5, 23.5]\n"
    )
    for camera in ("cam0", "cam1"):
        _camera(tmp_path / "car" / camera, NUMBERS)
    (tmp_path / "car" / "calib.txt").write_text("60,60,32,24\n")
    file = tmp_path / "chain.yaml"
    file.write_text(chain + "  T_cn_cnm1: [[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n")
    by_rig = find_drive(str(tmp_path / "car"), rig=str(file))
    by_name = find_drive(str(tmp_path / "car"), rig="auto", camera=CameraConfig(file=str(file)))
    for drive in (by_rig, by_name):
        assert drive.camera is not None
        assert [one.fx for one in drive.camera.rig] == [40, 50]
    assert find_drive(str(tmp_path / "car"), rig=str(file), camera=CameraConfig(file="none")).camera is None
    beside = find_drive(str(tmp_path / "car"), rig="auto").camera
    assert beside is not None and beside.camera.fx == 60 and beside.rig == ()


def test_a_place_in_a_rig_file_is_held_also_for_a_camera_that_is_always_late_by_the_same_time(
    tmp_path,
) -> None:
    start = 1_600_000_000_000_000_000
    for camera, late in (("cam0", 0), ("cam1", 20_000_000)):
        _camera(tmp_path / "car" / camera, [f"{start + late + n * 100_000_000}.png" for n in range(6)])
    file = tmp_path / "chain.yaml"
    file.write_text("cam0: {}\ncam1:\n  T_cn_cnm1: [[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n")
    drive = find_drive(str(tmp_path / "car"), rig=str(file))
    assert drive.rig is not None and np.isfinite(drive.rig.poses).all() and drive.rig.late == (0.0, 0.2)
    assert drive.notes == ("camera cam1 takes its pictures 20 ms after cam0; its poses are those of that moment",)
    every_second = find_drive(str(tmp_path / "car"), rig=str(file), stride=2).rig
    assert every_second is not None and every_second.late == (0.0, 0.1)
    assert Rig.from_dict(drive.rig.to_dict()) == drive.rig
