"""Dense depth is corrected by points, and keeps its shape where held-back points need no model with more terms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.refine.depth_correction import corrected, fit_depth
from pipeline.refine.depth_ratios import DepthRatios, smooth_log_depth

Array = NDArray[np.float64]
FRAMES = 12


def ratios(seed: int, bend: float = 0.0, wave: float = 0.0, astray: float = 0.0, count: int = 1800) -> DepthRatios:
    """Ratios of depth that is too small by a factor of 1.3. bend: growth of the log ratio towards the right side; wave:
    its variation from frame to frame; astray: share of observations of which those on the right are wrong, by up to a
    factor of e^2."""
    rng = np.random.default_rng(seed)
    frame, places = rng.integers(0, FRAMES, count), rng.uniform(-1, 1, (count, 2))
    log_ratio = np.log(1.3) + bend * places[:, 0] + wave * np.sin(frame / 2) + rng.normal(0, 0.05, count)
    lost = rng.random(count) < astray
    log_ratio[lost] += rng.uniform(0, 2, int(lost.sum())) * (places[lost, 0] > 0)
    return DepthRatios(frame, places, log_ratio, np.zeros(count))


def left(bend: float, wave: float, astray: float = 0.0) -> tuple[float, Array]:
    """The mean error of corrected depth over the whole picture, and the coefficients."""
    log_scale, coefficients = fit_depth(ratios(0, bend, wave, astray), ratios(1, bend, wave, astray, count=300), FRAMES)
    depth = corrected(np.ones((FRAMES, 20, 40), np.float32), log_scale, coefficients)
    x = 2 * (np.arange(40) + 0.5) / 40 - 1
    true = np.log(1.3) + bend * x + wave * np.sin(np.arange(FRAMES) / 2)[:, None]
    return float(np.abs(np.log(depth) - true[:, None]).mean()), coefficients


def test_only_one_factor_is_used_where_held_back_tracks_need_no_more() -> None:
    error, coefficients = left(bend=0.0, wave=0.0)
    assert error < 0.01 and not coefficients.any()


@pytest.mark.parametrize(("bend", "wave"), [(0.3, 0.0), (0.0, 0.2), (-0.2, 0.2)])
def test_errors_that_grow_across_the_picture_or_vary_between_frames_are_corrected(bend: float, wave: float) -> None:
    error, _ = left(bend, wave)
    assert error < 0.35 * (abs(bend) / 2 + 0.6 * wave)


def test_wrong_tracks_on_one_side_do_not_change_the_depth_there() -> None:
    """Four of ten ratios are wrong, all on one side. A fit by least squares would raise that side by a third."""
    error, _ = left(bend=0.0, wave=0.0, astray=0.8)
    assert error < 0.06


def test_without_held_back_tracks_depth_keeps_its_shape_and_without_any_tracks_its_scale() -> None:
    none = DepthRatios.none()
    log_scale, coefficients = fit_depth(ratios(0, bend=0.3), none, FRAMES)
    assert not coefficients.any() and np.allclose(log_scale, np.log(1.3), atol=0.03)
    log_scale, coefficients = fit_depth(none, none, FRAMES)
    assert not coefficients.any() and not log_scale.any()


def test_a_drift_from_frame_to_frame_is_followed_with_each_frame() -> None:
    none = DepthRatios.none()
    _, coefficients = fit_depth(ratios(0, wave=0.2), none, FRAMES, each_frame=True)
    assert np.corrcoef(coefficients[:, 0], np.sin(np.arange(FRAMES) / 2))[0, 1] > 0.95
    assert not coefficients[:, 1:].any()


def test_a_range_of_depths_that_is_too_large_is_made_smaller() -> None:
    """The network's log depth has 1.5 times the range of the true one. Pixels without depth stay without."""

    def seen(seed: int, count: int) -> DepthRatios:
        rng = np.random.default_rng(seed)
        log_depth = rng.uniform(0, 3, count)
        ratio = log_depth / 1.5 - log_depth + 1.0 + rng.normal(0, 0.03, count)
        return DepthRatios(rng.integers(0, FRAMES, count), rng.uniform(-1, 1, (count, 2)), ratio, log_depth)

    log_scale, coefficients = fit_depth(seen(0, 1800), seen(1, 300), FRAMES)
    depth = np.exp(np.linspace(0.3, 2.7, 24, dtype=np.float32)).reshape(1, 4, 6).repeat(FRAMES, 0)
    depth[:, 0, 0] = np.nan
    found = np.log(corrected(depth, log_scale, coefficients)) - (np.log(depth) / 1.5 + 1.0)
    assert np.isnan(found[:, 0, 0]).all() and np.nanmax(np.abs(found)) < 0.12


def test_depth_at_the_border_of_an_object_is_not_used() -> None:
    depth = np.full((1, 8, 12), 20.0, np.float32)
    depth[0, 2:6, 4:8] = 5.0
    depth[0, 0, 11] = 0.0
    known = np.isfinite(smooth_log_depth(depth)[0])
    assert known[3:5, 5:7].all() and known[7, :].all()
    assert not known[2, 4:8].any() and not known[1, 4:8].any() and not known[0, 11]
