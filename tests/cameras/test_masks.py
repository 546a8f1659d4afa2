import io

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.masks import read_mask, rectified_mask, shrunk_mask
from pipeline.cameras.rectify import view_of
from tests.cameras.lenses import LENSES


def stored(mask, kind="PNG", mode="L", white=255):
    data = io.BytesIO()
    Image.fromarray((np.asarray(mask) * white).astype(np.uint8)).convert(mode).save(data, kind)
    return data.getvalue()


def bonnet(height=480, width=640, top=400):
    mask = np.ones((height, width), bool)
    mask[top:] = False
    return mask


KINDS = [
    ("PNG", "L", 255),
    ("PNG", "1", 255),
    ("PNG", "RGB", 255),
    ("PNG", "P", 255),
    ("PNG", "L", 1),
    ("JPEG", "L", 255),
]


@pytest.mark.parametrize(("kind", "mode", "white"), KINDS)
def test_black_is_left_out_however_a_mask_is_stored(kind, mode, white):
    got = read_mask(stored(bonnet(), kind, mode, white), "bonnet.png", (640, 480))
    if kind == "JPEG":
        assert (got != bonnet()).mean() < 0.01
    else:
        np.testing.assert_array_equal(got, bonnet())


def test_a_mask_that_is_none_or_of_another_shape_is_said_by_name():
    with pytest.raises(CalibrationError, match=r"bonnet\.png: expected a mask picture"):
        read_mask(b"hello", "bonnet.png", (640, 480))
    with pytest.raises(CalibrationError, match=r"bonnet\.png: the mask has 640x480 pixels and the frames have 640x360"):
        read_mask(stored(bonnet()), "bonnet.png", (640, 360))


def test_a_pixel_of_the_network_counts_where_nothing_under_it_is_black():
    got = shrunk_mask(bonnet(), (128, 96), 8, 4, (112, 84))  # 5 pixels a side; black from row 80, 4 cut above
    np.testing.assert_array_equal(got, bonnet(84, 112, 76))
    one = np.ones((480, 640), bool)
    one[241, 322] = False
    got = shrunk_mask(one, (128, 96), 0, 0, (128, 96))
    assert not got[48, 64] and got.sum() == got.size - 1
    half = shrunk_mask(bonnet(48, 64, 40), (128, 96), 0, 0, (128, 96))  # a mask smaller than the picture
    np.testing.assert_array_equal(half, bonnet(96, 128, 80))


def test_a_mask_is_rectified_with_its_frames():
    lens = LENSES["fisheye"]
    view = view_of(lens, 160, 120)
    got = rectified_mask(bonnet(), view)
    pixels = view.lens_pixels()
    assert got[pixels[..., 1] < 395].all() and not got[pixels[..., 1] > 401].any()
    small = rectified_mask(bonnet(240, 320, 200), view)
    assert (small != got).mean() < 0.01
