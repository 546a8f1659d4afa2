"""The motion of patches between neighbouring frames of a chunk, as an extra input for small networks (not published).

A small network that is trained for an hour does not learn correspondences by itself. It gets the correlation of fine
features with those of the frame before and of the frame after, in a window around each cell (the cost volume of
optical flow networks, FlowNet, arXiv 1504.06852), projected onto the patch tokens.
"""

from __future__ import annotations

from functools import lru_cache
from types import EllipsisType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tokens import time_offsets

_CELL_CHANNELS = 32


class MotionCue(nn.Module):
    """Adds to patch tokens a projection of their correlation with both neighbouring frames.

    It uses the features that `ConvStem` appends to a token: the normalised features of its cells x cells fine cells.
    """

    def __init__(self, width: int, cells: int, channels: int, radius: int) -> None:
        super().__init__()
        self.cells, self.channels, self.radius = cells, channels, radius
        window = (2 * radius + 1) ** 2
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.cell = nn.Linear(2 * window, _CELL_CHANNELS)
        self.merge = nn.Linear(cells * cells * _CELL_CHANNELS, width)

    def forward(self, tokens: Tensor, fine: Tensor, grid: tuple[int, int]) -> Tensor:
        """tokens (B, S, patches, width), reference frame first; fine (B, S, patches, cells^2 * channels) ->
        tokens of the same shape."""
        b, s, patches, _ = tokens.shape
        if s == 1:
            return tokens
        rows, cols = grid
        size = (rows * self.cells, cols * self.cells)
        # by row and column of fine cells: (B, S, *size, channels), frames in time order
        cells = fine.view(b, s, rows, cols, self.cells, self.cells, self.channels).permute(0, 1, 2, 4, 3, 5, 6)
        offsets = time_offsets(s)
        order = sorted(range(s), key=offsets.__getitem__)
        in_time, back = _index(tuple(order), tokens.device), _index(tuple(map(order.index, range(s))), tokens.device)
        cells = cells.reshape(b, s, *size, self.channels)[:, in_time]
        to_next, to_previous = correlate((cells[:, :-1] * self.sharpness).to(cells.dtype), cells[:, 1:], self.radius)
        cost = torch.cat(
            [
                F.pad(to_previous, (0, 0, 0, 0, 0, 0, 1, 0)),
                F.pad(to_next, (0, 0, 0, 0, 0, 0, 0, 1)),
            ],
            dim=-1,
        )
        cue = F.gelu(self.cell(cost.to(tokens.dtype)))[:, back]
        cue = cue.view(b, s, rows, self.cells, cols, self.cells, _CELL_CHANNELS).permute(0, 1, 2, 4, 3, 5, 6)
        return tokens + self.merge(cue.reshape(b, s, patches, -1)).to(tokens.dtype)


@lru_cache(maxsize=64)
def _index(places: tuple[int, ...], device: torch.device) -> Tensor:
    """Positions as an index tensor, copied to the device once."""
    with torch.inference_mode(False):
        return torch.tensor(places, device=device)


def correlate(first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Correlation of first (..., H, W, C) with second, and of second with first, (..., H, W, (2 radius + 1)^2) each;
    each product is computed once.

    It has its own autograd function: otherwise the gradient of each slice would be a full array of zeros, which takes
    five times as long on a CPU.
    """
    there, back = _Correlation.apply(first, second, radius)  # type: ignore[no-untyped-call]
    return there, back


class _Context(Protocol):
    """What the forward pass keeps for the backward pass."""

    radius: int
    saved_tensors: tuple[Tensor, Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


_Cells = tuple[EllipsisType, slice, slice, slice]


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, first: Tensor, second: Tensor, radius: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(first, second)
        ctx.radius = radius
        window = (2 * radius + 1) ** 2
        there = first.new_zeros(*first.shape[:-1], window)
        back = torch.zeros_like(there)
        for k, (here, other) in enumerate(_overlaps(radius, *first.shape[-3:-1])):
            product = (first[here] * second[other]).sum(-1)
            there[(*here[:-1], k)] = product
            back[(*other[:-1], window - 1 - k)] = product
        return there, back

    @staticmethod
    def backward(ctx: _Context, grad_there: Tensor, grad_back: Tensor) -> tuple[Tensor, Tensor, None]:
        first, second = ctx.saved_tensors
        grad_first, grad_second = torch.zeros_like(first), torch.zeros_like(second)
        window = grad_there.shape[-1]
        for k, (here, other) in enumerate(_overlaps(ctx.radius, *first.shape[-3:-1])):
            grad = (grad_there[(*here[:-1], k)] + grad_back[(*other[:-1], window - 1 - k)])[..., None]
            grad_first[here].addcmul_(grad, second[other])
            grad_second[other].addcmul_(grad, first[here])
        return grad_first, grad_second, None


def _offsets(radius: int) -> list[tuple[int, int]]:
    side = 2 * radius + 1
    return [(dy, dx) for dy in range(side) for dx in range(side)]


def _overlaps(radius: int, height: int, width: int) -> list[tuple[_Cells, _Cells]]:
    """For every offset, the cells of one image and the cells of the other at this offset, inside both images."""
    pairs = []
    for row, col in _offsets(radius):
        dy, dx = row - radius, col - radius
        here = (..., slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0)), slice(None))
        other = (..., slice(max(dy, 0), height - max(-dy, 0)), slice(max(dx, 0), width - max(-dx, 0)), slice(None))
        pairs.append((here, other))
    return pairs
