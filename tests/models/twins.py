"""Plain twins of parts of the network, written from the paper's formulas and not from `models`.

They are slow, use float64 unless noted, and take one sequence at a time, so that they read like the paper's text.
"""

import math

import torch
from torch import Tensor


def grid_positions(rows: int, cols: int, specials: int = 0, frames: int = 1) -> list[tuple[int, int]]:
    """(y, x) of every token of a frame, special tokens at (0, 0), patches at (row + 1, col + 1)."""
    frame = [(0, 0)] * specials + [(r + 1, c + 1) for r in range(rows) for c in range(cols)]
    return frame * frames


def rotated(x: Tensor, positions: list[tuple[int, int]], base: float = 100.0) -> Tensor:
    """Two-dimensional rotary positions, pair by pair: x (L, D), one position a row."""
    out = x.clone()
    half = x.shape[1] // 2
    for token, position in enumerate(positions):
        for axis in (0, 1):  # first half of the width by y, second by x
            for i in range(half // 2):
                first, second = axis * half + i, axis * half + i + half // 2
                angle = position[axis] * base ** (-2 * i / half)
                a, b = x[token, first].clone(), x[token, second].clone()
                out[token, first] = a * math.cos(angle) - b * math.sin(angle)
                out[token, second] = b * math.cos(angle) + a * math.sin(angle)
    return out


def layer_norm(x: Tensor, eps: float, weight: Tensor | float = 1.0, bias: Tensor | float = 0.0) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def rms_norm(x: Tensor, eps: float, weight: Tensor) -> Tensor:
    """x / sqrt(mean of squares + eps) over the last axis."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def silu(x: Tensor) -> Tensor:
    """x times its logistic function."""
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    """The exact one, with erf."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def attention(
    x: Tensor,
    weights: dict[str, Tensor],
    heads: int,
    *,
    positions: list[tuple[int, int]] | None = None,
    qk_norm: bool = False,
) -> Tensor:
    """Self-attention head by head: x (L, D); weights by the names inside a published block's `attn.`"""
    width = x.shape[1]
    size = width // heads
    qkv = x @ weights["qkv.weight"].T + weights["qkv.bias"]
    outputs = []
    for head in range(heads):
        at = head * size
        q, k, v = (qkv[:, part * width + at : part * width + at + size] for part in range(3))
        if qk_norm:
            q = layer_norm(q, 1e-5, weights["q_norm.weight"], weights["q_norm.bias"])
            k = layer_norm(k, 1e-5, weights["k_norm.weight"], weights["k_norm.bias"])
        if positions is not None:
            q, k = rotated(q, positions), rotated(k, positions)
        scores = (q @ k.T / math.sqrt(size)).exp()
        outputs.append(scores / scores.sum(-1, keepdim=True) @ v)
    return torch.cat(outputs, dim=-1) @ weights["proj.weight"].T + weights["proj.bias"]


def block(
    x: Tensor,
    weights: dict[str, Tensor],
    heads: int,
    *,
    eps: float = 1e-5,
    positions: list[tuple[int, int]] | None = None,
    qk_norm: bool = False,
) -> Tensor:
    """Pre-norm transformer block with LayerScale: x (L, D); weights by their names inside the block."""
    w = weights
    attn = {name.removeprefix("attn."): t for name, t in w.items() if name.startswith("attn.")}
    normed = layer_norm(x, eps, w["norm1.weight"], w["norm1.bias"])
    x = x + w["ls1.gamma"] * attention(normed, attn, heads, positions=positions, qk_norm=qk_norm)
    normed = layer_norm(x, eps, w["norm2.weight"], w["norm2.bias"])
    hidden = gelu(normed @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"])
    return x + w["ls2.gamma"] * (hidden @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"])


def doubles(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's tensors in float64."""
    return {name: tensor.detach().double() for name, tensor in module.state_dict().items()}


def under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}


def randomised(module: torch.nn.Module, seed: int = 0, scale: float = 0.3) -> torch.nn.Module:
    """The module with random parameters (ones + noise for norm weights), so that none is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                noise = noise / math.sqrt(math.prod(parameter.shape[1:])) / scale
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * noise)
    return module.requires_grad_(False)
