"""The box of --area: what is one, and which drives come into it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fuse.area import Outside, check_area, comes_into

HERE = np.zeros((1, 3))
longitudes, latitudes = st.floats(-180, 180), st.floats(-85, 85)


@given(longitudes, latitudes, st.floats(0.001, 170), st.floats(0.001, 4))
def test_a_place_is_in_the_box_around_it_also_over_the_antimeridian(longitude, latitude, wide, high):
    def turned(degrees):
        return (degrees + 180) % 360 - 180

    area = (turned(longitude - wide / 2), latitude - high, turned(longitude + wide / 2), latitude + high)
    check_area(area)
    assert comes_into(area, (latitude, longitude, 100.0), HERE)
    assert comes_into(area, (latitude, longitude + 360, 0.0), HERE)  # as some receivers count
    beside = turned(longitude + wide), latitude - high, turned(longitude + wide + 1), latitude + high
    assert not comes_into(beside, (latitude, longitude, 100.0), HERE)


@pytest.mark.parametrize(
    ("area", "said"),
    [
        ((691000.0, 5334000.0, 692000.0, 5335000.0), "latitudes are from -90 to 90"),
        ((48.0, 11.0, 49.0, 110.0), "latitudes are from -90 to 90"),
        ((11.0, 49.0, 12.0, 48.0), "south must be below north"),
        ((12.0, 48.0, 11.0, 49.0), "west must be below east"),
        ((11.0, 48.0, 11.0, 49.0), "west must be below east"),
        ((float("nan"), 48.0, 11.0, 49.0), "longitudes from -180 to 180"),
    ],
)
def test_metres_and_swapped_corners_are_refused_with_the_order_of_the_numbers(area, said):
    with pytest.raises(ValueError, match="west south east north") as error:
        check_area(area)
    assert said in str(error.value)


def test_what_an_area_leaves_out_is_named_and_the_nearest_drive_is_where_it_is_said():
    outside = Outside((11.0, 48.0, 12.0, 49.0))
    assert "leave it out" in outside.nearest and not outside.notes
    for n in range(7):
        outside.add(f"d{n}", (48.5, 13.0 + n, 500.0))
    outside.add("indoors", None)
    assert outside.notes == (
        "outside the area: 7 drives (d0, d1, d2, d3, d4, ...)",
        "left out because an area needs positions on Earth: 1 drive (indoors)",
    )
    assert "nearest drive, d0, is at longitude 13.00000, latitude 48.50000, 111 km" in outside.nearest
