"""Which fixes take part, and when they were measured: what is wrong is said in a line before anything is joined."""

import numpy as np
import pytest

from pipeline.backend.chosen_fixes import choose_fixes
from pipeline.backend.fix_moments import regular_moments
from pipeline.backend.frame_track import FrameTrack
from pipeline.common.fixes import Fixes

SECONDS = 60
FRAMES = np.arange(10 * SECONDS) * 0.1
TRACK = FrameTrack(
    FRAMES,
    np.zeros(len(FRAMES), np.int64),
    np.tile(np.eye(4), (len(FRAMES), 1, 1)),
    np.zeros(len(FRAMES)),
    np.zeros((len(FRAMES), 3)),
)
T = np.arange(SECONDS) + 0.25
LAT, LON = 49.5012 + 7e-5 * T + 1e-6 * np.sin(T), 8.7 + 1e-4 * np.sin(T / 9)
UP = 162 + np.cos(T)


def chosen(t=T, lat=LAT, lon=LON, up=UP, accuracy=None, window=5.0):
    return choose_fixes(Fixes(t, lat, lon, up, accuracy), None, TRACK, window)


REFUSED = {
    "degrees and minutes": ({"lat": 4930.07 + LAT * 0, "lon": 842.5 + LON * 0}, "ddmm"),
    "not a number": ({"lat": LAT * np.nan}, "none of"),
    "null island": ({"lat": LAT * 0, "lon": LON * 0}, "none of"),
    "one place": ({"lat": LAT * 0 + 49.5, "lon": LON * 0 + 8.4}, "differs from the others"),
    "one fix": ({"t": T[:1], "lat": LAT[:1], "lon": LON[:1], "up": UP[:1]}, "only 1"),
    "another day": ({"t": T + 86_400}, "1.0 days apart, a file of another time"),
    "another time zone": ({"t": T - 7_200}, "-2 hours apart, of another time zone"),
    "minutes away": ({"t": T + 400}, "400 s apart"),
    "milliseconds": ({"t": T * 1e3}, "milliseconds"),
    "GPS time": ({"t": T - 315_964_782}, "GPS time taken as Unix time"),
    "times that fall": ({"t": T[::-1]}, "do not rise"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_fixes_that_cannot_take_part_are_refused_in_one_line(kind):
    changed, said = REFUSED[kind]
    found = chosen(**changed)
    assert isinstance(found, str) and said in found and "\n" not in found


def test_an_hour_of_fixes_does_not_decide_about_a_minute():
    around = np.concatenate([T - 1800, T, T + 1800])
    lat, lon = (np.concatenate([one, one, one]) for one in (LAT, LON))
    lat[:SECONDS] = 4930.0
    found = chosen(around, lat, lon, np.tile(UP, 3))
    assert found.notes == () and found.candidates.tolist() == list(range(SECONDS, 2 * SECONDS))


def test_rounded_positions_all_count_with_the_deviation_of_their_rounding():
    found = chosen(lat=LAT.round(3), lon=LON.round(3), accuracy=2.0)
    assert len(found.candidates) == SECONDS and "rounded to 3 decimals" in found.notes[0]
    np.testing.assert_allclose(found.accuracy, np.hypot(2, 111.32 / np.sqrt(12)), rtol=1e-3)
    np.testing.assert_allclose(found.vertical, 3.6)


def test_a_frozen_receivers_fixes_count_once():
    frozen = (T > 20) & (T < 30)
    found = chosen(lat=np.where(frozen, LAT[21], LAT), lon=np.where(frozen, LON[21], LON))
    assert len(found.candidates) == SECONDS - frozen.sum() + 1


def test_an_altitude_that_no_road_has_is_left_out_and_its_fix_counts():
    found = chosen(up=np.where(T < 10, -99_999.0, UP))
    assert len(found.candidates) == SECONDS and "altitudes of 10 of 60" in found.notes[0]
    assert np.isnan(found.enu[:10, 2]).all() and np.isfinite(found.enu[10:, 2]).all()


def test_a_drive_without_altitudes_says_that_its_own_mean_nothing():
    found = chosen(up=UP * np.nan)
    assert np.isnan(found.enu[:, 2]).all() and "no altitude of a fix counts" in found.notes[0]


def path(time_s):
    return np.stack([15 * time_s, 20 * np.sin(time_s / 7), 0 * time_s], 1)


def test_times_that_a_log_scatters_become_the_moments_of_measuring():
    rng = np.random.default_rng(0)
    true = 3.2 + np.arange(400) * 0.1
    true = true[(np.arange(400) % 37 != 5) & (np.abs(true - 20) > 2)]  # messages are lost, and a tunnel
    logged = true + rng.gamma(2, 0.005, len(true))
    found = regular_moments(logged, path(true) + rng.normal(0, 0.01, (len(true), 3)))
    off = found - true
    assert np.ptp(off) < 0.003 and np.std(logged - true) > 0.006


@pytest.mark.parametrize("metres", [0.01, 1.0])
def test_times_that_are_right_or_that_noise_hides_are_left(metres):
    rng = np.random.default_rng(1)
    regular = np.arange(300) * 1.0
    apart = np.cumsum(rng.uniform(0.6, 1.4, 300))
    for time_s in (regular, apart):
        assert regular_moments(time_s, path(time_s) + rng.normal(0, metres, (300, 3))) is None
