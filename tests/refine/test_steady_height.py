"""Drift of scale is measured by the camera's height above the road; only the lengths of steps are corrected."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.refine.problem import inverse
from pipeline.refine.steady_height import drift_of, rescaled
from tests.refine.scene import drive


@pytest.mark.parametrize("growth", [-0.3, 0.3])
def test_a_slow_drift_is_found_among_noise_cars_and_frames_without_a_road(growth: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = np.linspace(-growth / 2, growth / 2, 60)
        heights = 0.5 + true + rng.normal(0, 0.02, 60)
        heights[rng.choice(60, 5, replace=False)] += 0.5  # a car's roof, a kerb
        heights[rng.choice(60, 12, replace=False)] = np.nan
        left = drift_of(heights) - true
        assert np.std(left) < 0.7 * np.std(true)
        steady = drift_of(heights - np.where(np.isfinite(heights), true, 0.0))
        assert np.abs(steady).max() < 0.05, "heights without drift are not changed"


def test_heights_count_less_where_the_picture_is_large() -> None:
    heights = np.linspace(-0.1, 0.1, 60)
    assert np.ptp(drift_of(heights, 700.0)) < 0.5 * np.ptp(drift_of(heights, 200.0))


def test_a_window_in_which_few_frames_see_a_road_is_not_changed() -> None:
    heights = np.full(60, np.nan)
    heights[:12] = np.linspace(0, 1, 12)
    assert not drift_of(heights).any() and not drift_of(np.full(60, np.nan)).any()


def test_steps_are_corrected_by_the_drift_and_keep_rotation_and_direction() -> None:
    world_from_camera = drive(frames=12, points=60).world_from_camera
    drift = np.linspace(-0.1, 0.1, 12)
    true = inverse(world_from_camera)
    relative = true[1:] @ inverse(true[:-1])
    drifted = [true[0]]
    for step, off in zip(relative, (drift[1:] + drift[:-1]) / 2, strict=True):
        grown = step.copy()
        grown[:3, 3] *= np.exp(off)
        drifted.append(grown @ drifted[-1])
    np.testing.assert_allclose(rescaled(np.stack(drifted), drift), true, atol=1e-9)
