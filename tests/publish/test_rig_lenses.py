"""A rig of a fisheye and a pinhole with smaller pictures: tables, points and exports have the cameras as they are."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pycolmap
import pytest
from PIL import Image

from pipeline.cameras.known_camera import KnownCamera
from pipeline.cameras.rig import Rig
from pipeline.common.progress import Reporter
from pipeline.config import RunConfig
from pipeline.errors import DriveError
from pipeline.export_drive import export_drive
from pipeline.publish import PublishConfig, Selection, open_drive, publish_drive
from pipeline.staged_drive import StagedDrive, read_staged_drive, write_staged_drive
from pipeline.storage import StoredFile
from tests.cameras.lenses import LENSES
from tests.publish.drives import small_drive

NET = (64, 48)
FRAMES = 4  # two instants
CAMERAS = (LENSES["fisheye"], LENSES["pinhole"].resized(320, 240))
KNOWN = KnownCamera(CAMERAS[0], "calibration", rig=CAMERAS)


class Rectified(Sequence):
    """Chunks whose frames are of the common pinhole; depth is known where each camera sees."""

    def __init__(self, chunks):
        self.chunks, self.views = chunks, KNOWN.views(*NET)

    def __len__(self):
        return len(self.chunks)

    def __getitem__(self, number):
        chunk = self.chunks[number]
        seen = np.stack([self.views[frame % 2].seen() for frame in chunk.frame_index])
        k = np.broadcast_to(self.views[0].pinhole.matrix, (len(seen), 3, 3))
        return replace(chunk, depth=np.where(seen, chunk.depth, np.nan), intrinsics=k)


@pytest.fixture
def drive(tmp_path):
    made = small_drive(FRAMES, height=NET[1], width=NET[0])
    images = tmp_path / "images"
    images.mkdir()
    for frame in range(FRAMES):
        size = (CAMERAS[frame % 2].width, CAMERAS[frame % 2].height)
        Image.new("RGB", size, (40 * frame, 90, 20)).save(images / f"{frame:06d}.png")
    facts = replace(
        made.facts,
        source_uri=str(images),
        frame_uris=[str(images / f"{frame:06d}.png") for frame in range(FRAMES)],
        timestamps_ns=None,
        source_width=CAMERAS[0].width,
        source_height=CAMERAS[0].height,
        camera=KNOWN,
        network_camera=KNOWN.views(*NET)[0].pinhole,
        rig=Rig(("cam_a", "cam_b"), (tuple(np.eye(4)[:3].ravel().tolist()), None)),
    )
    chunks = Rectified(made.chunks)
    publish_drive(str(tmp_path / "out"), facts, chunks, made.joined, PublishConfig(confidence_share=0.0), made.run)
    noted = replace(facts, listing=[StoredFile("/in/0.png", "0.png", 1000, "etag")])
    staged = StagedDrive(noted, "0", 1, (), tuple(range(FRAMES)), "0" * 64, True)
    write_staged_drive(str(tmp_path / "out"), staged, RunConfig())
    return open_drive(str(tmp_path / "out"), facts.drive_id)


def exported(folder, *formats, **options):
    with Reporter() as reporter:
        export_drive(str(folder / "out"), "drive-1", formats, str(folder / "to"), Selection(), reporter, **options)
    return folder / "to"


def test_tables_and_points_are_of_each_camera(drive, tmp_path):
    assert [row["model"] for row in drive.camera_rows] == ["fisheye", "pinhole"]
    assert drive.has_lens and drive.lens == CAMERAS[0] and drive.cameras.models == CAMERAS
    for frame, row in enumerate(drive.poses.to_pylist()):
        camera = CAMERAS[frame % 2]
        assert tuple(row[name] for name in ("fx", "fy", "cx", "cy")) == camera.intrinsics
        assert (row["width"], row["height"]) == (camera.width, camera.height)
        assert drive.network_view(frame, *NET) == KNOWN.views(*NET)[frame % 2]
    assert (drive.cameras.model_of(2), drive.cameras.model_of(3)) == (CAMERAS[0], None)
    points = drive.points()
    frame = points["frame_index"].to_numpy()
    pixels, depth = drive.cameras.project(frame, np.stack([points[axis].to_numpy() for axis in "xyz"], -1))
    assert (depth > 0).all() and set(frame.tolist()) == {0, 1, 2, 3}
    for camera, view in enumerate(KNOWN.views(*NET)):
        centres, mine = view.lens_pixels()[view.seen()], frame % 2 == camera
        assert np.abs(pixels[mine][::97, None] - centres[None]).max(-1).min(1).max() < 0.01
    assert read_staged_drive(str(tmp_path / "out"), "drive-1")[0].facts.camera == KNOWN


def test_exports_have_the_camera_of_each_picture(drive, tmp_path):
    plain = pycolmap.Reconstruction(exported(tmp_path, "colmap") / "sparse" / "0")
    assert [plain.cameras[n].model.name for n in (1, 2)] == ["OPENCV_FISHEYE", "PINHOLE"]
    assert [plain.images[n].camera_id for n in (1, 2, 3, 4)] == [1, 2, 1, 2]
    for point in plain.points3D.values():  # each point was seen in one picture
        (element,) = point.track.elements
        image = plain.images[element.image_id]
        at = plain.cameras[image.camera_id].img_from_cam(image.cam_from_world() * point.xyz)
        np.testing.assert_allclose(at, image.points2D[element.point2D_idx].xy, atol=1e-3)
    (tmp_path / "to").rename(tmp_path / "plain")
    with pytest.raises(DriveError, match="one camera model for all frames, and this drive has OPENCV_FISHEYE, OPENCV"):
        exported(tmp_path, "nerfstudio")
    folder = exported(tmp_path, "colmap", "nerfstudio", undistorted=True)
    flat = pycolmap.Reconstruction(folder / "sparse" / "0")
    assert {camera.model.name for camera in flat.cameras.values()} == {"PINHOLE"} and len(flat.cameras) == 2
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    for frame, camera in zip(frames, CAMERAS * 2, strict=True):
        with Image.open(folder / frame["file_path"]) as image:
            assert image.size == (frame["w"], frame["h"]) == (camera.width, camera.height)
    assert frames[1]["fl_x"] == CAMERAS[1].fx and frames[0]["fl_x"] != CAMERAS[0].fx
