import io

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.exif import exif_camera
from pipeline.cameras.orientation import is_on_its_side, orientation_of, orientation_of_turn, upright

ORIENTATION, BLOCK = 0x0112, 0x8769


def stored(tags=None, orientation=None, kind="JPEG"):
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    if tags:
        exif.get_ifd(BLOCK).update(tags)
    data = io.BytesIO()
    Image.new("RGB", (400, 300)).save(data, kind, exif=exif)
    return Image.open(io.BytesIO(data.getvalue()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_found_in_every_kind_of_file(kind, orientation):
    assert orientation_of(stored(orientation=orientation, kind=kind)) == orientation


@pytest.mark.parametrize("asked", [0, 9, 65535])
def test_an_orientation_that_there_is_none_of_is_upright(asked):
    assert orientation_of(stored(orientation=asked)) == 1


def test_turns_to_the_right_are_orientations():
    pixels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    for turn in (0, 90, 180, 270, -90):
        orientation = orientation_of_turn(turn)
        turned = np.asarray(upright(Image.fromarray(pixels), orientation))
        np.testing.assert_array_equal(turned, np.rot90(pixels, -turn // 90))
        assert is_on_its_side(orientation) == (turn % 180 != 0)


@pytest.mark.parametrize(
    ("tags", "focal"),
    [
        ({0xA405: 26}, 26 * 500 / np.hypot(36, 24)),
        ({0x920A: 5.0, 0xA20E: 2000.0, 0xA210: 3, 0xA002: 400}, 5.0 * 200),  # 200 pixels a mm
        ({0x920A: 5.0, 0xA20E: 20000.0, 0xA210: 3, 0xA002: 4000}, 5.0 * 200),  # of a picture ten times as large
        ({0x920A: 5.0, 0xA20E: 5080.0, 0xA210: 2, 0xA002: 400}, 5.0 * 200),
    ],
)
def test_a_focal_length_is_read_from_what_the_camera_wrote(tags, focal):
    camera = exif_camera(stored(tags), 400, 300)
    assert camera.fx == camera.fy == pytest.approx(focal)
    assert (camera.cx, camera.cy) == (200, 150)


@pytest.mark.parametrize("tags", [{}, {0xA405: 0}, {0x920A: 5.0}, {0xA405: 1}, {0x920A: 5.0, 0xA20E: 0.0}])
def test_no_focal_length_is_none(tags):
    assert exif_camera(stored(tags), 400, 300) is None
