"""The layout of a city: lanes are free, and shapes, normals and bounding spheres are consistent."""

import numpy as np
import pytest

from pipeline.synthetic.layout import build_city


def test_equal_seeds_give_equal_cities() -> None:
    one, other = build_city(5), build_city(5)
    assert np.array_equal(one.quads.centre, other.quads.centre)
    assert np.array_equal(one.quads.look, other.quads.look)
    assert np.array_equal(one.leaves.centre, other.leaves.centre)


def test_blocks_streets_and_houses_differ() -> None:
    city = build_city(5)
    assert np.ptp(np.diff(city.streets_x)) > 3
    assert len(set(city.half_x)) == 2
    assert np.std(city.solid[:, 4]) > 3


def test_rectangles_are_rectangles_with_normals_outwards() -> None:
    quads = build_city(5).quads
    assert np.abs((quads.half_u * quads.half_v).sum(1)).max() < 1e-9
    across = np.cross(quads.half_u, quads.half_v)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    assert np.allclose(across, quads.normal)


def test_every_part_of_an_object_lies_in_its_sphere() -> None:
    city = build_city(5)
    owner = np.repeat(np.arange(len(city.sphere)), np.diff(city.quad_start))
    for a in (-1, 1):
        for b in (-1, 1):
            corner = city.quads.centre + a * city.quads.half_u + b * city.quads.half_v
            out = np.linalg.norm(corner - city.sphere[owner, :3], axis=1) - city.sphere[owner, 3]
            assert out.max() < 1e-6
    owner = np.repeat(np.arange(len(city.sphere)), np.diff(city.leaf_start))
    out = np.linalg.norm(city.leaves.centre - city.sphere[owner, :3], axis=1)
    assert (out - city.sphere[owner, 3]).max() < 1e-6
    assert city.quad_start[-1] == len(city.quads.centre)
    assert city.leaf_start[-1] == len(city.leaves.centre)


def test_no_house_and_no_car_stands_in_a_lane() -> None:
    city = build_city(5)
    low = city.quads.centre[:, 2] - np.abs(city.quads.half_u[:, 2]) - np.abs(city.quads.half_v[:, 2]) < 2.0
    centre = city.quads.centre[low]
    across = np.abs(centre[:, 0, None] - city.streets_x).min(1)
    along = np.abs(centre[:, 1, None] - city.streets_y).min(1)
    assert (np.minimum(across, along) > 3.2).all()


def test_too_small_a_city_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 streets"):
        build_city(1, extent=3)
