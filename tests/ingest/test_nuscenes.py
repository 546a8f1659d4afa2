"""Scenes of nuScenes, whose pictures share one folder for each camera."""

import shutil

import pytest
from PIL import Image

from pipeline.errors import DriveError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.nuscenes import NamedFrame, named_frames, scene_ranges

BOSTON, SINGAPORE = "n008-2018-08-01-15-16-36-0400", "n015-2018-07-24-11-22-45+0800"
# Microseconds after the front camera, as in its first keyframe.
LATER = {"CAM_FRONT": 0, "CAM_FRONT_LEFT": -7_616, "CAM_BACK": 25_065, "CAM_BACK_LEFT": 34_963}


def keyframes(root, log, start, count, cameras=tuple(LATER)):
    """Pictures of a scene, two each second."""
    for camera in cameras:
        folder = root / "samples" / camera
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(count):
            name = f"{log}__{camera}__{start + n * 500_000 + LATER[camera]}.jpg"
            Image.new("RGB", (64, 48), (n * 20, 90, 30)).save(folder / name)


@pytest.fixture()
def root(tmp_path):
    """Two scenes of one log, one of another, which is recorded earlier but sorted last."""
    keyframes(tmp_path, BOSTON, 1_533_151_603_512_404, 4)
    keyframes(tmp_path, BOSTON, 1_533_151_703_512_404, 5)
    keyframes(tmp_path, SINGAPORE, 1_532_402_927_612_460, 3)
    return tmp_path


def test_a_scene_is_a_drive_of_all_cameras_and_its_back_cameras_count_though_they_are_later(root):
    drive = find_drive(str(root), rig="auto", start=4, end=9)
    assert drive.rig is not None and drive.rig.cameras[0] == "CAM_FRONT" and set(drive.rig.cameras) == set(LATER)
    assert drive.frame_count == 20 and not any("#" in uri for uri in drive.uris)
    assert all(BOSTON in uri for uri in drive.uris)
    assert drive.timestamps_ns is not None and drive.timestamps_ns[::4] == tuple(
        (1_533_151_703_512_404 + n * 500_000) * 1000 for n in range(5)
    )
    by_camera = {camera: [u for u in drive.uris if f"/{camera}/" in u] for camera in LATER}
    assert all(len(found) == 5 and found == sorted(found) for found in by_camera.values())
    assert sorted(file.name for file in drive.listing) == sorted(
        uri.removeprefix(f"{root}/samples/") for uri in drive.uris
    )
    notes = " ".join(drive.notes)
    assert (
        "CAM_BACK takes its pictures 25 ms after CAM_FRONT; its poses" in notes and "CAM_FRONT_LEFT takes" not in notes
    )
    late = dict(zip(drive.rig.cameras, drive.rig.late, strict=True))
    assert late == {camera: round(micros / 500_000, 4) for camera, micros in LATER.items()}
    part = find_drive(str(root), rig="auto", start=4, end=9, stride=2)
    assert part.uris == [uri for n in (0, 2, 4) for uri in drive.uris[4 * n : 4 * n + 4]]
    assert find_drive(str(root), rig="auto", start=9).frame_count == 12


def test_pictures_between_the_keyframes_are_named_and_are_a_drive_of_their_own(tmp_path):
    keyframes(tmp_path, BOSTON, 1_533_151_603_512_404, 4)
    assert not any("sweeps" in note for note in find_drive(str(tmp_path), rig="auto").notes)
    shutil.copytree(tmp_path / "samples", tmp_path / "sweeps")
    (note,) = [one for one in find_drive(str(tmp_path), rig="auto").notes if "sweeps" in one]
    assert "not used" in note and "--input" in note
    drive = find_drive(str(tmp_path / "sweeps"), rig="auto")
    assert drive.frame_count == 16 and not any("sweeps" in note for note in drive.notes)


def test_several_scenes_are_no_drive_and_the_error_says_how_to_get_each(root):
    with pytest.raises(DriveError, match=r"hold 3 scenes; leave out --drive-id.*--start 0 --end 4"):
        find_drive(str(root), rig="auto", drive_id="all")
    with pytest.raises(DriveError, match="starts at frame 12 of 12"):
        find_drive(str(root), rig="auto", start=12)


def test_a_tolerance_that_is_asked_for_holds(root):
    with pytest.raises(DriveError, match=r"no picture of camera CAM_BACK.*within 0\.025 s.*larger --rig-tolerance"):
        find_drive(str(root), rig="auto", start=0, end=4, rig_tolerance_s=0.025)


def test_a_camera_without_pictures_of_the_scene_is_left_out_and_named(tmp_path):
    keyframes(tmp_path, BOSTON, 1_533_151_603_512_404, 4)
    keyframes(tmp_path, SINGAPORE, 1_532_402_927_612_460, 3, ("CAM_FRONT", "CAM_BACK"))
    drive = find_drive(str(tmp_path), rig="auto", start=4)
    assert drive.rig is not None and drive.rig.cameras == ("CAM_FRONT", "CAM_BACK")
    assert "camera CAM_BACK_LEFT is not used: it has no picture of this scene" in drive.notes
    keyframes(tmp_path, "n016-other", 1_542_402_927_612_460, 2, ("CAM_FRONT",))
    with pytest.raises(DriveError, match="only camera CAM_FRONT has pictures of this scene"):
        find_drive(str(tmp_path), rig="auto", start=7)


def test_scenes_end_where_the_log_or_five_seconds_pass():
    def name(log, second):
        return f"{log}__CAM_FRONT__{1_533_151_603_000_000 + second * 1_000_000}.jpg"

    frames = named_frames([name("a", 0), name("a", 5), name("a", 11), name("b", 12), name("b", 12)])
    assert frames[1] == NamedFrame("a", 1_533_151_608_000_000_000)
    assert scene_ranges(frames) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert scene_ranges([]) == [] and named_frames([name("a", 0), "000000.jpg"]) == []
