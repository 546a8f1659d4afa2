"""jobs.reconstruct on a rig whose cameras have different focal lengths and pictures of different sizes."""

import json

import numpy as np
import pycolmap
import pytest
from PIL import Image

from jobs import export, verify
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.publish import open_drive
from pipeline.synthetic import DriveSpec, write_drive
from tests.jobs.runs import run

INSTANTS = 16
SIZES = ((320, 96), (320, 112))
FOCAL = 160 / np.tan(np.radians(65) / 2)  # of the right camera


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A stereo pair: the right camera has a longer lens and higher pictures than the left one."""
    root = tmp_path_factory.mktemp("pair")
    spec = DriveSpec(77, INSTANTS, 96, 320, supersample=1, cameras=2, side_field_of_view=65.0, side_height=112)
    write_drive(spec, str(root), "00")
    return root / "sequences" / "00"


@pytest.fixture(scope="module")
def drive(rendered, tmp_path_factory):
    """Its result."""
    output = tmp_path_factory.mktemp("out")
    small = ("--chunk-size", "20", "--overlap", "6", "--no-stops", "--no-turns", "--no-loops")
    assert run("--input", rendered, "--output", output, "--rig", "auto", *small) == 0
    assert verify.main(["--output", str(output)]) == 0
    return open_drive(str(output), "00")


def test_each_camera_has_its_own_numbers_and_the_trajectory_is_right(rendered, drive) -> None:
    front = np.array((rendered / "calib.txt").read_text().split()[1:13], float).reshape(3, 4)[0, 0]
    assert not any("focal" in note for note in drive.manifest.quality["notes"])
    poses = drive.poses
    for camera, (focal, (width, height)) in enumerate(zip((front, FOCAL), SIZES, strict=True)):
        for name, value in {"fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2}.items():
            np.testing.assert_allclose(poses[name].to_numpy()[camera::2], value, atol=1e-6)
            assert drive.camera_rows[camera][name] == pytest.approx(value, abs=1e-6)
        assert set(poses["width"].to_pylist()[camera::2]) == {width}
        assert set(poses["height"].to_pylist()[camera::2]) == {height}
    assert [row["origin"] for row in drive.camera_rows] == ["calibration"] * 2
    found = evaluate(compare(open_estimate(drive.uri.rpartition("/")[0], "00"), open_truth(str(rendered))))
    assert found.trajectory.sim3.ate.percent < 0.3
    assert found.trajectory.sim3.scale == pytest.approx(1, abs=0.02)  # the pair measures the metre


def test_points_lie_in_the_original_pictures_where_they_have_their_colour(rendered, drive) -> None:
    table = drive.points(sky=True, ego=True)
    frame = table["frame_index"].to_numpy()
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
    rgb = np.stack([table[name].to_numpy() for name in "rgb"], -1).astype(float)
    for camera, folder in enumerate(("image_0", "image_1")):
        number = 2 * 5 + camera
        mine = frame == number
        assert mine.sum() > 1000
        pixel, _ = drive.cameras.project(number, xyz[mine])
        mixed, _ = drive.cameras.project(np.full(mine.sum(), number), xyz[mine])
        np.testing.assert_allclose(pixel, mixed)
        with Image.open(rendered / folder / "000005.jpg") as image:
            seen = np.asarray(image.convert("RGB"), float)
        column, row = np.floor(pixel).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < SIZES[camera][0]) & (row < SIZES[camera][1])
        assert inside.mean() > 0.99
        off = np.abs(seen[row[inside], column[inside]] - rgb[mine][inside]).mean()
        away = np.abs(seen[row[inside], (column[inside] + 12) % 320] - rgb[mine][inside]).mean()
        assert off < 8 and off < away / 2


def test_exports_and_the_city_see_the_cameras_as_they_are(rendered, drive, tmp_path) -> None:
    output = drive.uri.rpartition("/")[0]
    to = tmp_path / "exported"
    asked = ["--output", output, "--drive", "00", "--format", "colmap", "nerfstudio", "--to", str(to)]
    assert export.main(asked) == 0
    model = pycolmap.Reconstruction(str(to / "sparse" / "0"))
    assert [(camera.width, camera.height) for _, camera in sorted(model.cameras.items())] == list(SIZES)
    assert model.cameras[2].params[0] == pytest.approx(FOCAL)
    assert [model.images[n].camera_id for n in (1, 2, 3, 4)] == [1, 2, 1, 2]
    frames = json.loads((to / "transforms.json").read_text())["frames"]
    assert [(one["w"], one["h"]) for one in frames[:2]] == list(SIZES)
    assert frames[1]["fl_x"] == pytest.approx(FOCAL)
    pictures = DrivePictures(drive, drive.cameras.world_from_camera, 2)
    assert {place: grey.shape[::-1] for place, grey in pictures.read([6, 7]).items()} == {6: SIZES[0], 7: SIZES[1]}
    assert pictures.intrinsics[7, 0] == pytest.approx(FOCAL)
