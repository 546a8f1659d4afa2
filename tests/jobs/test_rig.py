"""jobs.reconstruct on drives of several cameras."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from jobs import verify
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from pipeline.publish.poses import rotation_from_quaternion
from pipeline.report.comparison import Compared
from pipeline.report.drive_view import DriveView
from pipeline.report.figures import drive_figures
from pipeline.synthetic import DriveSpec, write_drive
from pipeline.synthetic.bonnet import bonnet_mask, with_bonnet
from tests.jobs.runs import run

INSTANTS = 28  # of the left camera 24 are good, which is enough to find its bonnet
BONNET = 4


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A three-camera drive. The left camera sees the bonnet, is black for a stretch and misses a picture."""
    root = tmp_path_factory.mktemp("rig")
    write_drive(DriveSpec(21, INSTANTS, 56, 112, supersample=1, cameras=3), str(root), "00")
    sequence = root / "sequences" / "00"
    for file in sorted((sequence / "cam_left").iterdir()):
        with Image.open(file) as image:
            seen = np.asarray(image.convert("RGB"))
        Image.fromarray(with_bonnet(seen[None], BONNET)[0]).save(file, quality=95)
    for number in range(5, 8):
        Image.new("RGB", (112, 56)).save(sequence / "cam_left" / f"{number:06d}.jpg")
    (sequence / "cam_left" / "000009.jpg").unlink()
    return sequence


def bonnet_points(drive):
    """How many points of each camera (3,) are seen where the left one has its bonnet."""
    points = drive.points(sky=True, ego=True)
    frame, cameras = points["frame_index"].to_numpy(), drive.cameras
    assert len(cameras.world_from_camera) == 3 * INSTANTS
    pose, k = cameras.world_from_camera[frame], cameras.intrinsics[frame]
    world = np.stack([points[axis].to_numpy() for axis in "xyz"], -1)
    local = np.einsum("nji,nj->ni", pose[:, :3, :3], world - pose[:, :3, 3])
    seen = k[:, :2] * local[:, :2] / local[:, 2:] + k[:, 2:]
    column, row = np.floor(seen).astype(int).clip(0, (111, 55)).T
    return np.bincount(frame[bonnet_mask(BONNET, 56, 112)[row, column]] % 3, minlength=3)


def test_a_drive_of_three_cameras_becomes_one_trajectory_with_all_of_them(rendered, weights, tmp_path) -> None:
    output = tmp_path / "out"
    small = ("--chunk-size", "24", "--overlap", "6", "--no-stops", "--no-turns", "--max-bad-share", "0.5")
    asked = ("--rig", "auto", "--masks", "auto", "--weights", weights)
    assert run("--input", rendered, "--output", output, *asked, *small) == 0
    drive = open_drive(str(output), "00")
    poses = drive.poses
    assert poses.num_rows == 3 * INSTANTS
    assert poses["camera"].to_pylist()[:6] == ["image_0", "cam_left", "cam_right"] * 2
    status = poses["status"].to_pylist()
    assert [n for n, one in enumerate(status) if one == "filled"] == [16, 19, 22, 28]
    place = np.stack([poses[axis].to_numpy() for axis in "xyz"], -1).reshape(INSTANTS, 3, 3)
    assert np.isfinite(place).all()
    truth = json.loads((rendered / "rig_config.json").read_text())[0]["cameras"][1:]
    turn = rotation_from_quaternion(np.stack([poses[f"q{part}"].to_numpy() for part in "wxyz"], -1))
    turn = turn.reshape(INSTANTS, 3, 3, 3)
    for camera, sensor in enumerate(truth, 1):  # known rotations are kept, and every camera has its place on the car
        camera_from_rig = rotation_from_quaternion(np.array(sensor["cam_from_rig_rotation"]))
        assert np.allclose(turn[:, 0].transpose(0, 2, 1) @ turn[:, camera], camera_from_rig.T, atol=1e-5)
        away = np.einsum("nji,nj->ni", turn[:, 0], place[:, camera] - place[:, 0])
        assert np.allclose(away, away[0], atol=1e-6)
    assert [one["known"] for one in drive.manifest.quality["rig"]] == [True, True, True]
    assert drive.manifest.quality["bad_frames"]["28"] == "camera cam_left has no picture of this instant"
    assert verify.main(["--output", str(output)]) == 0
    notes = drive.manifest.quality["notes"]
    assert notes[0] == "camera image_0: --masks auto leaves out nothing"
    assert re.fullmatch(r"camera cam_left: --masks auto leaves out (.*)% of the picture \(bonnet \1%\)", notes[1])
    masks = drive.masks
    assert masks[0] is not None and masks[0].all() and masks[1] is not None and not masks[1].all()
    (figure,) = (
        one for one in drive_figures(DriveView.of(drive), Compared(None, (), None, None, 0.0)) if one.name == "mask"
    )
    assert re.match(r"image_0 0\.0%, cam_left [1-9].*%, cam_right 0\.0% of every frame", figure.note)
    in_bonnet = bonnet_points(drive)
    assert 20 * in_bonnet[1] < min(in_bonnet[0], in_bonnet[2])  # the rim of a coarser mask is left
    # the reference camera is compared with the truth; a city knows the instants, and places all cameras with them
    compared = compare(open_estimate(str(output), "00"), open_truth(str(rendered)))
    assert np.allclose(compared.estimated_poses[:, :3, 3], place[compared.pairs[1], 0])
    assert compared.matched.compared == INSTANTS and evaluate(compared).depth is not None
    fusible = read_drive(drive)
    assert len(fusible.joined.frame_index) == INSTANTS and fusible.rig.count == 3
    again, scale = fusible.rig.placed(fusible.joined.world_from_camera, np.ones(INSTANTS))
    assert np.allclose(again, drive.cameras.world_from_camera) and (scale == 1).all()


def test_a_folder_of_one_camera_is_refused_as_a_rig(rendered, tmp_path, capsys) -> None:
    assert run("--input", rendered / "cam_left", "--output", tmp_path / "out", "--rig", "auto") == 1
    assert "expected folders of two cameras or more" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_rigs_among_many_drives_are_found_and_scenes_of_nuscenes_are_one_each(rendered, weights, tmp_path) -> None:
    fleet, output = tmp_path / "fleet", tmp_path / "out"
    for camera, folder, later in (("CAM_FRONT", "image_0", 0), ("CAM_BACK_LEFT", "cam_right", 34_963)):
        (fleet / "nus" / "samples" / camera).mkdir(parents=True)
        for n in range(16):
            micros = 1_533_151_603_000_000 + n * 500_000 + (n // 8) * 60_000_000 + later
            name = f"n008-2018__{camera}__{micros}.jpg"
            shutil.copy(rendered / folder / f"{n:06d}.jpg", fleet / "nus" / "samples" / camera / name)
    shutil.copytree(rendered / "image_0", fleet / "bike", ignore=lambda _, names: sorted(names)[8:])
    small = ("--chunk-size", "8", "--overlap", "4", "--no-stops", "--no-turns", "--no-loops", "--no-refine")
    assert run("--input", fleet, "--output", output, "--rig", "auto", "--weights", weights, *small) == 0
    scenes = [open_drive(str(output), f"nus__n008-2018__{n:03d}") for n in (1, 2)]
    for scene in scenes:
        assert scene.poses["camera"].to_pylist() == ["CAM_FRONT", "CAM_BACK_LEFT"] * 8
        assert any("CAM_BACK_LEFT takes its pictures 35 ms after" in note for note in scene.manifest.quality["notes"])
        assert [one.get("late_s") for one in scene.manifest.quality["rig"]] == [None, pytest.approx(0.035, abs=1e-4)]
    starts = [scene.poses["timestamp_ns"].to_pylist()[0] for scene in scenes]
    assert starts[1] - starts[0] == 64_000_000_000
    assert "rig" not in open_drive(str(output), "bike").manifest.quality
