"""Attention and the transformer block against plain twins, also in bfloat16."""

import pytest
import torch

from models.block import Attention, Block, LayerNorm, attend
from models.rope import rope_table
from tests.models import twins


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("with_positions", [False, True])
def test_a_block_equals_its_plain_twin(qk_norm, with_positions):
    """Exact GELU, q and k normalised per head before they turn, LayerScale on both branches."""
    block = twins.randomised(Block(32, 4, qk_norm=qk_norm))
    x = _random(2, 11, 32)
    rope = rope_table((2, 3), 8, 5, 100.0) if with_positions else None
    found = block(x, rope)
    positions = twins.grid_positions(2, 3, 5) if with_positions else None
    for b in range(2):
        expected = twins.block(x[b].double(), twins.doubles(block), 4, positions=positions, qk_norm=qk_norm)
        torch.testing.assert_close(found[b].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_a_blocks_norms_add_their_epsilon(eps):
    block = twins.randomised(Block(32, 4, norm_eps=eps))
    x = 1e-3 * _random(6, 32)
    with torch.no_grad():
        block.attn.proj.bias.zero_()  # so that the second norm has small inputs too
        block.attn.qkv.bias.zero_()
        block.attn.proj.weight.mul_(1e-3)
    weights = twins.doubles(block)
    expected = twins.block(x.double(), weights, 4, eps=eps)
    found = block(x[None])[0].double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    other = twins.block(x.double(), weights, 4, eps=eps / 2)
    assert (other - expected).norm() > 1e-3 * expected.norm()  # so another epsilon would have been noticed


def test_q_and_k_norms_add_their_epsilon():
    attention = twins.randomised(Attention(32, 4, qk_norm=True))
    x = 1e-3 * _random(6, 32)
    with torch.no_grad():
        attention.qkv.bias.zero_()
        attention.q_norm.weight.mul_(4), attention.k_norm.weight.mul_(4)
    found = attention(x[None], None)[0].double()
    expected = twins.attention(x.double(), twins.doubles(attention), 4, qk_norm=True)
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_training_agrees_with_the_fused_one(dtype):
    q, k, v = _random(3, 2, 4, 9, 16).to(dtype)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    found = attend(q.requires_grad_(), k, v)
    assert found.dtype == dtype
    assert (found.float() - expected.float()).norm() < (1e-5 if dtype == torch.float32 else 0.02) * expected.norm()
    assert torch.equal(attend(q.detach(), k, v), expected)


def test_attention_in_training_has_the_gradients_of_the_fused_one():
    leaves = [t.requires_grad_() for t in _random(3, 2, 4, 9, 16).unbind()]
    weight = _random(2, 4, 9, 16, seed=1)
    expected = torch.autograd.grad((torch.nn.functional.scaled_dot_product_attention(*leaves) * weight).sum(), leaves)
    found = torch.autograd.grad((attend(*leaves) * weight).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_order_of_tokens_is_irrelevant_without_positions():
    block = twins.randomised(Block(32, 4))
    x, order = _random(1, 7, 32), torch.tensor([3, 0, 6, 2, 5, 1, 4])
    torch.testing.assert_close(block(x)[:, order], block(x[:, order]), rtol=1e-5, atol=1e-5)


def test_a_norm_in_float32_takes_and_gives_bfloat16_with_statistics_in_float32():
    norm = twins.randomised(LayerNorm(32))
    x = (100 + _random(4, 32)).bfloat16()
    found = norm(x)
    assert found.dtype == torch.bfloat16
    weights = twins.doubles(norm)
    expected = twins.layer_norm(x.double(), 1e-5, weights["weight"], weights["bias"])
    torch.testing.assert_close(found.double(), expected, rtol=8e-3, atol=8e-3)
    assert torch.equal(found, norm(x.float()).bfloat16())
