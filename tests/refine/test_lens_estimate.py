"""The lens of a drive without calibration: found where tracks show one, and not where they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.cameras.camera import Camera
from pipeline.refine.lens_estimate import LensEvidence, common_lens, window_lens
from pipeline.refine.tracks import Tracks
from tests.refine.scene import CAMERA, SOURCE, Scene, drive

CENTRE = np.array(SOURCE) / 2
RADIUS = SOURCE[0] / 2
BARREL = Camera("radtan", *SOURCE, *CAMERA, (-0.25, 0.05, 0.0, 0.0))
FISHEYE = Camera("fisheye", *SOURCE, 300.0, 300.0, 322.0, 158.0, (-0.02, 0.004, 0.0, 0.0))


def seen_through(scene: Scene, lens: Camera) -> Tracks:
    """The scene's tracks where this lens sees them instead of its pinhole."""
    rays = np.append((scene.tracks.xy - CAMERA[2:]) / CAMERA[:2], np.ones((len(scene.tracks), 1)), 1)
    xy = lens.project(rays)
    inside = (xy > 0).all(1) & (xy < SOURCE).all(1)
    return replace(scene.tracks, xy=xy).select(inside)


def guess(focal: float) -> np.ndarray:
    return np.array([focal, focal, *CENTRE])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return drive(frames=30, points=1000, noise=0.2)


@pytest.mark.parametrize("lens", [BARREL, FISHEYE])
def test_the_lens_of_bent_tracks_is_found(scene: Scene, lens: Camera) -> None:
    found = window_lens(scene.window(), seen_through(scene, lens), guess(420.0), RADIUS, scene.grid)
    assert found is not None
    common = common_lens([found, None], CENTRE, RADIUS)
    assert common is not None and abs(np.log(common.focal / lens.fx)) < 0.03
    camera = common.camera(*SOURCE)
    pixels = np.stack(np.meshgrid(np.linspace(20, 620, 7), np.linspace(20, 300, 5)), -1).reshape(-1, 2)
    here, there = (one.unproject(pixels)[:, :2] / one.unproject(pixels)[:, 2:] for one in (camera, lens))
    assert np.abs(here - there).max() < 0.04  # of the tangent of the angle from the axis


def test_a_pinhole_has_no_lens(scene: Scene) -> None:
    found = window_lens(scene.window(), scene.tracks, guess(440.0), RADIUS, scene.grid)
    assert found is not None and np.abs(found.found[3:]).max() < 0.01
    assert common_lens([found] * 3, CENTRE, RADIUS) is None


def test_without_tracks_there_is_no_lens(scene: Scene) -> None:
    assert window_lens(scene.window(), Tracks.none(), guess(400.0), RADIUS, scene.grid) is None
    assert common_lens([None, None], CENTRE, RADIUS) is None


def evidence(bend: float, deviation: float, points: int = 1000) -> LensEvidence:
    sigmas = np.array([0.01, 1.0, 1.0, deviation, deviation])
    return LensEvidence(np.array([6.0, *CENTRE, bend, 0.0]), np.diag(sigmas**2), points)


def test_windows_must_agree_and_be_sure() -> None:
    lens = common_lens([evidence(-0.2, 0.01)] * 3, CENTRE, RADIUS)
    assert lens is not None and lens.lens.bend[0] == pytest.approx(-0.2)
    assert common_lens([evidence(-0.2, 0.2)] * 3, CENTRE, RADIUS) is None  # not determined
    assert common_lens([evidence(-0.2, 0.01, points=20)] * 3, CENTRE, RADIUS) is None  # few tracks
    assert common_lens([evidence(-0.005, 0.0001)] * 3, CENTRE, RADIUS) is None  # as good as a pinhole
    apart = [evidence(-0.3, 0.01), evidence(0.1, 0.01), evidence(-0.15, 0.004)]
    assert common_lens(apart, CENTRE, RADIUS) is None


def test_the_prior_of_the_centre_counts_once() -> None:
    """Windows that say nothing about the centre leave it there; sure ones move it."""
    one = evidence(-0.2, 0.01)
    moved = LensEvidence(one.found + [0, 5.0, -3.0, 0, 0], np.diag([1e-4, 0.1, 0.1, 1e-4, 1e-4]), 1000)
    lens = common_lens([moved] * 3, CENTRE, RADIUS)
    assert lens is not None
    np.testing.assert_allclose(lens.lens.centre, CENTRE + (5.0, -3.0), atol=0.1)
