"""Drives with equal names and sizes are distinguished by a small sample of their content."""

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest import content_sample as samples
from pipeline.ingest.content_sample import content_sample
from pipeline.ingest.drives import find_drive


def raw_drive(folder, seed, frames=8):
    """Frames without compression: all files have one size."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, 40, 60, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:06d}.bmp")
    return str(folder)


@pytest.fixture(autouse=True)
def bmp_is_read():
    from pipeline.ingest import preprocess

    if ".bmp" not in preprocess.SUFFIXES:
        pytest.skip("drives of BMP are not read")


def test_drives_with_equal_names_and_sizes_but_other_content_have_different_samples(tmp_path):
    one, other = find_drive(raw_drive(tmp_path / "a/d", 1)), find_drive(raw_drive(tmp_path / "b/d", 2))
    assert one.listing.columns() == other.listing.columns()
    assert content_sample(one) != content_sample(other)


def test_a_copy_has_the_same_sample(tmp_path):
    one, copy = find_drive(raw_drive(tmp_path / "a/d", 1)), find_drive(raw_drive(tmp_path / "b/d", 1))
    assert content_sample(one) == content_sample(copy) and len(content_sample(one)) == 64


@pytest.mark.parametrize("frame", [0, 4, 7])
def test_the_first_the_middle_and_the_last_frame_are_part_of_the_sample(tmp_path, frame):
    one = find_drive(raw_drive(tmp_path / "a/d", 1))
    before = content_sample(one)
    path = tmp_path / "a/d" / f"{frame:06d}.bmp"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert content_sample(one) != before


def test_a_single_file_is_sampled_at_several_places(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_BYTES", 64)
    one = find_drive(raw_drive(tmp_path / "a/d", 1, frames=1))
    before = content_sample(one)
    path = tmp_path / "a/d" / "000000.bmp"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert content_sample(one) != before


def test_files_that_do_not_exist_give_no_sample(tmp_path):
    one = find_drive(raw_drive(tmp_path / "a/d", 1))
    for path in (tmp_path / "a/d").iterdir():
        path.unlink()
    assert content_sample(one) is None
