"""Fixes place a city on Earth, in metres east, north, up, however many of its drives have them."""

import numpy as np
import pytest

from pipeline.backend import Fixes
from pipeline.common.geodesy import enu_from_geodetic, geodetic_from_enu
from pipeline.fuse import solve
from tests.fuse.made_up_drives import drive_in, gauges_of, link_between, town_path

ORIGIN = (48.1, 11.6, 520.0)
FRAMES = 120
STARTS = (0.0, 60.0, 400.0)
# OpenCV's axes in the town (x right, y down, z forward) -> east, north, up, turned by some heading
HEADING = np.radians(25)
ENU_FROM_TOWN = np.array(
    [[np.cos(HEADING), 0, np.sin(HEADING)], [-np.sin(HEADING), 0, np.cos(HEADING)], [0.0, -1.0, 0.0]]
)
TIMES = np.arange(FRAMES) * 0.1


def town():
    truths, gauges = [town_path(FRAMES, start) for start in STARTS], gauges_of(3, 4)
    drives = [drive_in(gauge, truth) for gauge, truth in zip(gauges, truths, strict=True)]
    links = [link_between(gauges, truths, ends) for ends in [(0, 80, 1, 22), (0, 100, 1, 41)]]
    return truths, drives, links


def fixes_of(truth, seed=0, noise=0.3, outliers=(), **more):
    """Five fixes a second in random order. outliers: whole seconds in which fixes are off by 60 m."""
    rng = np.random.default_rng(seed)
    every = np.arange(0, FRAMES, 2)
    enu = truth[every, :3, 3] @ ENU_FROM_TOWN.T + rng.normal(0, noise, (len(every), 3)) * [1, 1, 2]
    enu[list(outliers)] += [60.0, -20.0, 5.0]
    latitude, longitude, altitude = geodetic_from_enu(enu, ORIGIN)
    mixed = rng.permutation(len(every))
    return Fixes(TIMES[every][mixed], latitude[mixed], longitude[mixed], altitude[mixed], np.full(len(every), 1.0))


def enu_of(city, number):
    """Positions of a drive's cameras in the city, in metres from ORIGIN."""
    place = city.city_from_camera[number][:, :3, 3]
    return enu_from_geodetic(*geodetic_from_enu(place, city.origin), ORIGIN)


def test_a_link_to_a_drive_with_fixes_places_a_drive_without_them_on_earth():
    truths, drives, links = town()
    city = solve(drives, links, fixes={1: fixes_of(truths[1], outliers=(5, 40))}, frame_time_s={1: TIMES})
    assert [drive.on_earth for drive in city.drives] == [True, True, False]
    assert city.accepted.all() and not city.alarms
    for number in (0, 1):
        away = enu_of(city, number) - truths[number][:, :3, 3] @ ENU_FROM_TOWN.T
        assert np.abs(away).max() < 1.5
        up = -city.city_from_camera[number][:, 2, 1]
        assert up.mean() > 0.98
    np.testing.assert_allclose(city.city_from_camera[2], drives[2].world_from_camera, atol=1e-6)


def test_fixes_bring_two_drives_without_links_into_one_frame():
    truths, drives, links = town()
    fixes = {1: fixes_of(truths[1]), 2: fixes_of(truths[2], seed=1)}
    city = solve(drives, links, fixes=fixes, frame_time_s={1: TIMES, 2: TIMES}, origin=ORIGIN)
    assert city.origin == ORIGIN and all(drive.on_earth for drive in city.drives)
    assert [drive.component for drive in city.drives] == [0, 0, 2]
    for number in range(3):
        np.testing.assert_allclose(enu_of(city, number), truths[number][:, :3, 3] @ ENU_FROM_TOWN.T, atol=1.5)


def test_fixes_that_do_not_fit_change_no_drive_and_give_an_alarm():
    truths, drives, links = town()
    standing = fixes_of(np.broadcast_to(truths[0][:1], truths[0].shape))
    city = solve(drives, links, fixes={0: standing}, frame_time_s={0: TIMES})
    assert city.origin is None and not any(drive.on_earth for drive in city.drives)
    assert len(city.alarms) == 1 and "stays in its own frame: the fixes span" in city.alarms[0]
    np.testing.assert_allclose(city.city_from_camera[0], drives[0].world_from_camera, atol=1e-4)


def test_one_fix_alone_or_contradicting_fixes_place_no_drive():
    truths, drives, links = town()
    good = fixes_of(truths[0])
    one = Fixes(*(getattr(good, name)[:1] for name in ("time_s", "latitude", "longitude", "altitude", "accuracy")))
    city = solve(drives, links, fixes={0: one}, frame_time_s={0: TIMES})
    assert "one fix alone" in city.alarms[0]
    outside = Fixes(good.time_s + 1e6, good.latitude, good.longitude, good.altitude)
    assert solve(drives, links, fixes={0: outside}, frame_time_s={0: TIMES}).origin is None


def test_heights_follow_from_the_images_where_fixes_have_no_altitude():
    truths, drives, links = town()
    good = fixes_of(truths[0])
    flat = Fixes(good.time_s, good.latitude, good.longitude, np.full(len(good), np.nan))
    city = solve(drives, links, fixes={0: flat}, frame_time_s={0: TIMES})
    away = enu_of(city, 0) - truths[0][:, :3, 3] @ ENU_FROM_TOWN.T
    assert np.abs(away[:, :2]).max() < 2.0 and city.origin[2] == 0.0


@pytest.mark.parametrize(("number", "times", "said"), [(7, TIMES, "drive 7"), (0, TIMES[:5], "rising frame_time_s")])
def test_fixes_of_a_drive_that_does_not_exist_or_has_no_times_are_refused(number, times, said):
    truths, drives, links = town()
    with pytest.raises(ValueError, match=said):
        solve(drives, links, fixes={number: fixes_of(truths[0])}, frame_time_s={number: times})
