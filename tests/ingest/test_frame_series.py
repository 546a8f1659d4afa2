"""Which files are the frames of a drive, and in which order: decided from names as users have them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.frame_series import find_series, unused_files


def ordered(names):
    series = find_series(names)
    return [names[place] for place in series.order]


def shuffled(names):
    mixed = list(names)
    random.Random(3).shuffle(mixed)
    return mixed


@pytest.mark.parametrize(
    "names",
    [
        [f"{1616102901 + i / 20}.jpg" for i in range(60)],
        [f"frame_{i / 8}.png" for i in range(40)],
        [f"{i}.{j}.jpg" for i in range(3) for j in range(1, 13)],
        [f"v1.{i}.jpg" for i in range(8, 13)],
        [f"{i:06d}.png" for i in range(120)],
        [f"frame{i}.jpg" for i in range(120)],
        ["x.jpg", "x (1).jpg", "x (2).jpg", "x (10).jpg", "y.jpg"],
        ["IMG_20240501_170431.jpg", "IMG_20240501_170431 (1).jpg", "IMG_20240501_170432.jpg"],
        ["a-1.jpg", "a-2.jpg", "a-10.jpg"],
        ["x.jpg", "x-1.jpg", "x-2.jpg"],
        [f"IMG_{i:04d}.JPG" for i in range(30)],
    ],
)
def test_frames_come_in_the_order_of_their_numbers(names):
    assert ordered(shuffled(names)) == names
    assert find_series(names).notes == ()


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=40, unique=True))
def test_counters_of_any_length_are_ordered_as_numbers(numbers):
    names = [f"frame_{n}.png" for n in numbers]
    assert ordered(names) == [f"frame_{n}.png" for n in sorted(numbers)]


@given(st.integers(1, 2 * 10**9), st.integers(2, 40), st.sampled_from([2, 4, 5, 8, 10, 20, 25, 40]))
def test_seconds_as_python_prints_them_are_ordered_as_times(start, count, rate):
    names = [f"{start + i / rate}.jpg" for i in range(count)]
    assert ordered(shuffled(names)) == names


@pytest.mark.parametrize(
    ("taken", "left", "said"),
    [
        ([f"{i:06d}.jpg" for i in range(9)], [f"{i:06d}_mask.png" for i in range(9)], "_mask.png"),
        ([f"{i:06d}.jpg" for i in range(9)], [f"{i:06d}.png" for i in range(9)], "*.png"),
        ([f"front_{i:03d}.jpg" for i in range(9)], [f"rear_{i:03d}.jpg" for i in range(9)], "rear_*.jpg"),
        ([f"cam0_{i:03d}.jpg" for i in range(9)], [f"cam1_{i:03d}.jpg" for i in range(9)], "cam1_*.jpg"),
        ([f"left{i:03d}.png" for i in range(9)], [f"right{i:03d}.png" for i in range(9)], "right*.png"),
        ([f"{i:03d}_rgb.png" for i in range(9)], [f"{i:03d}_depth.png" for i in range(9)], "_depth.png"),
        ([f"image_02_{i:03d}.png" for i in range(9)], [f"image_03_{i:03d}.png" for i in range(8)], "image_03_"),
    ],
)
def test_of_two_series_in_a_folder_one_is_used_and_a_note_names_the_other(taken, left, said):
    names = shuffled([*taken, *left])
    assert ordered(names) == taken
    (note,) = find_series(names).notes
    assert said in note and f"{len(left)} pictures" in note and "not used" in note


@pytest.mark.parametrize(
    "names",
    [
        # the file format changes and the numbers continue
        [f"IMG_{i:04d}.{'jpg' if i % 3 else 'png'}" for i in range(30)],
        [*(f"a_{i:03d}.jpg" for i in range(9)), *(f"b_{i:03d}.jpg" for i in range(20, 29))],
        [f"12-{minute:02d}-{second:02d}.jpg" for minute in range(4) for second in range(0, 60, 5)],
        [f"image_{i:04d}.jpg" for i in range(12)],
        [f"1616102{i:03d}.{j}.jpg" for i in range(5) for j in (0, 25, 5, 75)],
    ],
)
def test_frames_that_continue_under_another_name_are_one_series(names):
    series = find_series(names)
    assert sorted(series.order) == list(range(len(names)))
    assert series.notes == ()


def test_unused_files_are_counted_by_kind_and_kinds_with_advice_come_first():
    names = ["a.txt", "b.txt", "c.HEIC", "d.heic", "README", ".DS_Store"]
    said = unused_files(names, {".heic": "convert them"})
    assert said == (
        "2 files .heic are not used: convert them",
        "2 files .txt are not used",
        "1 file without an ending is not used",
    )
    assert unused_files([f"x.k{i}" for i in range(20)], {})[-1] == "files of 14 other kinds are not used"
    assert unused_files([".DS_Store"], {}) == ()
