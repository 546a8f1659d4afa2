"""Drives through lenses that are not pinholes: the published tables and the exports to other programs."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from PIL import Image

from pipeline.cameras.known_camera import KnownCamera
from pipeline.common.progress import Reporter
from pipeline.errors import DriveError
from pipeline.export_drive import export_drive
from pipeline.publish import PublishConfig, Selection, open_drive, publish_drive
from pipeline.report.comparison import Compared
from pipeline.report.drive_view import DriveView
from pipeline.report.figures import drive_figures
from tests.cameras.lenses import LENSES
from tests.publish.drives import small_drive

NET = (64, 48)  # the shape of the images of LENSES
FRAMES = 3


class Rectified(Sequence):
    """Chunks with frames of the size of the rectified picture."""

    def __init__(self, chunks, view):
        self.chunks, self.view = chunks, view

    def __len__(self):
        return len(self.chunks)

    def __getitem__(self, number):
        chunk = self.chunks[number]
        depth = np.where(self.view.seen(), chunk.depth, np.nan)
        k = np.broadcast_to(self.view.pinhole.matrix, (len(depth), 3, 3))
        return replace(chunk, depth=depth, intrinsics=k)


def published(folder, name, lens=None):
    lens = lens or LENSES[name]
    made = small_drive(FRAMES, height=NET[1], width=NET[0])
    known = KnownCamera(lens, "calibration")
    view = known.view(*NET)
    images = folder / "images"
    images.mkdir()
    for frame in range(FRAMES):
        Image.new("RGB", (lens.width, lens.height), (40 * frame, 90, 20)).save(images / f"{frame:06d}.png")
    facts = replace(
        made.facts,
        source_uri=str(images),
        frame_uris=[str(images / f"{frame:06d}.png") for frame in range(FRAMES)],
        source_width=lens.width,
        source_height=lens.height,
        camera=known,
        network_camera=view.pinhole if view else lens.resized(*NET),
    )
    chunks = Rectified(made.chunks, view) if view else made.chunks
    publish_drive(str(folder / "out"), facts, chunks, made.joined, PublishConfig(confidence_share=0.0), made.run)
    return open_drive(str(folder / "out"), facts.drive_id)


def exported(folder, *formats, **options):
    with Reporter() as reporter:
        export_drive(str(folder / "out"), "drive-1", formats, str(folder / "to"), Selection(), reporter, **options)
    return folder / "to"


def test_a_lens_is_published_with_its_model_and_each_point_lies_where_it_was_seen(tmp_path):
    drive = published(tmp_path, "fisheye")
    row = drive.camera_rows[0]
    assert (row["model"], row["origin"], tuple(row["params"])) == ("fisheye", "calibration", LENSES["fisheye"].params)
    assert drive.lens == LENSES["fisheye"]
    poses = drive.poses.to_pylist()
    assert {(row["fx"], row["fy"], row["cx"], row["cy"]) for row in poses} == {LENSES["fisheye"].intrinsics}
    points = drive.points()
    xyz = np.stack([points[axis].to_numpy() for axis in "xyz"], -1)
    cameras = drive.cameras
    pixels, depth = cameras.project(cameras.places(points["frame_index"].to_numpy()), xyz)
    assert len(xyz) > 5000 and (depth > 0).all()
    view = KnownCamera(LENSES["fisheye"], "calibration").view(*NET)
    centres = view.lens_pixels()[view.seen()]
    nearest = np.abs(pixels[::97, None] - centres[None]).max(-1).min(1)
    assert nearest.max() < 0.01  # of a pixel of the lens: points are float32 and some metres away


def test_a_known_pinhole_is_published_unchanged(tmp_path):
    drive = published(tmp_path, "pinhole")
    row = drive.camera_rows[0]
    assert (row["model"], row["origin"], row["fx"], row["cx"]) == ("pinhole", "calibration", 420.0, 322.5)
    assert drive.lens is None and drive.poses["fy"].to_pylist() == [415.0] * FRAMES


MODELS = {
    "radtan4": "OPENCV",
    "radtan5": "FULL_OPENCV",
    "radtan8": "FULL_OPENCV",
    "fisheye": "OPENCV_FISHEYE",
    "eucm": "EUCM",
    "equirectangular": "EQUIRECTANGULAR",
}


@pytest.mark.parametrize(("name", "model"), MODELS.items())
def test_pycolmap_undistorts_the_original_export_as_the_undistorted_one_is(tmp_path, name, model):
    published(tmp_path, name)
    plain = pycolmap.Reconstruction(exported(tmp_path, "colmap") / "sparse" / "0")
    (tmp_path / "to").rename(tmp_path / "plain")
    flat = pycolmap.Reconstruction(exported(tmp_path, "colmap-text", undistorted=True) / "sparse" / "0")
    assert [camera.model.name for camera in plain.cameras.values()] == [model]
    assert [camera.model.name for camera in flat.cameras.values()] == ["PINHOLE"]
    camera, pinhole = plain.cameras[1], flat.cameras[1]
    assert plain.num_points3D() == flat.num_points3D() > 2000
    if model == "EQUIRECTANGULAR":  # no perspective camera, which pycolmap leaves as it is: its rays are the reference
        theirs, reference = plain, camera.cam_ray_from_img
    else:
        pycolmap.undistort_images(tmp_path / "theirs", tmp_path / "plain" / "sparse" / "0", tmp_path / "images")
        theirs = pycolmap.Reconstruction(tmp_path / "theirs" / "sparse")
        assert [one.model.name for one in theirs.cameras.values()] == ["PINHOLE"]
        reference = theirs.cameras[1].cam_ray_from_img
    for number in (1, FRAMES):
        seen = np.array([point.xy for point in theirs.images[number].points2D])
        ours = np.array([point.xy for point in flat.images[number].points2D])
        np.testing.assert_allclose(np.array(pinhole.img_from_cam(np.array(reference(seen)))), ours, atol=0.05)
    images = sorted(path.name for path in (tmp_path / "to" / "images").iterdir())
    assert len(images) == FRAMES
    written = np.asarray(Image.open(tmp_path / "to" / "images" / images[1]))
    assert written.shape[:2] == (pinhole.height, pinhole.width)
    assert tuple(written[240, 320]) == (40, 90, 20)


def test_a_view_to_the_left_of_a_sphere_is_exported_as_a_sphere(tmp_path):
    drive = published(tmp_path, "left", LENSES["equirectangular"].turned(-90))
    assert drive.lens.cx == 160 and drive.poses["cx"].to_pylist() == [160] * FRAMES
    found = pycolmap.Reconstruction(exported(tmp_path, "colmap") / "sparse" / "0")
    assert found.cameras[1].model.name == "EQUIRECTANGULAR" and found.num_points3D() > 2000
    cameras = drive.cameras
    for number in (1, FRAMES):
        image = found.images[number]
        seen = np.array([point.xy for point in image.points2D])
        xyz = np.array([found.points3D[point.point3D_id].xyz for point in image.points2D])
        np.testing.assert_allclose(cameras.project(number - 1, xyz)[0], seen, atol=0.05)
        local = image.cam_from_world() * xyz
        np.testing.assert_allclose(np.array(found.cameras[1].img_from_cam(local)), seen, atol=0.05)
    assert np.median(seen[:, 0]) == pytest.approx(160, abs=40)  # the view lies left of the middle of the picture


def test_the_nerfstudio_export_contains_a_lens_that_nerfstudio_knows(tmp_path):
    published(tmp_path, "fisheye")
    values = json.loads((exported(tmp_path, "nerfstudio") / "transforms.json").read_text())
    assert values["camera_model"] == "OPENCV_FISHEYE" and values["k2"] == LENSES["fisheye"].params[1]
    assert values["frames"][0]["fl_x"] == LENSES["fisheye"].fx


def test_the_nerfstudio_export_refuses_a_lens_that_nerfstudio_does_not_know(tmp_path):
    published(tmp_path, "eucm")
    with pytest.raises(DriveError, match=r"nerfstudio has no eucm lens .* --undistorted"):
        exported(tmp_path, "nerfstudio")
    values = json.loads((exported(tmp_path, "nerfstudio", undistorted=True) / "transforms.json").read_text())
    assert values["camera_model"] == "OPENCV" and "k1" not in values


def test_a_mask_is_published_as_a_picture(tmp_path):
    made = small_drive(FRAMES, height=NET[1], width=NET[0])
    mask = np.ones(NET[::-1], bool)
    mask[40:] = False
    publish_drive(str(tmp_path), made.facts, made.chunks, made.joined, PublishConfig(), made.run, masks=[mask])
    drive = open_drive(str(tmp_path), "drive-1")
    np.testing.assert_array_equal(drive.masks, [mask])
    nothing = Compared(None, (), None, None, 0.0)
    assert [figure.name for figure in drive_figures(DriveView.of(drive), nothing)].count("mask") == 1
    publish_drive(str(tmp_path), made.facts, made.chunks, made.joined, PublishConfig(), made.run, overwrite=True)
    assert open_drive(str(tmp_path), "drive-1").masks == (None,)
