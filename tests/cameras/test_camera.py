import cv2
import numpy as np
import pycolmap
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cameras.camera import Camera
from tests.cameras.lenses import LENSES, SIZE, rays

EXACT = 1e-6  # pixels


@pytest.mark.parametrize("name", LENSES)
def test_a_pixel_s_ray_is_seen_at_that_pixel(name):
    camera = LENSES[name]
    pixels = np.random.default_rng(1).uniform((0, 0), SIZE, (2000, 2))
    directions = camera.unproject(pixels)
    there = np.isfinite(directions).all(1)
    assert there.mean() > 0.95
    np.testing.assert_allclose(np.linalg.norm(directions[there], axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(camera.project(directions[there] * 7.0), pixels[there], atol=EXACT)


@pytest.mark.parametrize("name", ["pinhole", "radtan4", "radtan5", "radtan8"])
def test_a_distorted_lens_projects_as_opencv_s(name):
    camera = LENSES[name]
    points = rays(camera)
    params = np.array(camera.params or (0.0,) * 4)
    theirs = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, params)[0][:, 0]
    np.testing.assert_allclose(camera.project(points), theirs, atol=EXACT)


def test_a_fisheye_projects_as_opencv_s():
    camera = LENSES["fisheye"]
    points = rays(camera)
    points = points[points[:, 2] > 0]
    nothing = np.zeros((3, 1))
    theirs = cv2.fisheye.projectPoints(points[:, None], nothing, nothing, camera.matrix, np.array(camera.params))[0]
    np.testing.assert_allclose(camera.project(points), theirs[:, 0], atol=EXACT)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("radtan4", "OPENCV"),
        ("radtan8", "FULL_OPENCV"),
        ("fisheye", "OPENCV_FISHEYE"),
        ("eucm", "EUCM"),
        ("equirectangular", "EQUIRECTANGULAR"),
    ],
)
def test_a_lens_projects_as_colmap_s(name, model):
    camera = LENSES[name]
    params = [*camera.intrinsics, *camera.params] if name != "equirectangular" else list(SIZE)
    theirs = pycolmap.Camera(model=model, width=SIZE[0], height=SIZE[1], params=params)
    points = rays(camera)
    if name != "equirectangular":
        points = points[points[:, 2] > 0]  # COLMAP has none from behind
    np.testing.assert_allclose(camera.project(points), np.array(theirs.img_from_cam(points)), atol=EXACT)


def test_a_fisheye_sees_behind_itself_up_to_where_its_formula_folds():
    camera = Camera("fisheye", 1000, 1000, 200.0, 200.0, 500.0, 500.0, (0.0, 0.0, 0.0, 0.0))
    behind = np.array([np.sin(np.radians(100)), 0, np.cos(np.radians(100))])
    assert camera.project(behind)[0] == pytest.approx(500 + 200 * np.radians(100))
    folding = Camera("fisheye", 1000, 1000, 200.0, 200.0, 500.0, 500.0, (-0.2, 0.0, 0.0, 0.0))
    limit = np.sqrt(1 / 0.6)  # of angle (1 - 0.2 angle^2)
    angles = np.array([limit - 0.01, limit + 0.01])
    seen = folding.project(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1))
    assert np.isfinite(seen[0]).all() and np.isnan(seen[1]).all()


def test_a_barrel_lens_does_not_see_twice():
    camera = Camera("radtan", *SIZE, 300.0, 300.0, 320.0, 240.0, (-0.3, 0.0, 0.0, 0.0))
    limit = np.sqrt(1 / 0.9)
    assert np.isfinite(camera.project(np.array([limit - 0.01, 0, 1.0]))).all()
    assert np.isnan(camera.project(np.array([limit + 0.01, 0, 1.0]))).all()
    assert np.isnan(camera.project(np.array([0.1, 0, -1.0]))).all()


@settings(deadline=None, max_examples=60)
@given(k1=st.floats(-0.4, 0.4), k2=st.floats(-0.1, 0.1), p1=st.floats(-0.005, 0.005), p2=st.floats(-0.005, 0.005))
def test_where_any_distortion_is_undone_it_is_undone_exactly(k1, k2, p1, p2):
    camera = Camera("radtan", *SIZE, 420.0, 415.0, 322.5, 238.25, (k1, k2, p1, p2))
    u, v = np.meshgrid(np.linspace(1, 639, 9), np.linspace(1, 479, 7))
    pixels = np.stack([u, v], -1)
    directions = camera.unproject(pixels)
    there = np.isfinite(directions).all(-1)
    assert there[3, 4]  # the middle
    back = camera.project(directions[there])
    known = np.isfinite(back).all(-1)
    np.testing.assert_allclose(back[known], pixels[there][known], atol=EXACT)


def test_a_resized_image_scales_pixels():
    camera = LENSES["fisheye"]
    half, points = camera.resized(320, 240), rays(camera, 50)
    np.testing.assert_allclose(half.project(points), camera.project(points) / 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fx": 0.0}, "fx"),
        ({"fy": float("inf")}, "fy"),
        ({"cx": float("nan")}, "cx"),
        ({"width": 0}, "width"),
        ({"params": (0.1,)}, "params"),
        ({"model": "omni"}, "model"),
        ({"model": "eucm", "params": (2.0, 1.0)}, "alpha"),
        ({"params": (0.1, 0.0, 0.0, float("nan"))}, "params"),
    ],
)
def test_numbers_that_are_no_camera_are_refused_by_name(change, said):
    values = {**LENSES["radtan4"].to_dict(), "params": LENSES["radtan4"].params, **change}
    with pytest.raises(ValueError, match=said):
        Camera(**values)


def test_a_camera_survives_json():
    camera = LENSES["radtan8"]
    assert Camera.from_dict(camera.to_dict()) == camera
