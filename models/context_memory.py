"""Global Context Memory (GCM): a residual module on patch tokens, whose small network is trained at test time.

It is used in three calls: `step` for each chunk, `update` once, `apply_to` for each chunk. Between the first and the
second, the caller sums the steps of all chunks of a drive (Global Context Synchronization, GCS).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import fast_weights
from models.fast_weights import FastWeights, StartWeights
from models.mixed_precision import Prepared
from models.rope import RopeTable, rotate

_OUTPUT_NORM_EPS = 1e-5
_MODULATION_EPS = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x) * weight, statistics in float32. eps None: the machine epsilon of x's dtype."""

    def __init__(self, width: int, eps: float | None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self._rounded = Prepared()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> same shape and dtype."""
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        if x.device.type != "cpu" and not torch.compiler.is_compiling():
            (weight,) = self._rounded.get((self.weight,), x.dtype, lambda: (self.weight.to(x.dtype),))
            return F.rms_norm(x, x.shape[-1:], weight, eps)
        y = x.float()  # torch has no RMS norm kernel for CPUs; the compiler fuses these lines into one
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (y * self.weight.float()).to(x.dtype)


class ContextMemory(nn.Module):
    """One memory of width d; its parameters are the published `ttt.*` tensors.

    It acts on the patch tokens of chunks, x (B, L, d) with L = S x patches. Learning rates, steps and their sum are
    float32 for any dtype of the tokens.
    """

    def __init__(self, width: int, hidden_ratio: int, base_rate: float, steps: int) -> None:
        super().__init__()
        hidden = hidden_ratio * width
        self.newton_schulz_steps = steps
        self.base = math.log(math.expm1(base_rate))  # softplus^-1
        self.w0 = nn.Parameter(torch.randn(1, width, hidden) / math.sqrt(width))
        self.w1 = nn.Parameter(torch.randn(1, hidden, width) / math.sqrt(hidden))
        self.w2 = nn.Parameter(torch.randn(1, width, hidden) / math.sqrt(width))
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width, eps=None)
        self.k_norm = RMSNorm(width, eps=None)
        self.lrs = nn.Linear(width, 3)
        self.proj = nn.Linear(width, 3 * width)
        self.o_norm = RMSNorm(width, eps=_OUTPUT_NORM_EPS)
        self._start, self._rates = Prepared(), Prepared()
        self.hidden_gradients = fast_weights.hidden_gradients  # may be compiled
        self.start_without_effect()

    def start_without_effect(self) -> None:
        """Set the gate to zero: the memory adds exactly zero until training changes it."""
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @property
    def start(self) -> FastWeights:
        """The learned start weights (Scal3R), each with a leading axis of 1."""
        return FastWeights(self.w0, self.w1, self.w2)

    def step(self, x: Tensor, rope: RopeTable) -> FastWeights:
        """The step of each chunk: x (B, L, d) -> float32 steps (B, d, h), (B, h, d), (B, d, h).

        rope: tables (L, d). In Scal3R's terms: G0, G1, G2 at the start weights. The caller sums them over chunks.
        """
        k, v = self.keys_and_values(x, rope)
        start = StartWeights(
            *self._start.get(self.start, k.dtype, lambda: fast_weights.side_by_side(self.start, k.dtype))
        )
        return fast_weights.gradient_step(start, k, v, self.rates(x), self.hidden_gradients)

    def keys_and_values(self, x: Tensor, rope: RopeTable) -> tuple[Tensor, Tensor]:
        """Normalised, rotated keys and plain values (B, L, d) of tokens x (B, L, d)."""
        width = x.shape[-1]
        k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, dim=-1)
        return rotate(self.k_norm(k), rope), v

    def rates(self, x: Tensor) -> Tensor:
        """Learning rates (B, L, 3) of tokens x (B, L, d), float32.

        On a GPU bfloat16 tokens are not cast. The float32 weights are split into the sum of two bfloat16 matrices,
        which keeps 16 of their bits, and the products are summed in float32.
        """
        weight, bias = self.lrs.weight.float(), self.lrs.bias.float() + self.base
        if x.dtype != torch.bfloat16 or x.device.type == "cpu" or (torch.is_grad_enabled() and x.requires_grad):
            return F.softplus(F.linear(x.float(), weight, bias))
        (both,) = self._rates.get((self.lrs.weight,), x.device, lambda: (_in_two_parts(weight).T.contiguous(),))
        parts = torch.mm(x.reshape(-1, x.shape[-1]), both, out_dtype=torch.float32).view(*x.shape[:-1], 2, -1)
        return F.softplus(parts.sum(-2) + bias)

    def update(self, step: FastWeights, dtype: torch.dtype = torch.float32) -> FastWeights:
        """The weights after the one update by a step that is summed over all chunks; Newton-Schulz runs in `dtype`."""
        return fast_weights.updated(self.start, step, self.newton_schulz_steps, dtype)

    def apply_to(self, x: Tensor, weights: FastWeights, rope: RopeTable) -> Tensor:
        """x (B, L, d) plus the output of the updated memory for it; same shape and dtype. rope: tables (L, d)."""
        width = x.shape[-1]
        q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        q = rotate(self.q_norm(q), rope)
        o = self.o_norm(fast_weights.read(weights, q))
        shift, scale, gate = self.proj(o).chunk(3, dim=-1)
        normed = F.layer_norm(o, (width,), eps=_MODULATION_EPS)
        return torch.addcmul(x, gate, torch.addcmul(shift, normed, 1 + scale))


def _in_two_parts(weight: Tensor) -> Tensor:
    """A float32 matrix (rows, d) as bfloat16 (2 rows, d): the rounded values, then the rounding errors."""
    high = weight.bfloat16()
    return torch.cat([high, (weight - high.float()).bfloat16()])
