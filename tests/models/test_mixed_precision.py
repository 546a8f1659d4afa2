"""Operations on tensors of two precisions, and copies that are made once."""

import copy

import pytest
import torch

from models.mixed_precision import Prepared, residual_sum, scaled, scaled_sum


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_and_a_sum_are_rounded_once(dtype):
    base, x, factor = _random(5, 8), _random(5, 8, seed=1).to(dtype), _random(8, seed=2)
    assert torch.equal(scaled(x, factor, dtype), (x.float() * factor).to(dtype))
    assert torch.equal(scaled_sum(base, x, factor), torch.addcmul(base, x.float(), factor).to(dtype))


def test_special_tokens_are_summed_in_float32_and_rounded_only_for_the_other_tokens():
    frames, tokens, count, width = 3, 7, 2, 8
    x, factor = _random(1, frames * tokens, width).bfloat16(), _random(width, seed=2).bfloat16()
    special = x.view(frames, tokens, width)[:, :count].float()
    exact, total = x.double(), x
    for seed in range(40):
        branch = 0.01 * _random(1, frames * tokens, width, seed=seed).bfloat16()
        exact += branch.double() * factor.double()
        total = residual_sum(total, branch, factor, special)
    kept = total.view(frames, tokens, width)
    expected = exact.view(frames, tokens, width)
    assert torch.equal(kept[:, :count], special.bfloat16())
    assert (special - expected[:, :count]).abs().max() < 1e-5
    assert (kept[:, count:] - expected[:, count:]).abs().max() > 1e-3  # as without special tokens


def test_gradients_flow_through_both():
    base, x, factor = (_random(3, 4, seed=s).requires_grad_() for s in range(3))
    (scaled(x, factor, torch.float32).sum() + scaled_sum(base, x, factor).sum()).backward()
    torch.testing.assert_close(x.grad, 2 * factor)
    torch.testing.assert_close(factor.grad, 2 * x)
    torch.testing.assert_close(base.grad, torch.ones(3, 4))


def test_prepared_tensors_are_made_again_only_when_parameters_change():
    weight, made, calls = torch.nn.Parameter(_random(4), requires_grad=False), Prepared(), []

    def make():
        calls.append(1)
        return (weight.bfloat16(),)

    first = made.get((weight,), "key", make)
    assert made.get((weight,), "key", make)[0] is first[0] and len(calls) == 1
    weight.add_(1)  # in place
    assert torch.equal(made.get((weight,), "key", make)[0], weight.bfloat16()) and len(calls) == 2
    weight.data = weight.data + 1  # another tensor in its place
    assert torch.equal(made.get((weight,), "key", make)[0], weight.bfloat16()) and len(calls) == 3
    made.get((weight,), "another key", make)
    copy.deepcopy(made).get((weight,), "another key", make)
    assert len(calls) == 5


def test_prepared_tensors_are_not_kept_if_gradients_are_needed():
    weight, made = torch.nn.Parameter(_random(4)), Prepared()
    (twice,) = made.get((weight,), 0, lambda: (2 * weight,))
    twice.sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((4,), 2.0))
    assert made.get((weight,), 0, lambda: (2 * weight,))[0] is not twice


def test_prepared_tensors_made_in_inference_mode_can_be_used_outside():
    weight, made = torch.nn.Parameter(_random(4), requires_grad=False), Prepared()
    with torch.inference_mode():
        (kept,) = made.get((weight,), 0, lambda: (weight.bfloat16(),))
    assert not kept.is_inference()
