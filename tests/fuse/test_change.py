"""An object that one drive saw and another looked through is a change. Leaves, moving cars, and places that the other
drive did not look at are not."""

import numpy as np
import pytest

from pipeline.fuse.change import looked_through
from tests.fuse.scenes import CAR, TREE, cameras, seen

VOXEL, METRE = 0.2, 1.0


def parked(frame):
    return (CAR,)


def driving(frame):
    """A car ahead in the lane, faster than the camera."""
    at = 8.0 + 1.6 * frame
    return (((-0.9, 0.1, at), (0.9, 1.45, at + 4.0)),)


def thinned(cloud):
    return cloud.thinned(VOXEL)[0]


@pytest.fixture(scope="module")
def empty():
    return thinned(seen(cameras(aside=0.7, start=0.5), tree=True, seed=1))


def found(first, second):
    return looked_through(first, second, np.ones(len(first.xyz), bool), VOXEL, METRE)


def test_a_parked_car_that_is_gone_is_one_object_and_the_tree_beside_it_is_none(empty):
    first = thinned(seen(cameras(), parked, tree=True))
    answer = found(first, empty)
    assert set(answer.label.tolist()) == {0} and len(answer.seen_by) == 1
    where = first.xyz[answer.point]
    low, high = np.array(CAR[0]) - 0.3, np.array(CAR[1]) + 0.3
    assert len(where) >= 25 and ((where >= low) & (where <= high)).all()
    on_it = (first.xyz >= low) & (first.xyz <= high) & (first.xyz[:, 1:2] < 1.0)
    assert len(where) > 0.3 * on_it.all(1).sum()
    assert 0 <= answer.seen_by[0] < 20
    # In the other direction nothing is missing: the first drive did not look at what is behind the car.
    assert not len(found(empty, first).point)


def test_leaves_are_no_change_even_where_the_other_drive_has_no_tree():
    with_tree, without = thinned(seen(cameras(), tree=True)), thinned(seen(cameras(aside=0.7), seed=2))
    middle, radius = TREE
    assert (np.linalg.norm(with_tree.xyz - middle, axis=1) < radius).sum() > 100
    assert not len(found(with_tree, without).point)


def test_a_car_that_drives_is_no_change(empty):
    assert not len(found(thinned(seen(cameras(), driving, tree=True)), empty).point)


def test_what_the_other_drive_did_not_look_at_is_no_change():
    first = thinned(seen(cameras(), parked))
    elsewhere = thinned(seen(cameras(start=200.0)))
    hidden = thinned(seen(cameras(), lambda frame: (((2.0, -2.0, 2.0), (2.4, 1.4, 45.0)),)))  # a hoarding before it
    for other in (elsewhere, hidden):
        assert not len(found(first, other).point)
    assert not len(found(first, first).point)


def test_only_points_that_are_asked_for_belong_to_objects(empty):
    first = thinned(seen(cameras(), parked))
    assert not len(looked_through(first, empty, np.zeros(len(first.xyz), bool), VOXEL, METRE).point)
