"""Parts of textures: a mip-mapped noise atlas, and patterns that are filtered in closed form.

All functions take flat tensors (N,) and a footprint: how many metres one pixel covers there. Patterns (stripes,
windows, lines) are integrated over the footprint, so that with distance they fade to their mean instead of aliasing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SIZE = 256  # texels of the finest level, a power of two


@dataclass(frozen=True)
class NoiseAtlas:
    """A tiling noise texture of mean 0 and standard deviation 1, with all mip levels in one flat tensor."""

    texels: Tensor
    offset: Tensor  # (L,) int32 where a level starts
    scale: Tensor  # (L,) float32 2^-level
    mask: Tensor  # (L,) int32 size - 1

    @classmethod
    def from_seed(cls, seed: int, device: torch.device) -> NoiseAtlas:
        rng = np.random.default_rng([seed, 3])
        base = np.zeros((_SIZE, _SIZE))
        for size, weight in ((256, 0.55), (128, 0.6), (64, 0.55), (32, 0.45), (16, 0.4), (8, 0.3)):
            base += weight * _stretched(rng.normal(size=(size, size)), _SIZE // size)
        levels = [(base - base.mean()) / base.std()]
        while len(levels[-1]) > 2:
            half = levels[-1]
            levels.append((half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) / 4)
        sizes = np.array([len(level) for level in levels])
        return cls(
            torch.tensor(np.concatenate([level.ravel() for level in levels]), dtype=torch.float32).to(device),
            torch.tensor(np.concatenate([[0], np.cumsum(sizes**2)[:-1]]), dtype=torch.int32).to(device),
            torch.tensor(0.5 ** np.arange(len(levels)), dtype=torch.float32).to(device),
            torch.tensor(sizes - 1, dtype=torch.int32).to(device),
        )

    def sample(self, a: Tensor, b: Tensor, texel: float, footprint: Tensor) -> Tensor:
        """Noise (N,) at positions a, b (metres), from the mip level that fits the footprint; texel: metres of the
        finest level."""
        # the exponent of a float is its rounded-down log2; reading it takes a fiftieth of the time of log2
        exponent = ((footprint * (1.4142135 / texel)).view(torch.int32) >> 23) - 127
        level = exponent.clamp(0, len(self.scale) - 1)
        zoom = self.scale.index_select(0, level) * (1.0 / texel)
        mask = self.mask.index_select(0, level)
        column = torch.floor(a * zoom).to(torch.int32) & mask
        row = torch.floor(b * zoom).to(torch.int32) & mask
        return self.texels.index_select(0, torch.addcmul(self.offset.index_select(0, level), row, mask + 1) + column)


def _stretched(small: np.ndarray, factor: int) -> np.ndarray:
    """A tiling grid, enlarged bilinearly by `factor`."""
    if factor == 1:
        return small
    at = (np.arange(len(small) * factor) + 0.5) / factor - 0.5
    low = np.floor(at).astype(int)
    part = at - low
    first, second = low % len(small), (low + 1) % len(small)
    rows = small[first] * (1 - part)[:, None] + small[second] * part[:, None]
    return rows[:, first] * (1 - part) + rows[:, second] * part


def stripes(x: Tensor, width: Tensor, start: Tensor | float, duty: Tensor | float) -> Tensor:
    """Share (N,) of [x - width / 2, x + width / 2] covered by the stripes [n + start, n + start + duty) for whole n."""
    width = width.clamp(min=1e-4)
    high, low = x + 0.5 * width, x - 0.5 * width
    whole_high, whole_low = torch.floor(high), torch.floor(low)
    covered = (whole_high - whole_low) * duty
    covered = covered + _at_most((high - whole_high - start).clamp(min=0.0), duty)
    covered = covered - _at_most((low - whole_low - start).clamp(min=0.0), duty)
    return covered / width


def band(x: Tensor, width: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Share (N,) of [x - width / 2, x + width / 2] inside [low, high]."""
    half = 0.5 * width
    inside = _at_most(x + half, high) + _at_most(half - x, -low)
    return torch.clamp(inside / width, 0.0, 1.0)


def _at_most(x: Tensor, limit: Tensor | float) -> Tensor:
    return torch.minimum(x, limit) if isinstance(limit, Tensor) else x.clamp(max=limit)


def cell_hash(a: Tensor, b: Tensor, seed: Tensor | float) -> Tensor:
    """A pseudo-random number in [0, 1) for every cell (a, b) and seed, which are float tensors of whole numbers.

    It uses integer arithmetic, so that CPU and GPU give equal bits.
    """
    mixed = a.to(torch.int32) * 73856093 ^ b.to(torch.int32) * 19349663
    mixed = mixed ^ (torch.as_tensor(seed, device=a.device).to(torch.int32) * 83492791)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).float() * (1.0 / 65536.0)


def blend(below: Tensor, above: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * below + share * above for colours (3, N) or (3, 1) and share (N,)."""
    return below + (above - below) * share
