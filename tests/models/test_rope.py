"""Two-dimensional rotary positions against explicit rotation of pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.rope import RopeTable, rope_table, rotate
from tests.models.twins import grid_positions, rotated


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("grid", "width", "specials"), [((3, 2), 16, 5), ((1, 4), 4, 0), ((2, 5), 24, 1)])
def test_rotation_is_that_of_explicit_pairs(grid, width, specials):
    positions = grid_positions(*grid, specials)
    x = _random(len(positions), width)
    found = rotate(x, rope_table(grid, width, specials, 100.0))
    torch.testing.assert_close(found.double(), rotated(x.double(), positions), rtol=1e-5, atol=1e-5)


def test_another_base_gives_another_rotation():
    x = _random(6, 16)
    found = rotate(x, rope_table((2, 3), 16, 0, 10.0))
    expected = rotated(x.double(), grid_positions(2, 3), base=10.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_tables_are_float32_with_special_tokens_first():
    table = rope_table((2, 3), 8, 5, 100.0)
    assert table.cos.shape == table.sin.shape == (11, 8)
    assert table.cos.dtype == table.sin.dtype == torch.float32


def test_special_tokens_do_not_turn():
    x = _random(2, 11, 16)
    found = rotate(x, rope_table((2, 3), 16, 5, 100.0))
    assert torch.equal(found[:, :5], x[:, :5])
    assert not torch.isclose(found[:, 5:], x[:, 5:]).all(-1).any()


def test_the_first_half_turns_with_the_row_and_the_second_with_the_column():
    x = _random(1, 16).expand(6, 16)
    turned = rotate(x, rope_table((2, 3), 16, 0, 100.0)).view(2, 3, 16)
    assert torch.equal(turned[0, 0, :8], turned[0, 2, :8])
    assert torch.equal(turned[0, 1, 8:], turned[1, 1, 8:])
    assert not torch.allclose(turned[0, 0, :8], turned[1, 0, :8])
    assert not torch.allclose(turned[0, 0, 8:], turned[0, 1, 8:])


def test_lengths_do_not_change():
    x = _random(3, 12, 32)
    found = rotate(x, rope_table((3, 4), 32, 0, 100.0))
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1))


@given(
    seed=st.integers(0, 10**6),
    places=st.tuples(*[st.integers(0, 5)] * 4),
    shift=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)
@settings(max_examples=50, deadline=None)
def test_a_product_of_two_rotated_vectors_depends_on_their_relative_position_only(seed, places, shift):
    cols = 12
    table = rope_table((12, cols), 16, 0, 100.0)
    q, k = _random(2, 16, seed=seed).double()

    def at(row: int, col: int) -> RopeTable:
        token = slice(row * cols + col, row * cols + col + 1)
        return RopeTable(table.cos[token].double(), table.sin[token].double())

    row_q, col_q, row_k, col_k = places
    here = rotate(q[None], at(row_q, col_q)) @ rotate(k[None], at(row_k, col_k)).T
    there = (
        rotate(q[None], at(row_q + shift[0], col_q + shift[1]))
        @ rotate(k[None], at(row_k + shift[0], col_k + shift[1])).T
    )
    torch.testing.assert_close(here, there, rtol=0, atol=2e-5)


def test_bfloat16_tokens_are_rotated_in_float32_and_returned_as_bfloat16():
    x = _random(6, 16).bfloat16()
    table = rope_table((2, 3), 16, 0, 100.0)
    found = rotate(x, table)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotate(x.float(), table).bfloat16())


def test_a_width_that_cannot_be_paired_in_both_halves_is_refused():
    with pytest.raises(ValueError, match="multiple of 4, not 18"):
        rope_table((2, 2), 18, 0, 100.0)
