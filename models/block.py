"""Attention, MLP and the pre-norm transformer block that encoder, aggregator and camera trunk share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.mixed_precision import Prepared, residual_sum
from models.rope import RopeTable, rotate


class LayerNorm(nn.LayerNorm):
    """LayerNorm whose parameters may stay float32 while tokens are bfloat16; statistics are float32.

    Input and output have the tokens' dtype; one kernel computes in float32. PyTorch's CUDA kernel needs parameters of
    the tokens' dtype, so it gets copies that were rounded once. The compiled kernel and the CPU kernel read float32.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps=eps)
        self._rounded = Prepared()

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> same shape and dtype."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if x.dtype != weight.dtype and x.device.type != "cpu" and not torch.compiler.is_compiling():
            weight, bias = self._rounded.get((weight, bias), x.dtype, lambda: (weight.to(x.dtype), bias.to(x.dtype)))
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class LayerScale(nn.Module):
    """One learned factor per channel of a residual branch. The block applies it in the same kernel as the sum."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention over (B, heads, L, D) -> (B, heads, L, D).

    On a CPU, the fused kernel's backward pass in bfloat16 is several times slower than three plain operations, so
    training on CPUs uses these.
    """
    if q.requires_grad and q.device.type == "cpu":
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention, optionally with LayerNorm on q and k per head and rotary positions."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        head_width = width // heads
        self.q_norm: nn.Module = LayerNorm(head_width, eps=1e-5) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = LayerNorm(head_width, eps=1e-5) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: RopeTable | None) -> Tensor:
        """x (B, L, width) -> (B, L, width). rope: tables (L, width / heads), or None for no positions."""
        b, length, width = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        out = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).reshape(b, length, width))


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out or width)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., out)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int = 4,
        *,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
        layer_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qk_norm)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_ratio * width)
        self.ls2 = LayerScale(width, layer_scale)

    def forward(self, x: Tensor, rope: RopeTable | None = None, special: Tensor | None = None) -> Tensor:
        """x (B, L, width) -> (B, L, width).

        special (frames, n, width): the first n tokens of every frame in float32, where x is bfloat16; they are summed
        in float32, and both copies are updated. frames * tokens of a frame = B * L.
        """
        x = residual_sum(x, self.attn(self.norm1(x), rope), self.ls1.gamma, special)
        return residual_sum(x, self.mlp(self.norm2(x)), self.ls2.gamma, special)
