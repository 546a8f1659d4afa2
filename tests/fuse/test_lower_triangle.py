"""A matrix of which only the lower triangle is stored is set, added to and factorised as the whole one is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fuse.lower_triangle import LowerTriangle

WIDTH = 7
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=6)  # rows of the blocks, in squares
seeds = st.integers(0, 2**32 - 1)


def positive_definite(size, seed):
    some = np.random.default_rng(seed).normal(size=(size, size + 3))
    return some @ some.T + 0.1 * np.eye(size)


def stored(whole, blocks):
    """The matrix, set in squares in any order."""
    start = np.cumsum([0, *blocks]) * WIDTH
    row, column = np.tril_indices(len(whole) // WIDTH)
    shuffled = np.random.default_rng(0).permutation(len(row))
    row, column = row[shuffled], column[shuffled]
    squares = whole.reshape(len(whole) // WIDTH, WIDTH, -1, WIDTH).transpose(0, 2, 1, 3)
    triangle = LowerTriangle.zeros(start.tolist())
    triangle.put(row, column, squares[row, column])
    return triangle


def lower(triangle):
    """The lower triangle as a whole matrix."""
    answer = np.zeros((int(triangle.start[-1]),) * 2)
    for first, block in zip(triangle.start, triangle.blocks, strict=False):
        answer[first : first + len(block), : block.shape[1]] = block
    return np.tril(answer)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 6), seeds)
def test_eliminating_blocks_gives_the_columns_of_the_factor_and_what_is_left_on_the_border(blocks, count, seed):
    count = min(count, len(blocks))
    whole = positive_definite(sum(blocks) * WIDTH, seed)
    triangle = stored(whole, blocks)
    np.testing.assert_array_equal(lower(triangle), np.tril(whole))
    factor = np.linalg.cholesky(whole)
    at = 0
    for inverse, below in triangle.eliminated(count):
        stop = at + len(inverse)
        np.testing.assert_allclose(inverse @ factor[at:stop, at:stop], np.eye(len(inverse)), atol=1e-7)
        np.testing.assert_allclose(below, factor[stop:, at:stop], atol=1e-7)
        at = stop
    left = triangle.rest(count)
    np.testing.assert_allclose(lower(left), np.tril(factor[at:, at:] @ factor[at:, at:].T), atol=1e-7)
    assert triangle.blocks == []


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, seeds)
def test_a_smaller_matrix_is_added_to_some_rows_and_columns(blocks, others, seed):
    rng = np.random.default_rng(seed)
    whole = positive_definite(sum(blocks) * WIDTH, seed)
    others = others[: max(np.searchsorted(np.cumsum(others), sum(blocks), side="right"), 1)]
    others[0] = min(others[0], sum(blocks))
    other = positive_definite(sum(others) * WIDTH, seed + 1)
    at = np.sort(rng.choice(len(whole), len(other), replace=False))
    triangle = stored(whole, blocks)
    triangle.add(stored(other, others), at)
    whole[at[:, None], at] += other
    np.testing.assert_allclose(lower(triangle), np.tril(whole))


def test_it_takes_little_more_than_half_the_memory_of_the_whole_matrix():
    triangle = LowerTriangle.zeros(list(range(0, 2101, 210)))
    assert sum(block.nbytes for block in triangle.blocks) < 0.56 * 2100**2 * 8


def test_a_matrix_that_is_not_positive_definite_is_refused():
    with pytest.raises(np.linalg.LinAlgError):
        list(stored(-np.eye(14), [1, 1]).eliminated(1))
