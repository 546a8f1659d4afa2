"""The memory's small network: its gradient, the orthogonalised update, the read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.fast_weights import FastWeights, orthogonalise, read, updated
from tests.models.steps import step_at

D, H = 8, 20


def _weights(seed: int = 0, batch: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float64) -> FastWeights:
    g = torch.Generator().manual_seed(seed)
    shapes = [(D, H), (H, D), (D, H)]
    return FastWeights(*(torch.randn(*batch, *s, generator=g, dtype=dtype) / s[0] ** 0.5 for s in shapes))


def _tokens(count: int, seed: int = 1, batch: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float64):
    """Keys, values and positive rates of `count` tokens."""
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(*batch, count, D, generator=g, dtype=dtype) for _ in range(2))
    return k, v, torch.rand(*batch, count, 3, generator=g, dtype=dtype) + 0.01


def _close(found: FastWeights, expected: FastWeights, tolerance: float = 2e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


def _loss(weights: FastWeights, k: torch.Tensor, v: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
    """- sum_i eta_i f_W(k_i) . v_i, token by token."""
    w0, w1, w2 = (w[0] for w in weights)
    total = torch.zeros((), dtype=k.dtype)
    for key, value, eta in zip(k[0], v[0], rate[0], strict=True):
        gate = key @ w0
        total = total - eta * (((gate / (1 + torch.exp(-gate))) * (key @ w2)) @ w1) @ value
    return total


@pytest.mark.parametrize("count", [1, 2, 17])
def test_the_step_is_minus_the_gradient_of_the_memorys_loss(count):
    weights, (k, v, rates) = _weights(), _tokens(count)
    expected = []
    for j in range(3):  # the gradient by W_j uses column j of the rates
        free = FastWeights(*(w.clone().requires_grad_() for w in weights))
        expected.append(-torch.autograd.grad(_loss(free, k, v, rates[..., j]), free[j])[0])
    found = step_at(weights, k, v, rates)
    _close(found, FastWeights(*expected))
    assert {w.dtype for w in found} == {torch.float32}


def test_the_step_moves_the_memorys_output_towards_the_values():
    weights, (k, v, rates) = _weights(), _tokens(40)
    step = step_at(weights, k, v, rates)
    moved = FastWeights(*(w + 1e-3 * g for w, g in zip(weights, step, strict=True)))
    rate = rates.mean(-1)
    assert _loss(moved, k, v, rate) < _loss(weights, k, v, rate)


def test_steps_are_summed_over_tokens_not_averaged():
    weights, (k, v, rates) = _weights(), _tokens(30)
    whole = step_at(weights, k, v, rates)
    parts = [step_at(weights, k[:, s], v[:, s], rates[:, s]) for s in (slice(0, 11), slice(11, 30))]
    _close(FastWeights(*(a + b for a, b in zip(*parts, strict=True))), whole)
    twice = step_at(weights, *(torch.cat([t, t], dim=1) for t in (k, v, rates)))
    _close(twice, whole.map(lambda g: 2 * g))


def test_one_update_from_summed_steps_equals_the_update_over_all_tokens_at_once():
    weights, (k, v, rates) = _weights(), _tokens(48)
    at_once = updated(weights, step_at(weights, k, v, rates))
    chunks = [step_at(weights, *(t[:, a : a + 16] for t in (k, v, rates))) for a in (0, 16, 32)]
    summed = FastWeights(*(torch.stack(parts).sum(0) for parts in zip(*chunks, strict=True)))
    _close(updated(weights, summed), at_once, 1e-5)
    alone = updated(weights, chunks[0])
    assert (alone.w0 - at_once.w0).norm() > 0.05 * at_once.w0.norm()  # one chunk gives another update


def test_rates_stay_float32_with_bfloat16_tokens():
    """Rates that differ by one part in a thousand would be the same number in bfloat16."""
    weights, (k, v, _) = _weights(), _tokens(6)
    k, v = k.bfloat16(), v.bfloat16()
    low, high = (step_at(weights, k, v, torch.full((1, 6, 3), r)) for r in (0.01, 0.01001))
    _close(high, low.map(lambda g: g * 1.001), 1e-5)
    assert {w.dtype for w in low} == {torch.float32}
    exact = step_at(weights, k.double(), v.double(), torch.full((1, 6, 3), 0.01))
    _close(low, exact, 0.03)


def _plain_newton_schulz(g: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Without transposition: the same result, more expensive for a tall matrix."""
    x = g / (g.square().sum().sqrt() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x


@pytest.mark.parametrize("shape", [(6, 6), (5, 14), (14, 5), (1, 9), (9, 1)])
def test_orthogonalising_with_and_without_transposition_agree(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = _plain_newton_schulz(g)
    torch.testing.assert_close(orthogonalise(g, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9)
    turned = orthogonalise(g.T, dtype=torch.float64).T
    torch.testing.assert_close(turned, expected, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10**6), rows=st.integers(2, 12), cols=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_orthogonalising_moves_singular_values_near_one_and_keeps_their_directions(seed, rows, cols):
    generator = torch.Generator().manual_seed(seed)
    rank = min(rows, cols)
    u = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(cols, rank, generator=generator, dtype=torch.float64)).Q
    values = torch.rand(rank, generator=generator, dtype=torch.float64) * 0.95 + 0.05
    result = orthogonalise(u @ values.diag() @ v.T, dtype=torch.float64)
    inside = u.T @ result @ v
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3
    torch.testing.assert_close(inside, inside.diagonal().diag(), rtol=0, atol=1e-9)
    torch.testing.assert_close(result, u @ inside @ v.T, rtol=0, atol=1e-9)


def test_a_zero_step_changes_nothing():
    assert torch.equal(orthogonalise(torch.zeros(4, 7)), torch.zeros(4, 7))


def test_the_division_by_the_norm_adds_its_epsilon():
    g = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = g / g.norm() * 1e-7  # as long as the epsilon: it is halved, not scaled to length one
    torch.testing.assert_close(orthogonalise(g, 0, torch.float64).norm().item(), 0.5)


def test_bfloat16_is_cast_to_before_the_division_by_the_norm():
    g = torch.randn(16, 40, generator=torch.Generator().manual_seed(5))
    expected = g.bfloat16()
    expected = expected / (torch.linalg.matrix_norm(expected) + 1e-7)
    for _ in range(5):
        a = expected @ expected.T
        expected = 3.4445 * expected + (-4.7750 * a + 2.0315 * a @ a) @ expected
    found = orthogonalise(g, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    exact = orthogonalise(g)
    assert 1e-4 < (found.float() - exact).norm() / exact.norm() < 0.1


@given(seed=st.integers(0, 10**6), scale=st.floats(-3, 3), strength=st.floats(-6, 6))
@settings(max_examples=60, deadline=None)
def test_an_update_keeps_the_length_of_every_column(seed, scale, strength):
    """Except for the epsilon that is added to the column's new length; for any size of the step."""
    start = _weights(seed, dtype=torch.float32).map(lambda w: w * 10**scale)
    g = _weights(seed + 1, dtype=torch.float32).map(lambda w: w * 10**strength)
    for weight, moved, step in zip(start, updated(start, g), g, strict=True):
        assert moved.dtype == torch.float32
        old = weight.double().norm(dim=-2)
        length = (weight.double() + orthogonalise(step).double()).norm(dim=-2)
        expected = old * length / (length + 1e-5)
        torch.testing.assert_close(moved.double().norm(dim=-2), expected, rtol=2e-5, atol=0)


def test_the_epsilon_shortens_small_columns():
    start = _weights().map(lambda w: w * 1e-5 / w.norm(dim=-2, keepdim=True))
    unmoved = updated(start, start.map(torch.zeros_like))
    for weight, found in zip(start, unmoved, strict=True):
        torch.testing.assert_close(found.double(), weight / 2, rtol=1e-5, atol=0)


def test_the_update_equals_its_plain_twin_in_float32():
    start, g = _weights(dtype=torch.float32), _weights(9, dtype=torch.float32)
    for weight, step, found in zip(start, g, updated(start, g), strict=True):
        moved = weight[0].double() + _plain_newton_schulz(step[0].double())
        expected = moved / (moved.norm(dim=0) + 1e-5) * weight[0].double().norm(dim=0)
        torch.testing.assert_close(found[0].double(), expected, rtol=1e-4, atol=1e-5)


def test_batch_axes_give_the_same_as_each_alone():
    """Batched steps (from shared weights or one set each), updates and reads equal those of each alone."""
    shared, (k, v, rates) = _weights(dtype=torch.float32), _tokens(9, batch=(3,), dtype=torch.float32)
    steps = step_at(shared, k, v, rates)
    assert steps.w0.shape == (3, D, H)
    after = updated(shared, steps)
    answers = read(after, k)
    again = step_at(after, k, v, rates)
    for b in range(3):
        only = slice(b, b + 1)
        alone = step_at(shared, k[only], v[only], rates[only])
        _close(FastWeights(*(w[only] for w in steps)), alone)
        one = updated(shared, alone)
        _close(FastWeights(*(w[only] for w in after)), one, 1e-5)
        torch.testing.assert_close(answers[only], read(one, k[only]), rtol=1e-4, atol=1e-5)
        own = step_at(one, k[only], v[only], rates[only])
        _close(FastWeights(*(w[only] for w in again)), own, 1e-4)


def test_reading_is_the_gated_network_in_the_tokens_dtype():
    weights, (q, _, _) = _weights(), _tokens(5)
    w0, w1, w2 = (w[0] for w in weights)
    gate = q[0] @ w0
    expected = (gate / (1 + torch.exp(-gate)) * (q[0] @ w2)) @ w1
    torch.testing.assert_close(read(weights, q)[0], expected)
    low = read(weights, q.bfloat16())
    assert low.dtype == torch.bfloat16
    assert (low[0].double() - expected).norm() < 0.03 * expected.norm()


def test_gradients_flow_through_the_update_to_start_weights_keys_and_rates():
    """Training differentiates through the inner update; compared with finite differences."""
    start = _weights(dtype=torch.float32)
    k, v, rates = _tokens(12, dtype=torch.float32)
    direction = _tokens(12, seed=7, dtype=torch.float32)
    probe = _tokens(4, seed=8, dtype=torch.float32)[0]
    target = _tokens(4, seed=11, dtype=torch.float32)[0]
    push = _weights(12, dtype=torch.float32)

    def outcome(at: torch.Tensor | float) -> torch.Tensor:
        moved = FastWeights(*(w + at * p for w, p in zip(start, push, strict=True)))
        inputs = [t + at * t_direction for t, t_direction in zip((k, v, rates), direction, strict=True)]
        return (read(updated(moved, step_at(moved, *inputs)), probe) * target).sum()

    at = torch.zeros((), requires_grad=True)
    slope = torch.autograd.grad(outcome(at), at)[0].item()
    small = 2e-3
    finite = ((outcome(small) - outcome(-small)) / (2 * small)).item()
    assert abs(slope) > 0.1
    assert slope == pytest.approx(finite, rel=0.03)
