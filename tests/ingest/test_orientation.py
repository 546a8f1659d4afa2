"""Frames that are stored rotated: EXIF's eight orientations, rotated videos, pixels that are not square."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.cameras.orientation import UPRIGHT, upright
from pipeline.errors import DecodeError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.preprocess import decode_image, read_header
from pipeline.ingest.segments import decode_segment, decode_thumbnails, segment_of
from pipeline.ingest.video import decode_at, read_timeline

INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def scene(number, width=96, height=64):
    """A picture without symmetry (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 2, y * 3, (x * y) // 40 + number * 5], -1).astype(np.uint8)


def store(path, image, orientation):
    """An upright image as a camera stores it that was held in this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = upright(Image.fromarray(image), INVERSE[orientation])
    turned.save(path, exif=exif)


def stored(folder, orientations, suffix=".png"):
    folder.mkdir()
    for number, orientation in enumerate(orientations):
        store(folder / f"{number:04d}{suffix}", scene(number), orientation)
    return find_drive(str(folder))


def frames(drive, height=32, width=48):
    every = range(drive.frame_count)
    return decode_segment(segment_of(drive, 0, every, every, height, width))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_have_the_same_pixels_for_every_stored_orientation(tmp_path, orientation, suffix):
    plain = stored(tmp_path / "plain", [UPRIGHT] * 3, suffix)
    drive = stored(tmp_path / "turned", [orientation] * 3, suffix)
    assert (drive.source_width, drive.source_height) == (96, 64)
    got = frames(drive)
    assert got.ok.all(), got.reasons
    if suffix == ".webp":  # JPEG is lossy: the blocks of a rotated image are coded differently
        assert np.abs(got.images.astype(int) - frames(plain).images).mean() < 4
        return
    np.testing.assert_array_equal(got.images, frames(plain).images)
    every = range(3)
    thumbnails = [decode_thumbnails(segment_of(one, 0, every, every, 16, 32)).images for one in (drive, plain)]
    np.testing.assert_array_equal(*thumbnails)


def test_frames_that_differ_only_in_orientation_are_one_drive(tmp_path):
    drive = stored(tmp_path / "mixed", range(1, 9))
    got = frames(drive)
    assert got.ok.all(), got.reasons
    np.testing.assert_array_equal(got.images, frames(stored(tmp_path / "plain", [UPRIGHT] * 8)).images)


def test_the_orientation_is_part_of_the_identity_of_rotated_drives_only(tmp_path):
    assert stored(tmp_path / "plain", [UPRIGHT] * 2).picture == {}
    assert stored(tmp_path / "turned", [6] * 2).picture == {"orientation": 6}


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_rotate_replaces_the_orientation_in_a_file(tmp_path, turn, suffix):
    path = tmp_path / f"a{suffix}"
    store(path, scene(0), 6)
    pixels = np.rot90(scene(0), 1)  # the stored picture is upright after a turn to the right by 90 degrees
    data = path.read_bytes()
    image = decode_image(data, turn=turn)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.rot90(pixels, -turn // 90))
    assert read_header(data, turn).size == image.size


def test_a_turned_jpeg_is_decoded_small_for_a_thumbnail(tmp_path):
    path = tmp_path / "a.jpg"
    store(path, np.zeros((512, 1024, 3), np.uint8), 6)
    small = decode_image(path.read_bytes(), expected_size=(1024, 512), draft=(64, 32))
    assert small.size == (128, 64)
    with pytest.raises(DecodeError, match="expected 512x1024 pixels as in the drive's first frame, got 1024x512"):
        decode_image(path.read_bytes(), expected_size=(512, 1024))


def turned_video(path, turn):
    """A video whose display matrix asks for a turn to the right, its pixels stored turned the other way."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10)  # the pixels come back unchanged
        pixels = [np.ascontiguousarray(np.rot90(scene(number), turn // 90)) for number in range(14)]
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt, stream.options = "rgb24", {"qp": "0", "bf": "2"}
        if turn:
            stream.set_display_rotation(-turn)
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_of_a_rotated_video_are_decoded_upright(tmp_path, turn):
    plain, video = turned_video(tmp_path / "a.mp4", 0), turned_video(tmp_path / "b.mp4", turn)
    timeline = read_timeline(video)
    assert (timeline.width, timeline.height) == (96, 64) and timeline.orientation != UPRIGHT
    times = timeline.timestamps_ns
    for shown, wanted in zip(decode_at(video, times), decode_at(plain, times), strict=True):
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(wanted))
    assert read_timeline(video, 0).width == (96 if turn == 180 else 64)
    drive = find_drive(video, turn=0)
    assert (drive.turn, drive.source_width) == (0, 96 if turn == 180 else 64)
    assert find_drive(video).picture == {"orientation": timeline.orientation}


def test_frames_of_a_video_with_wide_pixels_are_decoded_with_square_pixels(tmp_path):
    wide = tmp_path / "wide.mp4"
    with av.open(str(wide), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for number in range(14):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number, 64, 48), format="rgb24")))
        container.mux(stream.encode())
    timeline = read_timeline(str(wide))
    assert (timeline.width, timeline.height) == (85, 48)
    assert next(decode_at(str(wide), timeline.timestamps_ns)).size == (85, 48)
    assert frames(find_drive(str(wide))).ok.all()
