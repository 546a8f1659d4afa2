"""jobs.reconstruct --rig views: the views of an equirectangular camera are one drive of one trajectory."""

import json

import numpy as np
import pycolmap
import pytest
from PIL import Image

from jobs import export, verify
from pipeline.cameras.rectify import SPHERE_VIEWS
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.fuse.published_drives import read_drive
from pipeline.publish import open_drive
from pipeline.synthetic import DriveSpec, write_drive
from tests.jobs.runs import run

INSTANTS = 14
WIDTH, HEIGHT = 320, 160
BAD = 6


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """An equirectangular drive, of which one picture is damaged."""
    root = tmp_path_factory.mktemp("sphere")
    write_drive(DriveSpec(78, INSTANTS, HEIGHT, WIDTH, supersample=1, lens="equirectangular"), str(root), "00")
    sequence = root / "sequences" / "00"
    (sequence / "image_0" / f"{BAD:06d}.jpg").write_bytes(b"no picture")
    return sequence


@pytest.fixture(scope="module")
def drive(rendered, tmp_path_factory):
    """Its result. The mask hides the lowest third of the left half."""
    output = tmp_path_factory.mktemp("out")
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[-HEIGHT // 3 :, : WIDTH // 2] = 0  # of the left half, where the rear and the left view look
    Image.fromarray(mask).save(output / "mask.png")
    small = ("--chunk-size", "24", "--overlap", "8", "--no-stops", "--no-turns", "--no-loops")
    asked = ("--rig", "views", "--masks", output / "mask.png")
    assert run("--input", rendered, "--output", output, *asked, *small) == 0
    assert verify.main(["--output", str(output)]) == 0
    return open_drive(str(output), "00")


def test_the_views_are_cameras_of_one_trajectory_with_their_rotations_and_no_distance(rendered, drive) -> None:
    poses, names = drive.poses, tuple(SPHERE_VIEWS)
    assert poses["camera"].to_pylist() == list(names) * INSTANTS
    of_rig = drive.manifest.quality["rig"]
    assert [one["camera"] for one in of_rig] == list(names) and all(one["known"] for one in of_rig)
    place = np.stack([poses[axis].to_numpy() for axis in "xyz"], -1).reshape(INSTANTS, 4, 3)
    assert np.abs(place - place[:, :1]).max() < 1e-9
    assert np.abs([np.array(one["rig_from_camera"])[:, 3] for one in of_rig]).max() == 0
    ahead = drive.cameras.world_from_camera[:, :3, 2].reshape(INSTANTS, 4, 3)
    front, left, right, rear = ahead.transpose(1, 0, 2)
    assert np.allclose(front, -rear, atol=1e-6) and np.allclose(left, -right, atol=1e-6)
    assert np.abs((front * left).sum(1)).max() < 1e-6
    assert drive.manifest.metric is None  # views at one place measure no metre
    assert poses["uri"].to_pylist()[4] == poses["uri"].to_pylist()[7]
    status = poses["status"].to_pylist()
    assert [n for n, one in enumerate(status) if one == "filled"] == list(range(4 * BAD, 4 * BAD + 4))
    found = evaluate(compare(open_estimate(drive.uri.rpartition("/")[0], "00"), open_truth(str(rendered))))
    assert found.trajectory.sim3.ate.percent < 0.5


def test_points_and_masks_are_those_of_each_view(rendered, drive) -> None:
    looked_at = np.array([row["cx"] for row in drive.camera_rows]) - (WIDTH / 2, WIDTH / 4, 3 * WIDTH / 4, 0)
    assert np.allclose(np.remainder(looked_at + 1, WIDTH), 1)
    masked = [1 - mask.mean() for mask in drive.masks]
    assert masked[2] == 0 and min(masked[1], masked[3], masked[0]) > 0  # only the right view sees nothing of it
    table = drive.points(sky=True, ego=True)
    frame = table["frame_index"].to_numpy()
    xyz, rgb = (np.stack([table[name].to_numpy() for name in names], -1).astype(float) for names in ("xyz", "rgb"))
    with Image.open(rendered / "image_0" / "000003.jpg") as image:
        seen = np.asarray(image.convert("RGB"), float)
    for camera in range(4):
        mine = frame == 12 + camera
        assert mine.sum() > 500
        pixel, _ = drive.cameras.project(12 + camera, xyz[mine])
        column, row = np.floor(pixel).astype(int).T.clip(0, [[WIDTH - 1], [HEIGHT - 1]])
        off = np.abs(seen[row, column] - rgb[mine]).mean()
        assert off < 10 and off < np.abs(seen[row, (column + 40) % WIDTH] - rgb[mine]).mean() / 2


def test_exports_and_the_city_see_the_views(drive, tmp_path) -> None:
    output = drive.uri.rpartition("/")[0]
    asked = ["--output", output, "--drive", "00", "--format", "colmap", "nerfstudio", "--to"]
    assert export.main([*asked, str(tmp_path / "plain"), "--images"]) == 0
    model = pycolmap.Reconstruction(str(tmp_path / "plain" / "sparse" / "0"))
    assert {camera.model.name for camera in model.cameras.values()} == {"EQUIRECTANGULAR"}
    centre = WIDTH / 2
    for place in (0, 1, 2, 3):  # other programs look to the middle of the picture, which all views have in common
        image = model.images[place + 1]
        ray = image.cam_from_world().rotation.matrix() @ drive.cameras.world_from_camera[place, :3, 2]
        column = centre + np.arctan2(ray[0], ray[2]) * WIDTH / (2 * np.pi)
        assert (column - drive.camera_rows[place]["cx"] + centre) % WIDTH == pytest.approx(centre, abs=1e-3)
    assert len(list((tmp_path / "plain" / "images").iterdir())) == 4 * (INSTANTS - 1)
    assert export.main([*asked, str(tmp_path / "flat"), "--undistorted"]) == 0
    flat = pycolmap.Reconstruction(str(tmp_path / "flat" / "sparse" / "0"))
    assert {camera.model.name for camera in flat.cameras.values()} == {"PINHOLE"}
    frames = json.loads((tmp_path / "flat" / "transforms.json").read_text())["frames"]
    look = [np.array(one["transform_matrix"])[:3, 2] for one in frames[:4]]
    assert np.allclose(look[0], -look[3], atol=1e-6) and abs(look[0] @ look[1]) < 1e-6
    images = [np.asarray(Image.open(tmp_path / "flat" / one["file_path"]), float) for one in frames[:4]]
    assert min(np.abs(images[0] - other).mean() for other in images[1:]) > 5
    fusible = read_drive(drive)
    assert len(fusible.joined.frame_index) == INSTANTS and fusible.rig.count == 4
    placed, _ = fusible.rig.placed(fusible.joined.world_from_camera, np.ones(INSTANTS))
    assert np.allclose(placed, drive.cameras.world_from_camera)
    pictures = DrivePictures(drive, drive.cameras.world_from_camera, 4).read(range(4))
    assert len(pictures) == 4 and np.abs(pictures[0] - pictures[1]).mean() > 5
