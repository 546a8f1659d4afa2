"""From one image to the network's pixels: the published rule of sizes, every common format, no dangerous input."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.ingest.preprocess import (
    decode_image,
    frame_geometry,
    image_size,
    prepare_image,
    source_intrinsics,
    target_size,
)
from tests.ingest.makers import picture


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A few hundred bytes whose header promises many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_sizes_follow_the_published_rule():
    assert target_size(1226, 370, 518) == (154, 518)
    assert target_size(1241, 376, 518) == (154, 518)
    assert target_size(1920, 1080, 518) == (280, 518)
    assert target_size(518, 518, 518) == (518, 518)
    assert target_size(1000, 10, 56) == (14, 56)  # at least one patch


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 40))
def test_the_target_is_whole_patches_and_the_resized_image_covers_it(source_width, source_height, patches):
    height, width = target_size(source_width, source_height, 14 * patches)
    assert width == 14 * patches and height % 14 == 0 and height >= 14
    assert height <= max(14, source_height / source_width * width)
    geometry = frame_geometry(source_width, source_height, height, width)
    assert geometry.resized_width >= width and geometry.resized_height >= height
    assert 0 <= geometry.left <= geometry.resized_width - width
    assert 0 <= geometry.top <= geometry.resized_height - height


@pytest.mark.parametrize("arguments", [(0, 10, 518), (10, 0, 518), (10, 10, 500), (10, 10, 0)])
def test_invalid_sizes_are_refused(arguments):
    with pytest.raises(ValueError):
        target_size(*arguments)


def test_a_kitti_frame_is_resized_to_156_rows_and_loses_one_above_and_below(shared):
    path = shared / "data/kitti/sequences/90/image_0/000000.png"
    image = decode_image(path.read_bytes())
    prepared = prepare_image(image, 154, 518)
    by_hand = image.convert("RGB").resize((518, 156), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(prepared, np.asarray(by_hand)[1:155])
    assert prepared.dtype == np.uint8 and prepared.flags.writeable and prepared.flags.c_contiguous


def test_an_image_of_the_right_size_is_left_as_it_is():
    pixels = picture(3, 56, 28)
    np.testing.assert_array_equal(prepare_image(Image.fromarray(pixels), 28, 56), pixels)


def test_a_marked_pixel_lands_where_the_geometry_says():
    source = np.zeros((120, 400, 3), np.uint8)
    source[40:44, 100:104] = 255  # centre at x = 102, y = 42
    height, width = target_size(400, 120, 56)
    prepared = prepare_image(Image.fromarray(source), height, width).astype(float).mean(axis=-1)
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    found = (prepared * xs).sum() / prepared.sum(), (prepared * ys).sum() / prepared.sum()
    _, _, x, y = source_intrinsics(1, 1, *found, source_width=400, source_height=120, height=height, width=width)
    # to one pixel of the source; the network's pixels are 7 times as large
    assert (x, y) == pytest.approx((102, 42), abs=1.0)


def test_intrinsics_are_converted_back_to_the_source_image():
    # KITTI: 518 x 156.33 is rounded to 156 rows; one row is cut off above and one below.
    fx, fy, cx, cy = source_intrinsics(300, 310, 259, 77, source_width=1226, source_height=370, height=154, width=518)
    assert fx == pytest.approx(300 * 1226 / 518) and fy == pytest.approx(310 * 370 / 156)
    assert (cx, cy) == pytest.approx((613, 185))  # the centre of the network's image is the centre of the source image


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "RGB"])
def test_every_common_kind_of_pixel_becomes_rgb(mode):
    grey = Image.fromarray(np.full((28, 56), 255, np.uint8))
    format = "TIFF" if mode == "CMYK" else "PNG"
    image = decode_image(encoded(grey.convert(mode), format))
    prepared = prepare_image(image, 28, 56)
    assert prepared.shape == (28, 56, 3) and (prepared == 255).all()


def test_sixteen_bits_keep_their_full_range_instead_of_clipping():
    values = np.linspace(0, 65535, 28 * 56).reshape(28, 56).astype(np.uint16)
    prepared = prepare_image(decode_image(encoded(Image.fromarray(values))), 28, 56)
    np.testing.assert_array_equal(prepared[..., 0], np.round(values / 257).astype(np.uint8))
    assert (prepared[..., 0] == prepared[..., 2]).all()


def test_transparent_pixels_become_white():
    rgba = np.zeros((28, 56, 4), np.uint8)
    assert (prepare_image(decode_image(encoded(Image.fromarray(rgba))), 28, 56) == 255).all()


@pytest.mark.parametrize("values", [np.full((4, 4), 70_000, np.int32), np.zeros((4, 4), np.float32)])
def test_pixels_of_unknown_range_are_refused(values):
    with pytest.raises(DecodeError, match="expected 8 or 16 bits"):
        prepare_image(decode_image(encoded(Image.fromarray(values), "TIFF")), 14, 14)


def test_the_error_for_an_empty_file_says_that_it_has_no_bytes():
    for call in (decode_image, image_size):
        with pytest.raises(DecodeError, match="no bytes"):
            call(b"")


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(1000)])
def test_the_error_for_other_data_says_that_it_is_not_an_image(data):
    with pytest.raises(DecodeError, match="not an image of a known format"):
        decode_image(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_truncated_image_is_corrupt_at_any_length(format):
    whole = encoded(Image.fromarray(picture(1, 200, 150)), format)
    for length in range(10, len(whole) - 20, max(1, len(whole) // 25)):
        with pytest.raises(DecodeError):
            decode_image(whole[:length])


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=40))
def test_overwritten_bytes_give_an_image_or_a_decode_error_and_nothing_else(place, noise):
    data = bytearray(encoded(Image.fromarray(picture(1))))
    place %= len(data)
    data[place : place + len(noise)] = noise
    try:
        decode_image(bytes(data))
    except DecodeError as error:
        assert "\n" not in str(error)


# above this program's limit, above the limit of PIL's warning, above that of PIL's error
@pytest.mark.parametrize("side", [10_000, 14_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    data = png_that_claims(side, side)
    for call in (decode_image, image_size):
        with pytest.raises(DecodeError, match="decompression bomb"):
            call(data)


def test_the_limit_of_pixels_can_be_lowered():
    data = encoded(Image.fromarray(picture(1)))
    assert decode_image(data, max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(DecodeError, match="64x48 is more than 3071 pixels"):
        decode_image(data, max_pixels=64 * 48 - 1)


def test_another_size_than_expected_is_refused_before_decoding():
    data = encoded(Image.fromarray(picture(1)))[:60]  # the header only: decoding would fail
    with pytest.raises(DecodeError, match="expected 80x48 pixels as in the drive's first frame, got 64x48"):
        decode_image(data, expected_size=(80, 48))


def test_a_header_is_enough_for_the_size():
    assert image_size(encoded(Image.fromarray(picture(1, 640, 480)))[:100]) == (640, 480)
