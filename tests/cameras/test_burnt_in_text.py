from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.cameras.burnt_in_text import find_text
from pipeline.cameras.static_parts import find_static_parts
from tests.cameras.test_static_parts import drive

SIZE = 64, 128
TIMES = 8  # the size at which text is drawn, before it is shrunk like a frame


def street():
    """Frames of a drive whose colours vary as those of streets do."""
    return drive() // 4 + 60


@lru_cache(maxsize=32)
def written(text, place, pixels):
    """How much of each pixel (64, 128) is covered by a text, and the box of its pixels: rows and columns."""
    height, width = SIZE
    large = Image.new("L", (width * TIMES, height * TIMES))
    font = ImageFont.load_default(pixels)
    ImageDraw.Draw(large).text(place, text, font=font, fill=255)
    cover = np.asarray(large, float).reshape(height, TIMES, width, TIMES).mean((1, 3)) / 255
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    return cover, (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))


def stamped(frames, place, pixels, colour=(255, 255, 255)):
    """Frames with a date and a clock that goes on; the letters of all frames, and the box of the last one's."""
    out, letters, box = frames.copy(), np.zeros(SIZE, bool), None
    for number, frame in enumerate(out):
        cover, box = written(f"2026-11-28 14:30:{number % 8 * 7:02d}", place, pixels)
        frame[:] = (frame * (1 - cover[..., None]) + np.array(colour) * cover[..., None]).round()
        letters |= cover > 0.25
    return out, letters, box


@pytest.mark.parametrize(
    ("place", "pixels", "colour"),
    [((560, 466), 40, (255, 255, 255)), ((12, 10), 36, (255, 220, 0)), ((500, 460), 40, (255, 30, 30))],
)
def test_all_letters_of_a_clock_are_found_and_little_beside_them(place, pixels, colour):
    frames, letters, box = stamped(street(), place, pixels, colour)
    found = ~find_static_parts(frames)
    assert letters.sum() > 60 and found[letters].mean() >= 0.95
    near = np.zeros(SIZE, bool)
    near[max(box[0].start - 3, 0) : box[0].stop + 3, max(box[1].start - 3, 0) : box[1].stop + 3] = True
    assert not (found & ~near).any()


def test_two_lines_below_each_other_are_both_found():
    frames, first, _ = stamped(street(), (12, 410), 40)
    frames, second, _ = stamped(frames, (12, 462), 40)
    found = find_text(frames)
    assert found[first].mean() > 0.95 and found[second].mean() > 0.95


def test_a_line_in_the_middle_and_a_kerb_are_no_text():
    frames, _, _ = stamped(street(), (300, 240), 40)
    assert not find_text(frames).any()  # the number plate of a car ahead
    frames = street()
    for row in range(52, 60):  # a white line along the lower rim
        frames[:, row, (row - 52) * 8 : (row - 52) * 8 + 12] = 250
    assert not find_text(frames).any()
