"""The memory's small network as pure functions: its gradient, the orthogonalised update, the read.

The memory is f_W(x) = (silu(x W0) * (x W2)) W1 with fast weights W0, W2 (d, h) and W1 (h, d). For keys k,
values v and rates eta of a chunk its step is minus the gradient of -sum_i eta_i f_W(k_i) . v_i, taken at the
start weights, where W_j uses column j of eta. (Scal3R, Global Context Memory; the update is Muon's.)

All functions allow leading batch axes: one set of weights a group of chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Coefficients of the quintic Newton-Schulz iteration (Scal3R, GCS update).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NORM_EPS = 1e-7
_COLUMN_EPS = 1e-5


class FastWeights(NamedTuple):
    """Weights of the memory, or a step for them: w0 and w2 (..., d, h), w1 (..., h, d)."""

    w0: Tensor
    w1: Tensor
    w2: Tensor

    def map(self, function) -> FastWeights:  # type: ignore[no-untyped-def]
        """The function applied to each matrix."""
        return FastWeights(*(function(w) for w in self))


def gradient_step(weights: FastWeights, k: Tensor, v: Tensor, rates: Tensor) -> FastWeights:
    """Minus the gradient of the memory's loss, summed over tokens, in float32.

    k, v: (..., L, d). rates: (..., L, 3) float32, columns for w0, w1, w2. Returns steps shaped as the
    weights. The products over hidden units run in k's dtype; rates, the sums over tokens and the result
    are float32 whatever it is.
    """
    w0, w1, w2 = (w.to(k.dtype) for w in weights)
    g, u = k @ w0, k @ w2  # (..., L, h)
    dh = v @ w1.transpose(-2, -1)
    sigmoid = torch.sigmoid(g)
    silu = g * sigmoid
    silu_slope = sigmoid + silu * (1 - sigmoid)
    eta0, eta1, eta2 = rates.float().unbind(-1)

    def over_tokens(rate: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return (rate[..., None] * left.float()).transpose(-2, -1) @ right.float()

    return FastWeights(
        w0=over_tokens(eta0, k, dh * u * silu_slope),
        w1=over_tokens(eta1, silu * u, v),
        w2=over_tokens(eta2, k, dh * silu),
    )


def orthogonalise(step: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Newton-Schulz: a matrix (..., m, n) with its singular values driven towards one, in `dtype`.

    The cast comes first and the division by the Frobenius norm after it, as in the published code, which
    runs this in bfloat16.
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
    """The one update: W + NS5(G), each column (norm over rows) brought back to its length in W. float32."""

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
