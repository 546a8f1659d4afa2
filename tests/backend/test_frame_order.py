"""Drives whose frames are out of order are recognised by reversals of motion. Turns, stops and noise are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backend.frame_order import turned_back


def drive(count, seed=0, noise=0.02):
    """(count, 3) a car that turns and changes its speed, in metres."""
    rng = np.random.default_rng(seed)
    heading = np.cumsum(rng.normal(0, 0.05, count))
    speed = np.abs(1 + 0.3 * np.sin(np.arange(count) / 9))
    steps = np.stack([np.cos(heading), 0 * heading, np.sin(heading)], 1) * speed[:, None]
    return np.cumsum(steps, axis=0) + rng.normal(0, noise, (count, 3))


@given(st.integers(8, 300), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_a_car_that_turns_and_changes_speed_shows_no_reversals(count, seed, unit):
    assert turned_back(unit * drive(count, seed)) == ()


def test_a_car_that_stands_or_parks_is_not_reported():
    moving = drive(60)
    standing = np.concatenate(
        [moving[:30], moving[29] + np.random.default_rng(1).normal(0, 0.01, (200, 3)), moving[30:]]
    )
    assert turned_back(standing) == ()
    parks = np.concatenate([moving, moving[::-1], moving])
    assert turned_back(parks) == ()


@pytest.mark.parametrize(
    "order",
    [
        [number ^ 1 for number in range(40)],  # x (1).jpg before x.jpg
        sorted(
            range(100), key=lambda number: tuple(map(int, str(number / 20).split(".")))
        ),  # fractions read as whole numbers
        np.random.default_rng(3).permutation(40).tolist(),
    ],
    ids=["pairs", "decimal seconds", "at random"],
)
def test_frames_that_are_not_in_order_of_time_are_reported(order):
    assert len(turned_back(drive(100)[order])) >= 4


def test_short_drives_are_not_judged():
    assert turned_back(drive(40)[[1, 0, 3, 2]]) == () == turned_back(drive(1))
