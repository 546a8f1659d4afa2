"""Drives of several cameras among many drives."""

import pytest

from pipeline import storage
from pipeline.cameras.fields import CalibrationError
from pipeline.errors import DriveError
from pipeline.fleet.discover.discovery import iter_drives
from pipeline.fleet.discover.drive_ref import DriveRef
from tests.s3_server import s3, s3_server  # noqa: F401

CHAIN = "cam0: {}\ncam1:\n  T_cn_cnm1: [[1,0,0,-1],[0,1,0,0],[0,0,1,0],[0,0,0,1]]\n"


def scene(log, start, count):
    return [
        f"nus/samples/{camera}/{log}__{camera}__{start + n * 500_000}.jpg"
        for camera in ("CAM_FRONT", "CAM_BACK")
        for n in range(count)
    ]


FLEET = {
    "a day of vans": (
        [f"mon/van{v}/{camera}/{n}.jpg" for v in (1, 2) for camera in ("cam_front", "cam_left") for n in (0, 1)],
        ["mon__van1", "mon__van2"],
    ),
    "KITTI": (
        [f"sequences/{s}/image_{c}/0.png" for s in ("00", "01") for c in (2, 3)] + ["poses/00.txt"],
        ["00", "01"],
    ),
    "KITTI raw": (
        [f"2011/2011_drive_{d}_sync/image_0{c}/data/0.png" for d in (1, 2) for c in range(4)],
        ["2011__2011_drive_1_sync", "2011__2011_drive_2_sync"],
    ),
    "Argoverse 2": (
        [f"val/log{n}/sensors/cameras/{c}/3159662538999272{n}0.jpg" for n in (1, 2) for c in ("ring_a", "ring_b")]
        + [f"val/log{n}/sensors/lidar/0.feather" for n in (1, 2)],
        ["val__log1", "val__log2"],
    ),
    "Waymo": (
        [f"segment-{n}/images/{camera}/0.png" for n in (1, 2) for camera in ("FRONT", "SIDE_LEFT")],
        ["segment-1", "segment-2"],
    ),
    "nuScenes": (
        scene("n008-x-0400", 1_533_151_603_512_404, 3)
        + scene("n015+0800", 1_532_402_927_612_460, 2)
        + ["nus/maps/0.png"],
        ["nus__n008-x-0400__001", "nus__n015_0800__001"],
    ),
    "one scene of nuScenes": (scene("n008", 1_533_151_603_512_404, 2), ["nus"]),
    "with COLMAP's file": (
        [f"{day}/{name}" for day in ("d1", "d2") for name in ("rig_config.json", "left/0.jpg", "right/0.jpg")],
        ["d1", "d2"],
    ),
}


def put(root, names):
    for name in names:
        data = b"x"
        if name.endswith("rig_config.json"):
            data = b"""[{"cameras": [{"image_prefix": "left/", "ref_sensor": true}, {"image_prefix": "right/",
                "cam_from_rig_rotation": [1, 0, 0, 0], "cam_from_rig_translation": [-1, 0, 0]}]}]"""
        storage.write_bytes_atomically(storage.join(root, *name.split("/")), data)
    return root


@pytest.mark.parametrize("layout", FLEET)
def test_folders_of_several_cameras_are_drives_of_their_own(tmp_path, layout):
    names, expected = FLEET[layout]
    root, notes = put(str(tmp_path / "fleet"), names), []
    found = list(iter_drives(root, note=notes.append, rig="auto"))
    assert [ref.drive_id for ref in found] == expected and not any("one camera" in note for note in notes)
    assert all(isinstance(ref, DriveRef) and ref.rig is None and storage.exists(ref.uri) for ref in found)


@pytest.mark.cluster
def test_they_are_found_on_s3_too(s3):  # noqa: F811
    for number, (names, expected) in enumerate(FLEET.values()):
        found = iter_drives(put(f"{s3}/rigs/{number}", names), rig="auto")
        assert [ref.drive_id for ref in found] == expected


def test_scenes_of_nuscenes_are_ranges_of_the_front_camera_s_pictures(tmp_path):
    root = put(str(tmp_path), FLEET["nuScenes"][0])
    place = f"{root}/nus"
    expected = [("n008-x-0400", 0, 3), ("n015_0800", 3, 5)]
    assert list(iter_drives(place, rig="auto")) == [
        DriveRef(f"nus__{log}__001", place, begin, end) for log, begin, end in expected
    ]
    assert list(iter_drives(place, rig="auto", join=False)) == [DriveRef("nus", place)]


def test_drives_of_one_camera_beside_them_are_reconstructed_as_such_and_noted(tmp_path):
    names = ["van/cam_a/0.jpg", "van/cam_b/0.jpg", "bike/0.jpg", "clip.mp4", "seq/image_2/0.png"]
    notes = []
    found = iter_drives(put(str(tmp_path), names), note=notes.append, rig="auto")
    assert {ref.drive_id: ref.rig for ref in found} == {"van": None, "bike": "none", "clip": "none", "seq": "none"}
    assert notes == ["3 drive(s) have one camera, no rig: bike, seq, clip"]


def test_a_damaged_rig_file_fails_its_drive_only_and_that_of_the_run_the_run(tmp_path):
    root = put(str(tmp_path / "fleet"), FLEET["with COLMAP's file"][0])
    (tmp_path / "fleet" / "d1" / "rig_config.json").write_text("{")
    assert [ref.drive_id for ref in iter_drives(root, rig="auto")] == ["d1", "d2"]
    (tmp_path / "chain.yaml").write_text("cam0: {}\n")
    with pytest.raises(CalibrationError, match="expected two cameras or more"):
        list(iter_drives(root, rig=str(tmp_path / "chain.yaml")))


def test_a_rig_file_finds_the_folders_that_have_one_of_its_cameras(tmp_path):
    root = put(
        str(tmp_path / "fleet"), ["day/a/cam0/0.jpg", "day/a/cam1/0.jpg", "day/b/cam0/0.jpg", "day/c/other/0.jpg"]
    )
    (tmp_path / "chain.yaml").write_text(CHAIN)
    found = {ref.drive_id: ref.rig for ref in iter_drives(root, rig=str(tmp_path / "chain.yaml"))}
    assert found == {
        "day__a": None,
        "day__b": None,
        "day__c__other": None,
    }  # planning fails b and c, which lack cameras


def test_a_rig_as_the_input_is_this_one_drive(tmp_path):
    root = put(str(tmp_path / "van"), ["cam_a/0.jpg", "cam_b/0.jpg"])
    assert list(iter_drives(root, rig="auto")) == [DriveRef("van", root)]
    with pytest.raises(DriveError, match="no drives below"):
        list(iter_drives(put(str(tmp_path / "empty"), ["notes.txt"]), rig="auto"))
