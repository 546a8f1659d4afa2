"""The sky is found by what does not move in the pictures, on a rendered drive whose depth is known."""

import numpy as np
import pytest

from pipeline.publish.sky import SkyFinder
from pipeline.synthetic import CityDrive

FRAMES = range(20, 44, 3)


@pytest.fixture(scope="module")
def rendered():
    return CityDrive(9200002, 80, 64, 128).render(FRAMES)


def finder(rendered, rgb=None, good=None):
    """A finder that is told a depth of 25 m for the sky, as networks say."""
    depth = np.where(rendered.depth > 0, rendered.depth, 25.0).astype(np.float32)
    good = np.ones(len(depth), bool) if good is None else good
    rgb = rendered.images if rgb is None else rgb
    return SkyFinder(rgb, depth, rendered.intrinsics, rendered.world_from_camera, good)


def test_most_of_the_sky_is_found_and_hardly_anything_else(rendered):
    found = np.stack([finder(rendered).of(place) for place in range(len(FRAMES))])
    sky = rendered.depth == 0
    near = (rendered.depth > 0) & (rendered.depth < 40)
    assert found[sky].mean() > 0.6 and found[near].mean() < 0.02


def test_large_pictures_are_compared_in_small_and_give_the_same_sky(rendered):
    large = [np.repeat(np.repeat(values, 2, 1), 2, 2) for values in (rendered.images, rendered.depth)]
    depth = np.where(large[1] > 0, large[1], 25.0)
    k = rendered.intrinsics * np.array([2.0, 2.0, 1.0])[:, None]
    big = SkyFinder(large[0], depth, k, rendered.world_from_camera, np.ones(len(depth), bool))
    small = finder(rendered)
    assert big._factor == 2
    assert big.of(3).shape == (128, 256) and (big.of(3)[::2, ::2] != small.of(3)).mean() < 0.05


def test_a_frame_without_others_to_compare_or_without_depth_has_no_sky(rendered):
    assert not finder(rendered, good=np.arange(len(FRAMES)) == 2).of(2).any()
    standing = np.repeat(rendered.world_from_camera[:1], len(FRAMES), 0)
    nothing = np.full(rendered.depth.shape, np.nan, np.float32)
    k = rendered.intrinsics
    every = np.ones(len(FRAMES), bool)
    assert not SkyFinder(rendered.images, rendered.depth, k, standing, every).of(2).any()
    assert not SkyFinder(rendered.images, nothing, k, rendered.world_from_camera, every).of(2).any()
