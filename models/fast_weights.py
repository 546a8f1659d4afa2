"""The memory's small network as pure functions: its gradient, the orthogonalised update, the read.

The memory is f_W(x) = (silu(x W0) * (x W2)) W1 with fast weights W0, W2 (d, h) and W1 (h, d). For keys k, values v and
rates eta of a chunk, its step is minus the gradient of -sum_i eta_i f_W(k_i) . v_i at the start weights, where the
gradient by W_j uses column j of eta. (Scal3R, Global Context Memory; the update is that of the optimizer Muon.)

All functions allow leading batch axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.mixed_precision import is_functional, scaled

# Coefficients of the quintic Newton-Schulz iteration (Scal3R, GCS update).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NORM_EPS = 1e-7
_COLUMN_EPS = 1e-5


HiddenGradients = Callable[[Tensor, Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor, Tensor]]


class FastWeights(NamedTuple):
    """Weights of the memory, or a step for them: w0 and w2 (..., d, h), w1 (..., h, d)."""

    w0: Tensor
    w1: Tensor
    w2: Tensor

    def map(self, function) -> FastWeights:  # type: ignore[no-untyped-def]
        """The function applied to each matrix."""
        return FastWeights(*(function(w) for w in self))

    def to(self, dtype: torch.dtype) -> FastWeights:
        """The weights in another dtype, to cast them once before many chunks read them."""
        return FastWeights(*(w.to(dtype) for w in self))


class StartWeights(NamedTuple):
    """Start weights as a step reads them, in the tokens' dtype: w0 and w2 side by side (..., d, 2h), w1 (..., h, d)."""

    w02: Tensor
    w1: Tensor


def side_by_side(weights: FastWeights, dtype: torch.dtype) -> StartWeights:
    """Start weights for `gradient_step`: with w0 and w2 side by side, one product gives both hidden layers."""
    w0, w1, w2 = (w.to(dtype) for w in weights)
    return StartWeights(torch.cat([w0, w2], dim=-1), w1)


def gradient_step(
    start: StartWeights, k: Tensor, v: Tensor, rates: Tensor, hidden: HiddenGradients | None = None
) -> FastWeights:
    """Minus the gradient of the memory's loss, summed over tokens, in float32 (five products).

    start: in k's dtype. k, v: (..., L, d). rates: (..., L, 3) float32, columns for w0, w1, w2. hidden: a compiled
    `hidden_gradients`. Returns steps with the shapes of the weights. The products have k's dtype; rates, sums over
    tokens and the result are float32.
    """
    operands = summed_from(k)
    by_w0, by_w1, by_w2 = (hidden or hidden_gradients)(
        k @ start.w02, v @ start.w1.transpose(-2, -1), rates.float(), operands
    )
    k, v = k.to(operands), v.to(operands)
    return FastWeights(sum_over_tokens(k, by_w0), sum_over_tokens(by_w1, v), sum_over_tokens(k, by_w2))


def summed_from(tokens: Tensor) -> torch.dtype:
    """The dtype of the operands of the sums over tokens: bfloat16 on a GPU for bfloat16 tokens, else float32.

    Products of bfloat16 numbers are exact in float32, in which they are summed. CPUs have no such matrix product, and
    it has no gradient, so both cases use float32.
    """
    low = tokens.dtype == torch.bfloat16 and tokens.device.type != "cpu"
    return torch.bfloat16 if low and not (torch.is_grad_enabled() and tokens.requires_grad) else torch.float32


def hidden_gradients(gu: Tensor, dh: Tensor, rates: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The factors that are multiplied by k, v and k and summed over tokens; computed in float32, rounded to `dtype`.

    gu: g = k W0 and u = k W2 side by side (..., L, 2h). dh = v W1^T (..., L, h). rates (..., L, 3) float32. Returns
    eta_0 dh u silu'(g), eta_1 silu(g) u and eta_2 dh silu(g), each (..., L, h).
    """
    g, u = gu.chunk(2, dim=-1)
    silu = F.silu(g)
    if is_functional(gu, dh, rates):
        sigmoid = torch.sigmoid(g)
        slope = dh * u * (sigmoid + silu * (1 - sigmoid))
    else:
        slope = torch.ops.aten.silu_backward(dh * u, g)  # dh u silu'(g) in one kernel; it has no gradient of its own
    parts = (slope, silu * u, dh * silu)
    by_w0, by_w1, by_w2 = (scaled(x, rate, dtype) for x, rate in zip(parts, rates[..., None].unbind(-2), strict=True))
    return by_w0, by_w1, by_w2


def sum_over_tokens(left: Tensor, right: Tensor) -> Tensor:
    """left^T right: (..., L, m) and (..., L, n) -> (..., m, n), summed in float32; operands of `summed_from`'s
    dtype."""
    if left.dtype == torch.float32:
        return left.transpose(-2, -1) @ right
    shape = (*left.shape[:-2], left.shape[-1], right.shape[-1])
    first, second = (t.reshape(-1, *t.shape[-2:]) for t in (left.transpose(-2, -1), right))
    return torch.bmm(first, second, out_dtype=torch.float32).view(shape)


def orthogonalise(step: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Newton-Schulz iteration, in `dtype`: moves the singular values of a matrix (..., m, n) towards one.

    The cast comes before the division by the Frobenius norm, as in the published code, which runs this in bfloat16.
    """
    x = step.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + _NORM_EPS)
    for _ in range(steps):
        a = x @ x.transpose(-2, -1)
        x = _A * x + (_B * a + _C * a @ a) @ x
    return x.transpose(-2, -1) if tall else x


def updated(start: FastWeights, step: FastWeights, steps: int = 5, dtype: torch.dtype = torch.float32) -> FastWeights:
    """The update: W + NS5(G), float32; each column is scaled back to its norm in W (Scal3R, GCS update)."""

    def one(weight: Tensor, g: Tensor) -> Tensor:
        weight = weight.float()
        moved = weight + orthogonalise(g, steps, dtype).float()
        old = torch.linalg.vector_norm(weight, dim=-2, keepdim=True)
        new = torch.linalg.vector_norm(moved, dim=-2, keepdim=True)
        return moved / (new + _COLUMN_EPS) * old

    return FastWeights(*(one(w, g) for w, g in zip(start, step, strict=True)))


def read(weights: FastWeights, q: Tensor) -> Tensor:
    """f_W(q): (..., L, d) -> (..., L, d), in q's dtype."""
    w0, w1, w2 = (w.to(q.dtype) for w in weights)
    return (F.silu(q @ w0) * (q @ w2)) @ w1
