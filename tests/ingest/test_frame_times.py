"""Times of frames are read in the units and forms that data sets use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DriveError
from pipeline.ingest.frame_times import check_rising, read_times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0\n1.036224e-01\n", [0, 103_622_400]),
        ("0\n1\n2\n", [0, 10**9, 2 * 10**9]),
        ("1616102901.05\n1616102901.1\n", [1_616_102_901_050_000_000, 1_616_102_901_100_000_000]),
        ("1403636579763555584\n1403636579813555456\n", [1_403_636_579_763_555_584, 1_403_636_579_813_555_456]),
        ("1616102901050000\n", [1_616_102_901_050_000_000]),
        ("1616102901050\n", [1_616_102_901_050_000_000]),
        ("2011-09-26 13:02:25.594360375\n", [1_317_042_145_594_360_375]),
        ("# seconds\n\n 0.5 \r\n", [500_000_000]),
    ],
)
def test_every_form_is_read_exactly(text, expected):
    for data in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        assert read_times(data, "times.txt") == expected


@pytest.mark.parametrize("line", ["nan", "inf", "-inf", "soon", "1,5", "1e999999999", "2011-13-45 99:00:00", "0x10"])
def test_a_value_that_is_not_a_time_is_named_with_its_line(line):
    with pytest.raises(DriveError, match=r"times\.txt, line 2: expected a time"):
        read_times(f"0.5\n{line}\n".encode(), "times.txt")


@pytest.mark.parametrize("line", ["9" * 20, "1e30", "12345678901.5e9"])
def test_a_time_that_does_not_fit_into_nanoseconds_is_refused(line):
    with pytest.raises(DriveError, match="line 1"):
        read_times(line.encode(), "times.txt")


@given(st.lists(st.integers(0, 4 * 10**18), max_size=20))
def test_seconds_with_nine_digits_lose_nothing(times):
    text = "\n".join(f"{t // 10**9}.{t % 10**9:09d}" for t in times)
    assert read_times(text.encode(), "x") == times


def test_times_must_rise():
    check_rising([1, 2, 5], "times.txt")
    with pytest.raises(DriveError, match="at frame 2"):
        check_rising([1, 3, 3], "times.txt")
