"""Routes: lanes, speeds, turns, stops, and streets that are driven twice."""

import numpy as np
import pytest

from pipeline.synthetic import CityDrive, perturbed_motion
from pipeline.synthetic.layout import build_city
from pipeline.synthetic.route import MAX_SPEED, drive_route

SEEDS = range(20, 32)
MAX_YAW_RATE = 12.0  # degrees per frame; the sharpest right turn at its speed is well below


@pytest.fixture(scope="module")
def drives():
    cities = [build_city(seed) for seed in SEEDS]
    return [(city, drive_route(city, 600, seed)) for city, seed in zip(cities, SEEDS, strict=True)]


def _yaw(poses: np.ndarray) -> np.ndarray:
    return np.unwrap(np.arctan2(poses[:, 1, 2], poses[:, 0, 2]))


def test_speed_and_yaw_rate_are_those_of_a_car(drives) -> None:
    for _, route in drives:
        place = route.world_from_camera[:, :3, 3]
        step = np.linalg.norm(np.diff(place, axis=0), axis=1)
        assert step.max() <= MAX_SPEED + 0.05
        assert 0.5 < np.median(step) < MAX_SPEED
        assert np.abs(np.diff(step)).max() < 0.12
        assert np.degrees(np.abs(np.diff(_yaw(route.world_from_camera)))).max() < MAX_YAW_RATE
        assert np.abs(step - route.speed[:-1])[step > 0.3].max() < 0.05


def test_the_car_looks_where_it_drives(drives) -> None:
    for _, route in drives:
        step = np.diff(route.world_from_camera[:, :3, 3], axis=0)
        length = np.linalg.norm(step, axis=1)
        along = (step * route.world_from_camera[:-1, :3, 2]).sum(1)[length > 0.3] / length[length > 0.3]
        assert along.min() > np.cos(np.radians(12))


def test_poses_are_rigid_and_keep_the_horizon(drives) -> None:
    for _, route in drives:
        rotation = route.world_from_camera[:, :3, :3]
        assert np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-9)
        assert np.allclose(np.linalg.det(rotation), 1)
        assert np.degrees(np.arcsin(np.abs(rotation[:, 2, 0]))).max() < 4  # the camera's x axis stays level
        assert (rotation[:, 2, 1] < -0.98).all()  # its y axis points down


def test_the_car_keeps_to_the_right_of_the_street(drives) -> None:
    for city, route in drives:
        place, ahead = route.world_from_camera[:, :2, 3], route.world_from_camera[:, :2, 2]
        for heading, axis, lines, half in (
            (1, 0, city.streets_x, city.half_x),
            (0, 1, city.streets_y, city.half_y),
        ):
            straight = np.abs(ahead[:, heading]) > np.cos(np.radians(8))
            nearest = np.abs(place[straight, axis, None] - lines).argmin(1)
            side = place[straight, axis] - lines[nearest]
            right = side * np.sign(ahead[straight, heading]) * (1 if axis == 0 else -1)
            inside = right < half[nearest]
            assert (right > 0.3).mean() > 0.98
            assert inside.mean() > 0.98


def test_drives_turn_and_some_stop_at_lights(drives) -> None:
    turns = [np.ptp(_yaw(route.world_from_camera)) for _, route in drives]
    assert min(turns) > np.radians(80)
    assert sum(bool((route.speed == 0).sum() >= 5) for _, route in drives) >= 3


def test_a_long_drive_comes_back_to_a_street_in_the_same_direction(drives) -> None:
    for _, route in drives:
        place, ahead = route.world_from_camera[:, :3, 3], route.world_from_camera[:, :3, 2]
        distance = np.linalg.norm(place[:, None] - place, axis=2)
        later = np.subtract.outer(np.arange(600), np.arange(600)) > 150
        again = (distance < 4.0) & later & (ahead @ ahead.T > 0.95)
        assert again.any(1).sum() >= 10


def test_no_object_is_on_the_route() -> None:
    for seed in (31, 44):
        rendered = CityDrive(seed, 500, 24, 48).render(range(0, 500, 4))
        near = np.where(rendered.depth > 0, rendered.depth, np.inf).min((1, 2))
        assert near.min() > 0.7


def test_routes_repeat_and_differ_by_seed() -> None:
    city = build_city(2)
    assert np.array_equal(drive_route(city, 50, 4).world_from_camera, drive_route(city, 50, 4).world_from_camera)
    assert not np.allclose(drive_route(city, 50, 4).world_from_camera, drive_route(city, 50, 5).world_from_camera)


def test_a_drive_may_have_one_frame_but_not_zero_frames() -> None:
    city = build_city(2)
    assert drive_route(city, 1, 4).world_from_camera.shape == (1, 4, 4)
    with pytest.raises(ValueError, match="at least 1 frame"):
        drive_route(city, 0, 4)


def test_perturbed_motion_is_smooth_and_does_not_change_its_input() -> None:
    still = np.tile(np.eye(4), (4000, 1, 1))
    moved = perturbed_motion(np.random.default_rng(1), still, shift_metres=0.2)
    assert np.array_equal(still, np.tile(np.eye(4), (4000, 1, 1)))
    yaw = np.degrees(np.arctan2(moved[:, 0, 2], moved[:, 2, 2]))
    pitch = np.degrees(np.arcsin(-moved[:, 1, 2]))
    assert 6.5 < yaw.std() < 9.5
    assert 1.6 < pitch.std() < 2.4
    assert 0.15 < moved[:, 0, 3].std() < 0.25
    assert np.corrcoef(yaw[:-1], yaw[1:])[0, 1] > 0.8
    assert abs(np.corrcoef(yaw[:-15], yaw[15:])[0, 1]) < 0.2
    assert np.allclose(moved[:, :3, :3] @ moved[:, :3, :3].transpose(0, 2, 1), np.eye(3))
