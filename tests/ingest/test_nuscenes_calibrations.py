"""nuScenes' calibrations are found for the scene of a drive, in the tables beside the pictures."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.fields import CalibrationError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.nuscenes_calibrations import MOST_BYTES
from tests.datasets import EGO_FROM_FRONT, write_nuscenes

BOSTON, SINGAPORE = "n008-2018-08-01-15-16-36-0400", "n015-2018-07-24-11-22-45+0800"
LATER = {"CAM_FRONT": 0, "CAM_FRONT_LEFT": -7_616, "CAM_BACK": 25_065}  # microseconds, as in nuScenes


def _scene(root, log, start, focal, behind, count=4):
    """Pictures of a scene, two each second, and its calibrations."""
    behind_it = EGO_FROM_FRONT.copy()
    behind_it[:3, 3] += (-behind, 0.5, 0)
    scene = {}
    for camera in LATER:
        pose = EGO_FROM_FRONT if camera == "CAM_FRONT" else behind_it
        names = [f"samples/{camera}/{log}__{camera}__{start + n * 500_000 + LATER[camera]}.jpg" for n in range(count)]
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 36), (number * 20, 90, 30)).save(root / name)
        scene[camera] = (Camera("pinhole", 1600, 900, focal, focal, 800.5, 450.5), pose, names)
    return scene


@pytest.fixture
def scenes(tmp_path):
    """Two scenes of one car, and one of another, whose pictures are first by name."""
    return [
        _scene(tmp_path, BOSTON, 1_533_151_603_512_404, 1250.0, 1.5),
        _scene(tmp_path, BOSTON, 1_533_151_703_512_404, 1250.0, 1.5),
        _scene(tmp_path, SINGAPORE, 1_532_402_927_612_460, 1275.0, 1.75),
    ]


@pytest.mark.parametrize(
    ("start", "end", "focal", "behind"), [(0, 4, 1250, 1.5), (4, 8, 1250, 1.5), (8, None, 1275, 1.75)]
)
def test_each_scene_has_the_calibration_and_the_places_of_its_own_car(
    tmp_path, scenes, start, end, focal, behind
) -> None:
    write_nuscenes(tmp_path, scenes)
    drive = find_drive(str(tmp_path), rig="auto", start=start, end=end)
    assert drive.camera is not None and drive.camera.origin == "calibration" and drive.rig is not None
    scale = 64 / 1600  # the pictures are smaller than nuScenes' own
    assert drive.camera.camera.intrinsics == pytest.approx((focal * scale, focal * scale, 800.5 * scale, 450.5 * scale))
    assert drive.rig.cameras == ("CAM_FRONT", "CAM_BACK", "CAM_FRONT_LEFT")
    np.testing.assert_allclose(drive.rig.poses[2][:3, 3], (-0.5, 0, -behind), atol=1e-9)
    np.testing.assert_allclose(drive.rig.poses[1], drive.rig.poses[2], atol=1e-9)
    assert drive.rig.late == pytest.approx((0, 0.0501, -0.0152), abs=1e-4)
    assert drive.notes == (
        "camera CAM_BACK takes its pictures 25 ms after CAM_FRONT; its poses are those of that moment",
    )
    one = find_drive(str(tmp_path / "samples" / "CAM_BACK"), start=start, end=end)
    assert one.camera is not None and one.camera.camera.fx == pytest.approx(focal * scale)


def test_the_large_table_is_read_once_by_a_process_for_all_scenes_and_again_when_it_changes(tmp_path, scenes) -> None:
    table = write_nuscenes(tmp_path, scenes[:2]) / "sample_data.json"
    assert find_drive(str(tmp_path), rig="auto", end=4).camera is not None
    table.write_bytes(bytes(table.stat().st_size))  # would be an error if it were read again
    assert find_drive(str(tmp_path), rig="auto", start=4, end=8).camera is not None
    assert find_drive(str(tmp_path), rig="auto", start=8).camera is None
    write_nuscenes(tmp_path, scenes)
    assert find_drive(str(tmp_path), rig="auto", start=8).camera is not None


def test_of_several_versions_the_one_that_names_the_pictures_is_used(tmp_path, scenes) -> None:
    write_nuscenes(tmp_path, scenes[:1], "v1.0-mini")
    write_nuscenes(tmp_path, scenes[1:], "v1.0-trainval")
    for start in (0, 4, 8):
        assert find_drive(str(tmp_path), rig="auto", start=start, end=start + 4).camera is not None


def test_pictures_that_no_table_names_are_noted_and_without_tables_nothing_is_said(tmp_path, scenes) -> None:
    bare = find_drive(str(tmp_path), rig="auto", start=8)
    assert bare.camera is None and not any("calibrated" in note for note in bare.notes)
    folder = write_nuscenes(tmp_path, scenes[:2])
    drive = find_drive(str(tmp_path), rig="auto", start=8)
    assert drive.camera is None and drive.rig is not None and drive.rig.rig_from_camera[2] is None
    said = "not calibrated: v1.0-mini/sample_data.json does not name its pictures"
    assert f"cameras CAM_FRONT, CAM_BACK, CAM_FRONT_LEFT are {said}" in drive.notes
    assert f"camera CAM_FRONT is {said}" in find_drive(str(tmp_path / "samples" / "CAM_FRONT"), start=8).notes
    all_scenes = find_drive(str(tmp_path / "samples" / "CAM_FRONT"))
    assert all_scenes.camera is None
    assert "camera CAM_FRONT is not calibrated: its pictures are of several logs" in all_scenes.notes
    (folder / "calibrated_sensor.json").unlink()
    again = find_drive(str(tmp_path), rig="auto", end=3)
    assert again.camera is not None  # a process reads the tables once
    folder.rename(tmp_path / "v1.0-test")
    notes = find_drive(str(tmp_path), rig="auto", end=4).notes
    assert any("there is no calibrated_sensor.json beside v1.0-test/sample_data.json" in note for note in notes)


def test_scenes_of_one_log_are_one_drive_only_with_one_calibration(tmp_path) -> None:
    both = [
        _scene(tmp_path, BOSTON, 1_533_151_603_512_404, 1250.0, 1.5),
        _scene(tmp_path, BOSTON, 1_533_151_606_512_404, 1260.0, 1.5),
    ]
    write_nuscenes(tmp_path, both)
    drive = find_drive(str(tmp_path), rig="auto")
    assert drive.camera is None and drive.frame_count == 24
    assert any("of several scenes with different calibrations in v1.0-mini/sample_data.json" in n for n in drive.notes)
    assert find_drive(str(tmp_path), rig="auto", end=4).camera is not None


def test_a_table_beyond_the_limit_is_not_read_and_that_is_noted(tmp_path, scenes) -> None:
    os.truncate(write_nuscenes(tmp_path, scenes) / "sample_data.json", MOST_BYTES + 1)  # takes no room on the disk
    notes = find_drive(str(tmp_path), rig="auto", end=4).notes
    said = "v1.0-mini/sample_data.json was not read: it has 4,294,967,297 bytes, more than 4,294,967,296"
    assert any(said in note for note in notes)


def test_damaged_tables_fail_the_drive_with_file_field_and_advice(tmp_path, scenes) -> None:
    folder = write_nuscenes(tmp_path, scenes)
    file = folder / "calibrated_sensor.json"
    whole = file.read_text()
    values = json.loads(whole)
    values[1]["rotation"] = [1, 0, 0]
    file.write_text(json.dumps(values))
    said = r"v1\.0-mini/calibrated_sensor\.json: record '\w+', rotation: expected 4 numbers.*give --camera\.file \(none"
    with pytest.raises(CalibrationError, match=said):
        find_drive(str(tmp_path), rig="auto", end=4)
    none = find_drive(str(tmp_path), rig="auto", end=4, camera=CameraConfig("none"))
    assert none.camera is None and none.rig is not None and none.rig.rig_from_camera[2] is None
    named = find_drive(str(tmp_path), rig="auto", start=8, camera=CameraConfig("40,40,32,18"))
    assert named.camera is not None and named.camera.camera.fx == 40
    assert named.rig is not None and named.rig.rig_from_camera[2] is not None
    file.write_text(whole)
    table = folder / "sample_data.json"
    table.write_bytes(table.read_bytes()[:-50])
    with pytest.raises(CalibrationError, match=r"sample_data\.json: expected a list of records, got \d+ and no end"):
        find_drive(str(tmp_path), rig="auto", end=4)
