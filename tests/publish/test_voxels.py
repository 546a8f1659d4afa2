"""One point in each cube is kept, the most confident one, in bounded memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.publish.voxels import VoxelFilter, best_of_each, own_voxel_keys, voxel_keys


def cells(xyz, size):
    return [tuple(c) for c in np.floor(xyz.T.astype(np.float64) / size).astype(int)]


CLOUDS = st.integers(0, 80).flatmap(
    lambda n: st.tuples(
        arrays(np.float32, (3, n), elements=st.floats(-4, 4, width=32)),
        arrays(np.float32, n, elements=st.sampled_from([1.0, 2.0, 3.5])),
    )
)


@given(CLOUDS, st.sampled_from([0.25, 1.0, 3.0]))
def test_the_first_most_confident_point_of_each_cube_is_kept_as_in_the_plain_loop(cloud, size):
    xyz, confidence = cloud
    best: dict = {}
    for place, cell in enumerate(cells(xyz, size)):
        if cell not in best or confidence[place] > confidence[best[cell]]:
            best[cell] = place
    kept = VoxelFilter(size, 1000).keep(xyz, confidence)
    assert kept.tolist() == sorted(best.values())


@given(CLOUDS, CLOUDS)
def test_a_cube_with_a_published_point_gets_no_second_point(first, second):
    voxels = VoxelFilter(1.0, 1000)
    kept = voxels.keep(*first)
    voxels.remember(first[0][:, kept])
    again = voxels.keep(*second)
    had = set(cells(first[0], 1.0))
    assert set(cells(second[0][:, again], 1.0)) == set(cells(second[0], 1.0)) - had


def test_memory_is_bounded_and_the_newest_cubes_are_remembered():
    voxels = VoxelFilter(1.0, 200)
    ones = np.ones(10, np.float32)

    def cloud(k):
        return np.stack([np.arange(10) + 10.0 * k, np.zeros(10), np.zeros(10)]).astype(np.float32)

    for k in range(100):
        assert len(voxels.keep(cloud(k), ones)) == 10
        voxels.remember(cloud(k))
        assert len(voxels._young) + len(voxels._old) <= 200
        for back in range(min(k + 1, 10)):  # 10 clouds of 10 cubes are half of 200
            assert len(voxels.keep(cloud(k - back), ones)) == 0
    assert len(voxels.keep(cloud(0), ones)) == 10  # older cubes are forgotten, as documented


def test_different_cubes_have_different_keys_on_both_sides_of_the_origin():
    grid = np.stack(np.meshgrid(*[np.arange(-5, 5) + 0.5] * 3)).reshape(3, -1).astype(np.float32)
    assert len(set(voxel_keys(grid, 1.0).tolist())) == 1000


def test_without_points_the_result_is_empty():
    keys, places = best_of_each(np.empty(0, np.int64), np.empty(0, np.float32))
    assert len(keys) == len(places) == 0


@given(st.integers(-(2**40), 2**40), st.integers(1, 50))
def test_cubes_of_one_call_are_told_apart_wherever_the_points_are(start, count):
    cubes = np.stack([start + np.arange(count), np.zeros(count), np.full(count, -start)])
    assert len(set(own_voxel_keys(cubes + 0.5, 1.0).tolist())) == count
    assert not len(own_voxel_keys(np.zeros((3, 0)), 1.0))
