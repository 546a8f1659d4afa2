"""Mistakes that fixes show by themselves: each is named in one line, and what is right of them still counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.fix_faults import UnusableFixesError, without_faults
from pipeline.common.fix_rounding import rounding_of
from pipeline.common.fixes import Fixes, Speed

COUNT, STEP_M, DEGREE_M = 120, 8.0, 111_320.0


def drive(latitude=49.5, longitude=8.4, turn=0.5):
    """A car of 8 m/s that turns, a fix a second with decimetres of noise: time, latitude, longitude, altitude."""
    heading = turn + 0.8 * np.sin(np.arange(COUNT) / 20)
    noise = np.random.default_rng(0).normal(0, 0.3, (3, COUNT))
    north = np.cumsum(STEP_M * np.cos(heading)) + noise[0]
    east = np.cumsum(STEP_M * np.sin(heading)) + noise[1]
    lat = latitude + north / DEGREE_M
    return np.arange(float(COUNT)), lat, longitude + east / DEGREE_M / np.cos(np.radians(latitude)), 160 + noise[2]


T, LAT, LON, UP = drive()
SOME, HALF = (T >= 30) & (T < 60), T >= 55


def minutes(degrees):
    whole = np.floor(degrees)
    return whole, (degrees - whole) * 60


def dd_mm(degrees):
    whole, minute = minutes(degrees)
    return whole + minute / 100


def dd_mmss(degrees):
    whole, minute = minutes(degrees)
    return whole + np.floor(minute) / 100 + (minute % 1) * 60 / 1e4


# drives whose latitudes pass a whole degree, as minutes pass 60, and a whole minute
_, AT_DEGREE, EAST, _ = drive(latitude=48.996, longitude=8.402)
_, AT_MINUTE, _, _ = drive(latitude=49.498, longitude=8.402)

REFUSED = {
    "ddmm.mmmm": ((minutes(LAT)[0] * 100 + minutes(LAT)[1], minutes(LON)[0] * 100 + minutes(LON)[1]), "ddmm"),
    "dd.mmmm where minutes pass 60": ((dd_mm(AT_DEGREE), dd_mm(EAST)), "degrees and minutes written with one point"),
    "dd.mmss where seconds pass 60": ((dd_mmss(AT_MINUTE), dd_mmss(EAST)), "degrees, minutes and seconds"),
    "radians": ((np.radians(LAT), np.radians(LON)), "radians"),
    "degrees over 60": ((LAT / 60, LON / 60), "Gulf of Guinea"),
    "degrees as whole numbers": ((np.round(LAT * 1e7), np.round(LON * 1e7)), "times 10,000,000"),
    "swapped where it shows": ((LON * 0 + 122.4, LAT), "swapped"),
    "metres of a projection": ((LAT * 0 + 5_428_784.5, LON * 0 + 456_973.2), "projection"),
    "half with another sign": ((LAT, np.where(HALF, -LON, LON)), "other sign of longitude"),
    "half swapped": ((np.where(HALF, LON, LAT), np.where(HALF, LAT, LON)), "cannot be told"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_mistake_of_all_fixes_is_named_in_one_line(kind):
    (latitude, longitude), said = REFUSED[kind]
    with pytest.raises(UnusableFixesError, match=said) as caught:
        without_faults(Fixes(T, latitude, longitude, UP))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("times", [T[::-1], np.random.default_rng(0).permutation(T)])
def test_times_that_do_not_rise_are_refused(times):
    with pytest.raises(UnusableFixesError, match="do not rise"):
        without_faults(Fixes(times, LAT, LON, UP))


MARKED = {
    "some swapped": ((T, np.where(SOME, LON, LAT), np.where(SOME, LAT, LON)), "latitude and longitude swapped"),
    "some without a minus": ((T, np.where(SOME, -LAT, LAT), LON), "other sign of latitude"),
    "some of another city": ((T, LAT + SOME, LON), "farther from the rest"),
    "some beyond the pole": ((T, np.where(SOME, 95.0, LAT), LON), "beyond 90"),
    "some written twice": ((np.where(SOME, 30.0, T), LAT, LON), "does not rise"),
}


@pytest.mark.parametrize("kind", MARKED)
def test_a_mistake_of_some_fixes_takes_those_out_and_counts_them(kind):
    (time_s, latitude, longitude), said = MARKED[kind]
    sound = without_faults(Fixes(time_s, latitude, longitude, UP))
    out = np.isnan(sound.fixes.latitude)
    assert (out == SOME).sum() >= COUNT - 1  # the first of those with one time stays
    assert len(sound.notes) == 1 and said in sound.notes[0] and sound.notes[0].startswith(f"{out.sum()} of {COUNT}")


def test_good_fixes_are_left_as_they_are_and_nothing_is_said():
    for latitude, longitude in ((49.5, 8.4), (-33.9, 151.2), (0.001, 36.8), (51.4, -0.002), (-17.8, 179.999)):
        time_s, lat, lon, up = drive(latitude, longitude)
        lon = (lon + 180) % 360 - 180  # Fiji
        sound = without_faults(Fixes(time_s, lat, lon, up), Speed(time_s, np.full(COUNT, STEP_M)))
        np.testing.assert_array_equal(sound.fixes.latitude, lat)
        assert sound.notes == () and sound.speed is not None


@pytest.mark.parametrize(
    ("altitude", "lost", "said"),
    [
        (UP + 500 * SOME, SOME, "jump by 50"),
        (UP + 500 * HALF, T >= 0, "jump by 50"),
        (np.where(SOME, 1e5, UP), SOME, "no road's"),
        (UP * 0, T < 0, "every altitude is 0"),
    ],
)
def test_altitudes_that_jump_are_lost_and_the_fixes_stay(altitude, lost, said):
    sound = without_faults(Fixes(T, LAT, LON, altitude))
    np.testing.assert_array_equal(np.isnan(sound.fixes.altitude), lost)
    assert np.isfinite(sound.fixes.latitude).all() and said in sound.notes[0]


def test_a_road_over_a_pass_has_no_jumps():
    climb = 160 + 0.12 * STEP_M * T  # and a tunnel of a kilometre through it
    tunnel = (T < 20) | (T > 100)
    sound = without_faults(Fixes(T[tunnel], LAT[tunnel], LON[tunnel], climb[tunnel]))
    assert np.isfinite(sound.fixes.altitude).all() and sound.notes == ()


@pytest.mark.parametrize(
    ("factor", "said"),
    [(3.6, "in km/h"), (2.237, "in miles an hour"), (1.944, "in knots"), (1 / 3.6, "in m/s"), (1.3, "0.77 times")],
)
def test_speeds_in_another_unit_than_their_fixes_are_named_and_left_out(factor, said):
    sound = without_faults(Fixes(T, LAT, LON, UP), Speed(T, np.full(COUNT, factor * STEP_M)))
    assert sound.speed is None and said in sound.notes[0]
    assert np.isfinite(sound.fixes.latitude).all()


@pytest.mark.parametrize("written", [dd_mm, dd_mmss])
def test_a_speed_tells_degrees_from_minutes(written):
    latitude, longitude = drive(49.502, 8.4)[1:3]
    part = slice(0, 60)
    with pytest.raises(UnusableFixesError, match="lengths are 0") as caught:
        fixes = Fixes(T[part], written(latitude[part]), written(longitude[part]), UP[part])
        without_faults(fixes, Speed(T, np.full(COUNT, STEP_M)))
    assert "with one point" in str(caught.value)


@given(st.integers(2, 5), st.floats(-80, 80), st.floats(-179, 179))
def test_a_rounding_is_told_with_the_deviation_that_it_makes(decimals, latitude, longitude):
    step = 10.0**-decimals
    places = np.arange(40) * 0.7 * step
    found = rounding_of(np.round(latitude + places, decimals), np.round(longitude + places, decimals))
    assert found is not None and found.step_m == pytest.approx(DEGREE_M * step)
    assert f"{decimals} decimals" in found.said and found.is_coarse == (decimals < 5)
    assert rounding_of(latitude + places / np.pi, longitude + places / np.e) is None


def test_single_precision_is_told_and_positions_of_a_standing_car_are_not_taken_for_rounded():
    single = rounding_of(LAT.astype(np.float32).astype(float), LON.astype(np.float32).astype(float))
    assert single is not None and "single precision" in single.said and 0.3 < single.step_m < 0.5
    assert rounding_of(np.full(50, 49.5), np.full(50, 8.4)) is None
