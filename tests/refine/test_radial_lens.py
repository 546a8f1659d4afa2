"""The division model of a lens: what it bends it straightens, and a Camera of the project projects like it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cameras.camera import Camera
from pipeline.refine.radial_lens import RadialLens

SIZE = (640, 320)
CENTRE = np.array([330.0, 150.0])
PIXELS = np.stack(np.meshgrid(np.linspace(0, 640, 9), np.linspace(0, 320, 5)), -1).reshape(-1, 2)
BENDS = st.tuples(st.floats(-0.4, 0.15), st.floats(-0.05, 0.05))


@given(BENDS)
def test_a_pixel_that_is_straightened_is_bent_back_to_where_it_was(bend: tuple[float, float]) -> None:
    lens = RadialLens(CENTRE, 320.0, np.array(bend))
    pixels = PIXELS[lens.stretch(PIXELS) < 4]
    back = lens.bent(lens.straight(pixels), pixels + (2.0, -1.0))
    np.testing.assert_allclose(back, pixels, atol=1e-3)


@given(BENDS)
def test_derivatives_are_those_of_small_differences(bend: tuple[float, float]) -> None:
    lens = RadialLens(CENTRE, 320.0, np.array(bend))
    pixels = PIXELS[lens.stretch(PIXELS) < 4]
    small = 1e-5
    for axis in range(2):
        moved = np.eye(2)[axis] * small
        by_pixel = (lens.straight(pixels + moved) - lens.straight(pixels - moved)) / (2 * small)
        np.testing.assert_allclose(lens.by_pixel(pixels)[axis].T, by_pixel, rtol=1e-5, atol=1e-6)
        more, less = (RadialLens(CENTRE, 320.0, lens.bend + sign * moved) for sign in (1, -1))
        by_bend = (more.straight(pixels) - less.straight(pixels)) / (2 * small)
        np.testing.assert_allclose(lens.by_bend(pixels)[axis].T, by_bend, rtol=1e-5, atol=1e-4)


def test_beyond_the_end_of_the_model_it_stays_finite_and_says_so() -> None:
    lens = RadialLens(CENTRE, 320.0, np.array([-0.9, -0.3]))
    assert np.isinf(lens.stretch(np.array([[640.0, 320.0]]))).all()
    far = np.array([[1e9, -1e9], [np.nan, 0.0]])
    bent = lens.bent(far, np.full((2, 2), 300.0))
    assert np.isfinite(bent[0]).all()


@pytest.mark.parametrize(
    ("bend", "focal", "model"),
    [((0.0, 0.0), 400.0, "radtan"), ((-0.05, -0.01), 500.0, "radtan"), ((-0.56, -0.08), 250.0, "fisheye")],
)
def test_the_camera_of_a_lens_projects_like_it(bend: tuple[float, float], focal: float, model: str) -> None:
    lens = RadialLens(CENTRE, 320.0, np.array(bend))
    camera, error = lens.camera(focal, *SIZE, most_stretch=4.0)
    assert isinstance(camera, Camera) and camera.model == model and error < 0.5
    pixels = PIXELS[lens.stretch(PIXELS) < 4]
    rays = np.append((lens.straight(pixels) - CENTRE) / focal, np.ones((len(pixels), 1)), 1)
    np.testing.assert_allclose(camera.project(rays), pixels, atol=0.5)
