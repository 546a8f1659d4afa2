"""Two-dimensional rotary positions: tables of cosines and sines, and the rotation itself.

Source: Scal3R / VGGT; RoFormer (arXiv 2104.09864) for one axis. The first half of a head is rotated by the
row, the second by the column.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.mixed_precision import scaled_sum


class RopeTable(NamedTuple):
    """Cosines and sines for P positions, both (P, D), float32.

    sin includes the signs of the rotation: minus for the first element of a pair, plus for the second.
    """

    cos: Tensor
    sin: Tensor


def rope_table(
    grid: tuple[int, int], width: int, specials: int, base: float, device: torch.device | None = None
) -> RopeTable:
    """Tables for `specials` tokens at (0, 0) followed by a grid of patches at (row + 1, col + 1).

    grid: patches (rows, cols). width: D, a multiple of 4. Returns tables (specials + rows * cols, D).
    Raises ValueError if width is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"rotary positions need a width that is a multiple of 4, not {width}")
    rows, cols = grid
    row = torch.arange(rows, device=device).repeat_interleave(cols) + 1
    col = torch.arange(cols, device=device).repeat(rows) + 1
    half = width // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=device) / half  # 2i / h
    frequency = base**-exponent  # (h / 2,)
    angles = []
    for axis in (row, col):
        position = torch.cat([torch.zeros(specials, device=device), axis.float()])
        angle = position[:, None] * frequency  # (P, h / 2)
        angles += [-angle, angle]  # element i pairs with element i + h/2; the cosine ignores the sign
    table = torch.cat(angles, dim=-1)
    return RopeTable(table.cos(), table.sin())


def rotate(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate x (..., L, D) by the table (P, D); same shape and dtype, computed in float32.

    L is P, or frames x P for a sequence of equal grids: the table is broadcast over the frames.
    """
    length, positions = x.shape[-2], len(table.cos)
    if length != positions:
        x = x.unflatten(-2, (-1, positions))
    partner = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)  # halves of each half exchanged: (b, a) for (a, b)
    out = scaled_sum(x * table.cos, partner, table.sin)
    return out if length == positions else out.flatten(-3, -2)
