"""Fixes in the pose graph: they place a drive on Earth in metres; unusable fixes leave the drive as without fixes."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backend import Fixes, Speed, join_chunks
from pipeline.common.geodesy import enu_from_geodetic, geodetic_from_enu


@pytest.fixture(scope="module")
def gnss_of(shared):
    """make_gnss of the scenarios."""
    sys.path.insert(0, str(shared / "scenarios"))
    try:
        from gnss import make_gnss
    finally:
        sys.path.pop(0)
    return make_gnss


@pytest.fixture(scope="module")
def drive(make, gnss_of):
    """A minute of KITTI 00 (600 frames at 10 Hz), and fixes once a second."""
    scenario = make(limit=600, seed=3)
    time_s = np.arange(600) * 0.1
    return scenario, time_s, gnss_of(scenario.world_from_cam, time_s, seed=1)


@pytest.fixture(scope="module")
def placed(drive):
    """The drive joined with its fixes."""
    scenario, time_s, gnss = drive
    return join_chunks(scenario.chunks, frame_time_s=time_s, fixes=Fixes(*columns(gnss)))


def columns(gnss):
    return [np.asarray(a, float) for a in (gnss.time, gnss.latitude, gnss.longitude, gnss.altitude, gnss.accuracy)]


def test_a_drive_with_fixes_is_in_metres_east_north_up_where_they_say(drive, placed):
    scenario = drive[0]
    found = placed.georeference
    assert found is not None and not placed.relative_because
    assert found.enu_from_camera.shape == (600, 4, 4) and found.used.mean() > 0.8
    truth = np.asarray(scenario.world_from_cam)[:, :3, 3]
    length = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    path = np.linalg.norm(np.diff(found.enu_from_camera[:, :3, 3], axis=0), axis=1).sum()
    assert abs(path / length - 1) < 0.03
    up = -found.enu_from_camera[:, 2, 1]
    assert up.mean() > 0.98
    latitude, longitude, altitude = found.geodetic()
    back = enu_from_geodetic(latitude, longitude, altitude, found.origin)
    np.testing.assert_allclose(back, found.enu_from_camera[:, :3, 3], atol=1e-3)
    assert (found.position_deviation_m > 0).all() and (found.position_deviation_m < 20).all()


def test_without_fixes_times_change_nothing(drive):
    scenario, time_s, _ = drive
    few = scenario.chunks[:3]
    same = join_chunks(few, frame_time_s=time_s)
    np.testing.assert_array_equal(join_chunks(few).world_from_camera, same.world_from_camera)
    assert same.georeference is None


@pytest.mark.parametrize("offset", [-4.2, 3.0])
def test_a_clock_offset_of_seconds_is_found_to_a_twentieth_of_a_second(drive, gnss_of, offset):
    scenario, time_s, _ = drive
    gnss = gnss_of(scenario.world_from_cam, time_s, seed=2, offset=offset, white=0.2, wander=0.5)
    found = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=Fixes(*columns(gnss))).georeference
    assert found is not None and abs(found.clock_offset_s - offset) < 0.05
    assert found.clock_offset_deviation_s < 0.1


def test_the_antennas_place_is_found_where_exact_fixes_tell_it(drive, gnss_of):
    scenario, time_s, _ = drive
    gnss = gnss_of(scenario.world_from_cam, time_s, seed=2, white=0.02, wander=0.03, lever=(0.4, -1.2, -0.9))
    found = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=Fixes(*columns(gnss))).georeference
    assert found.lever_estimated
    np.testing.assert_allclose(found.lever_m[[0, 2]], [0.4, -0.9], atol=0.1)


def test_an_antenna_at_the_camera_is_left_there_and_one_that_is_given_where_it_was_given(drive, gnss_of):
    scenario, time_s, _ = drive
    gnss = gnss_of(scenario.world_from_cam, time_s, seed=2, white=0.02, wander=0.03)
    for lever, said in ((None, [0, 0, 0]), ((0.1, 0, 0), [0.1, 0, 0])):
        found = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=Fixes(*columns(gnss)), lever=lever).georeference
        assert not found.lever_estimated
        np.testing.assert_allclose(found.lever_m, said, atol=1e-6)


def test_speeds_in_another_unit_have_no_say_beside_fixes(drive, placed):
    scenario, time_s, gnss = drive
    speed = np.linalg.norm(np.gradient(np.asarray(scenario.world_from_cam)[:, :3, 3], 0.1, axis=0), axis=1)
    fixes = Fixes(*columns(gnss))
    wrong = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=fixes, speed=Speed(time_s, 3.6 * speed))
    assert np.isnan(wrong.georeference.speed_factor) and "in km/h" in wrong.georeference.notes[0]
    np.testing.assert_array_equal(wrong.georeference.enu_from_camera, placed.georeference.enu_from_camera)


def test_a_speed_holds_the_scale_of_a_drive_that_ends_in_a_tunnel_though_its_wheels_are_worn(make, gnss_of):
    scenario, time_s = make(limit=600, seed=3, noise=4), np.arange(600) * 0.1
    truth = np.asarray(scenario.world_from_cam)[:, :3, 3]
    gnss = gnss_of(scenario.world_from_cam, time_s, seed=5, white=0.1, wander=0.3, outages=[(15, 60)])
    speed = Speed(time_s, 1.01 * np.linalg.norm(np.gradient(truth, 0.1, axis=0), axis=1), of_receiver=False)
    fixes = Fixes(*columns(gnss))

    def off(**told):
        found = join_chunks(scenario.chunks, frame_time_s=time_s, fixes=fixes, **told).georeference
        enu = truth @ gnss.enu_from_world[:3, :3].T
        away = enu_from_geodetic(*found.geodetic(), gnss.origin) - enu
        return found, np.sqrt((away[150:, :2] ** 2).sum(1).mean())

    _, alone = off()
    found, beside = off(speed=speed)
    assert beside < 0.8 * alone
    assert found.speed_factor == pytest.approx(1.01, abs=0.008)


@pytest.mark.parametrize("noise", [{"wander": 0.001, "white": 0.001}, {"wander": 0.5, "white": 0.1}])
def test_a_straight_road_at_one_speed_neither_rolls_the_car_nor_moves_its_clock(drives, gnss_of, noise):
    frames = 390
    truth = np.tile(np.eye(4), (frames, 1, 1))
    truth[:, 2, 3] = np.arange(frames)
    rng, time_s = np.random.default_rng(1), np.arange(frames) * 0.1
    chunks = [
        drives._predict(truth, drives.middle_first(list(range(first, first + 60))), rng, 8, 20, 1.0)
        for first in range(0, frames - 30, 30)
    ]
    gnss = gnss_of(truth, time_s, seed=1, **noise)
    found = join_chunks(chunks, frame_time_s=time_s, fixes=Fixes(*columns(gnss))).georeference
    assert found is not None and abs(found.clock_offset_s) < 0.2
    roll = np.degrees(np.arcsin(found.enu_from_camera[:, 2, 0]))
    assert abs(roll.mean()) < 1 and np.abs(roll).max() < 1.5
    assert (found.enu_from_camera[:, 2, 1] < -0.9).all()


def test_columns_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="latitude must be of 2 fixes"):
        Fixes([0.0, 1.0], [1.0], [1.0, 2.0], [0.0, 0.0])


@given(st.floats(-85, 85), st.floats(-179, 179), st.floats(-100, 5000), st.floats(-5000, 5000), st.floats(-5000, 5000))
def test_places_are_the_same_after_conversion_to_a_tangent_plane_and_back(latitude, longitude, altitude, east, north):
    origin = (latitude, longitude, altitude)
    place = np.array([[east, north, 12.5]])
    again = enu_from_geodetic(*geodetic_from_enu(place, origin), origin)
    np.testing.assert_allclose(again, place, atol=1e-4)
