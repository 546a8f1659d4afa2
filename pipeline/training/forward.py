"""The network over groups of chunks, differentiably: `Reconstructor.forward_drive` for training.

Same parts in the same order; chunks of equal length are stacked, several groups (drives) may be side by side, and
the sum over a group may go on over other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.dense_head import depth_from, points_from
from models.fast_weights import FastWeights
from models.reconstructor import MemoryScope, Reconstructor

GroupSum = Callable[[Tensor], Tensor]
"""Sums a tensor (groups, ...) over the processes that share these groups, differentiably."""


def alone(step: Tensor) -> Tensor:
    """The sum over a group that lives in this process only."""
    return step


@dataclass(frozen=True)
class Outputs:
    """What a batch of B chunks of S frames gave. rounds: pose encodings (B, S, 9) of every refinement round.

    Of the frames `dense_frames` of every chunk, chunk after chunk (N = B x len(dense_frames)): depth and its
    confidence (N, H, W), points (N, H, W, 3) and their confidence or None. tokens (B, S, patches, 2d): the last
    dense layer's features; camera (B, S, 2d): the camera tokens' features; both for auxiliary losses.
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
    """images (B, S, 3, H, W) in [0, 1], reference first, every `group` chunks of one drive.

    group_sum: sums a step over the processes of a group (pipeline.training.group_sync). dense_frames: frames of
    each chunk the dense heads look at, None for all. Raises ValueError where B is no multiple of `group`.
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
