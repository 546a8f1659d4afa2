import io

import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.masks import find_static_parts, read_mask, rectified_mask, shrunk_mask
from pipeline.cameras.rectify import view_of
from pipeline.synthetic.lens import bonnet_mask, with_bonnet
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


def drive(count=40, seed=0):
    """Frames (count, 64, 128, 3) in which everything moves, and the sky stays without a border that does."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 255, (count, 64, 128, 3), np.uint8)
    frames[:, :12] = 200  # always sky
    for frame in frames:
        heights = random.integers(12, 40, 16)
        for column, height in enumerate(heights):
            frame[12:height, column * 8 : column * 8 + 8] = 200
    return frames


def test_a_bonnet_is_found_and_nothing_where_there_is_none():
    frames = drive()
    assert find_static_parts(frames).all()
    for seed in (0, 1):
        truth = bonnet_mask(seed, 64, 128)
        found = ~find_static_parts(with_bonnet(frames, seed))
        assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_a_bonnet_of_the_usual_road_s_colour_is_told_by_its_calm():
    frames = drive()
    truth = bonnet_mask(0, 64, 128)
    road = np.median(frames[:, 40:], axis=(0, 1, 2))
    frames[:, truth] = np.clip(road + np.random.default_rng(4).normal(0, 2, (len(frames), truth.sum(), 3)), 0, 255)
    step = np.abs(np.diff(np.median(frames.mean(-1), 0), axis=0))
    assert np.median(step[:-1][truth[1:-1] & ~truth[:-2]]) < 8  # no edge there
    found = ~find_static_parts(frames)
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_a_time_stamp_and_black_borders_are_found():
    frames = drive()
    frames[:, :, :6] = 0
    frames[:, 50:58, 90:120] = np.random.default_rng(3).choice([0, 255], (8, 30, 1))
    found = ~find_static_parts(frames)
    assert found[:, :6].mean() > 0.9 and found[50:58, 90:120].mean() > 0.8
    assert found[:, 8:88].mean() < 0.01


def test_a_car_that_stands_or_drives_by_night_hides_nothing():
    frames = drive()
    assert find_static_parts(np.repeat(frames[:1], 40, 0)).all()
    assert find_static_parts(frames // 64).all()
    assert find_static_parts(with_bonnet(frames[:10], 5)).all()  # too few to say
