"""Laws of the Morton curve."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.publish.morton import BITS, interleave, morton_codes, morton_order

CELLS = st.integers(0, (1 << BITS) - 1)
POINTS = st.integers(0, 60).flatmap(
    lambda n: arrays(np.float32, (3, n), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False))
)


def slow_code(x: int, y: int, z: int) -> int:
    code = 0
    for bit in range(BITS):
        for axis, value in enumerate((x, y, z)):
            code |= (value >> bit & 1) << (3 * bit + axis)
    return code


@given(CELLS, CELLS, CELLS)
def test_bits_of_the_axes_alternate_as_in_the_plain_loop(x, y, z):
    assert int(interleave(np.array([[x], [y], [z]]))[0]) == slow_code(x, y, z)


@given(st.tuples(CELLS, CELLS, CELLS), st.tuples(CELLS, CELLS, CELLS))
def test_a_point_that_is_not_before_another_on_any_axis_is_not_before_it_on_the_curve(a, b):
    low, high = np.minimum(a, b), np.maximum(a, b)
    assert interleave(low[:, None])[0] <= interleave(high[:, None])[0]


@given(st.tuples(CELLS, CELLS, CELLS), st.integers(0, BITS))
def test_an_aligned_cube_is_one_unbroken_part_of_the_curve(cell, level):
    corner = np.array(cell) >> level << level
    inside = corner + (1 << level) - 1
    first, last = (int(interleave(c[:, None])[0]) for c in (corner, inside))
    assert last - first == (1 << 3 * level) - 1
    assert first <= int(interleave(np.array(cell)[:, None])[0]) <= last


@given(POINTS)
def test_the_order_is_a_permutation_along_the_curve(xyz):
    order = morton_order(xyz)
    assert sorted(order) == list(range(xyz.shape[1]))
    assert (np.diff(morton_codes(xyz)[order].astype(object)) >= 0).all()


@given(POINTS, st.integers(-3, 3))
def test_points_scaled_by_two_have_the_same_order(xyz, power):
    assert (morton_codes(xyz) == morton_codes(xyz * np.float32(2.0**power))).all()


def test_a_far_outlier_does_not_coarsen_the_order_of_the_other_points():
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0, 10, (3, 40_000)).astype(np.float32)
    xyz[:, 7] = 1e5
    ordered = xyz[:, morton_order(xyz)]
    pieces = [ordered[:, i : i + 625] for i in range(0, 40_000, 625)]  # 64 pieces; an ideal piece is 2.5 wide
    widths = [float(np.ptp(piece, axis=1).max()) for piece in pieces]
    assert np.median(widths) < 6
