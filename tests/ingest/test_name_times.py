"""Times are read from file names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.name_times import time_in, times_in

MAY_FIRST = 1_714_550_400 * 10**9  # 2024-05-01 08:00:00 UTC


@pytest.mark.parametrize(
    ("stem", "seconds"),
    [
        ("20240501_080000", 0),
        ("2024-05-01_08-00-00-front", 0),
        ("2024_0501_080002_0001F", 2),
        ("VID_20240501_080000_00_001", 0),
        ("240501_080000_001_FH", 0),
        ("2024-05-01--08-00-00--3", 0),
        ("DJI_20240501080001_0001_D", 1),
        ("IMG_20240501_080000250", 0.25),
        ("1714550400.5", 0.5),
        ("1714550400500", 0.5),
        ("1714550400500000", 0.5),
        ("1714550400500000000", 0.5),
        ("n015-2018-07-24-11-22-45+0800__CAM_FRONT__1714550400500000", 0.5),
    ],
)
def test_a_time_in_a_name_is_read(stem, seconds):
    assert time_in(stem).time_ns == MAY_FIRST + round(seconds * 1e9)


@pytest.mark.parametrize(
    "stem", ["000123", "0000000001", "20241399_080000", "frame_20240501", "9999999999999", "GX010042"]
)
def test_a_name_without_a_time_gives_no_time(stem):
    assert time_in(stem) is None


def test_pictures_have_times_only_where_every_name_has_one():
    assert times_in(["1714550400.0.jpg", "1714550400.5.jpg"]) == [MAY_FIRST, MAY_FIRST + 500_000_000]
    assert times_in(["1714550400.0.jpg", "overview.jpg"]) is None


@given(st.integers(10**18, 4 * 10**18))
def test_nanoseconds_in_names_are_read_exactly(time_ns):
    assert time_in(f"{time_ns}").time_ns == time_ns
