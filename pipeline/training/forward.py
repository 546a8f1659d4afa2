"""The differentiable forward pass over groups of chunks: `Reconstructor.forward_drive` for training.

It runs the same parts in the same order. Chunks of equal length are stacked, a batch may have several groups (drives),
and the sum over a group may include chunks of other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import MemoryScope
from models.dense_head import depth_from, points_from
from models.fast_weights import FastWeights
from models.reconstructor import Reconstructor

GroupSum = Callable[[Tensor], Tensor]
"""Sums a tensor (groups, ...) over the processes that share these groups, differentiably."""


def alone(step: Tensor) -> Tensor:
    """The sum over a group whose chunks are all in this process: the step itself."""
    return step


@dataclass(frozen=True)
class Outputs:
    """The network's outputs for a batch of B chunks of S frames. rounds: pose encodings (B, S, 9) of every round.

    For the frames `dense_frames` of every chunk, chunk after chunk (N = B x len(dense_frames)): depth and its
    confidence (N, H, W); points (N, H, W, 3) and their confidence (N, H, W), or None. For auxiliary losses: tokens
    (B, S, patches, 2d), the last dense layer's features, and camera (B, S, 2d), the camera tokens' features.
    """

    rounds: list[Tensor]
    dense_frames: list[int]
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None
    points_confidence: Tensor | None
    tokens: Tensor
    camera: Tensor


def forward_groups(
    model: Reconstructor,
    images: Tensor,
    group: int,
    *,
    memory_scope: MemoryScope = "drive",
    group_sum: GroupSum = alone,
    dense_frames: list[int] | None = None,
    with_points: bool = True,
    orthogonalise_dtype: torch.dtype = torch.float32,
) -> Outputs:
    """images (B, S, 3, H, W) in [0, 1], reference frame first, each `group` consecutive chunks of one drive -> outputs.

    group_sum: sums a step over the processes of a group (pipeline.training.group_sync). dense_frames: the frames of
    each chunk for which the dense heads run, None: all. orthogonalise_dtype: of Newton-Schulz. Raises ValueError if B
    is not a multiple of `group`.
    """
    b, s = images.shape[:2]
    if b % group:
        raise ValueError(f"{b} chunks do not split into groups of {group}")
    aggregator, config = model.aggregator, model.config
    grid = model.grid_of(images)
    tokens = aggregator.encode(images.flatten(0, 1)).unflatten(0, (b, s))
    state = model.begin(tokens, grid)
    for segment in range(len(config.segments)):
        state = aggregator.run_segment(state)
        weights: FastWeights | None = None
        if memory_scope != "off":
            step = aggregator.memory_step(state)
            if step is not None:
                if memory_scope == "drive":
                    step = step.map(lambda g: group_sum(g.unflatten(0, (-1, group)).sum(1)))
                weights = aggregator.memory_update(segment, step, orthogonalise_dtype)
                if memory_scope == "drive" and b > group:
                    weights = weights.map(lambda w: w.repeat_interleave(group, 0))
        state = aggregator.finish_segment(state, weights)
    assert state.camera is not None
    rounds = model.camera_head.all_rounds(state.camera)
    chosen = list(range(s)) if dense_frames is None else dense_frames
    features = [state.features[layer][:, chosen].flatten(0, 1) for layer in config.dense_inputs]
    depth, depth_confidence = model.depth_head(features, grid)
    points = points_confidence = None
    if with_points:
        points, points_confidence = model.point_head(features, grid)
        points = points_from(points.float())
    return Outputs(
        rounds,
        chosen,
        depth_from(depth.float()),
        depth_confidence,
        points,
        points_confidence,
        state.features[config.dense_layers[-1]],
        state.camera,
    )
