"""Whole runs on frames that are stored rotated: the poses equal those of upright frames."""

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.orientation import EXIF_ORIENTATION, stored
from pipeline.publish import open_drive
from tests.jobs.conftest import image
from tests.jobs.runs import PLAIN, run

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("one_ray")]
FRAMES = 14


def write_photos(folder, orientation):
    """Frames as a camera stores them that writes this EXIF orientation."""
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    for number in range(FRAMES):
        stored(image(number), orientation).save(folder / f"frame{number}.png", exif=exif)


def write_video(path, turn):
    """A lossless video whose display matrix asks for a turn to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10)
        pixels = [np.ascontiguousarray(np.rot90(np.asarray(image(number)), turn // 90)) for number in range(FRAMES)]
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt, stream.options = "rgb24", {"qp": "0"}
        if turn:
            stream.set_display_rotation(-turn)
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_poses_are_the_same_in_all_eight_exif_orientations_and_as_a_turned_video(weights, tmp_path):
    for orientation in range(1, 9):
        write_photos(tmp_path / "in" / f"exif-{orientation}", orientation)
    for turn in (90, 180, 270):
        write_video(tmp_path / "in" / f"film-{turn}.mp4", turn)
    assert run("--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, *PLAIN) == 0

    def poses(name):
        table = open_drive(str(tmp_path / "out"), name).poses
        columns = ("x", "y", "z", "qw", "qx", "qy", "qz", "fx", "fy", "cx", "cy")
        return np.stack([table[column].to_numpy() for column in columns], -1)

    upright = poses("exif-1")
    assert len(upright) == FRAMES and np.ptp(upright[:, :3], axis=0).max() > 1e-3
    for name in (*(f"exif-{number}" for number in range(2, 9)), "film-90", "film-180", "film-270"):
        np.testing.assert_allclose(poses(name), upright, atol=1e-6, err_msg=name)
