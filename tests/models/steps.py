"""A memory's step from its plain start weights, for tests."""

from __future__ import annotations

from torch import Tensor

from models.fast_weights import FastWeights, gradient_step, side_by_side


def step_at(weights: FastWeights, k: Tensor, v: Tensor, rates: Tensor) -> FastWeights:
    """`gradient_step` at start weights that are not prepared yet. Shapes as there."""
    return gradient_step(side_by_side(weights, k.dtype), k, v, rates)
