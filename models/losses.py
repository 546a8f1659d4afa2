"""Losses of training: cameras of all refinement rounds, depth and points with their confidence.

Source: Scal3R's outer loop, which uses VGGT's losses (arXiv 2503.11651, section 3.4). Every function returns a scalar
float32 tensor, a mean. Targets are in the coordinates of the chunk's reference camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.pose_encoding import rotation_from_quaternion

_ROUND_DECAY = 0.6  # factor on the weight of each earlier refinement round (VGGT)
_HUBER = 0.01  # pose errors below it are squared; in a quaternion it is about one degree
_LINE = math.log(4.0)  # above this log ratio, the error of depth grows linearly
_CONFIDENCE_SHARE = 0.2  # alpha of VGGT's confidence term


def camera_loss(
    rounds: Sequence[Tensor], target: Tensor, *, rotation_weight: float = 1.0, fov_weight: float = 0.5
) -> Tensor:
    """Huber loss on pose encodings (B, S, 9) of all refinement rounds against target (B, S, 9); later rounds weigh
    more."""
    weight = torch.ones(9, device=target.device)
    weight[3:7], weight[7:] = rotation_weight, fov_weight
    total = target.new_zeros(())
    for age, estimate in enumerate(reversed(rounds)):
        error = F.huber_loss(estimate.float(), target, reduction="none", delta=_HUBER) / _HUBER
        total = total + _ROUND_DECAY**age * (error * weight).mean()
    return total / sum(_ROUND_DECAY**age for age in range(len(rounds)))


def relative_pose_loss(
    estimate: Tensor,
    target: Tensor,
    order: Sequence[int],
    *,
    rotation_weight: float = 10.0,
    translation_weight: float = 20.0,
) -> Tensor:
    """L1 loss on the motion between frames that are one, two and four frames apart, from pose encodings (B, S, 9).

    order: the frames' positions in time. The camera loss distributes an error over all frames of a chunk; this loss
    penalises errors of the motion between frames, of which trajectories consist. Zero for single frames.
    """
    count = estimate.shape[1]
    in_time = sorted(range(count), key=order.__getitem__)
    total = estimate.new_zeros(())
    terms = 0
    for gap in (1, 2, 4):
        if count > gap:
            first, second = in_time[:-gap], in_time[gap:]
            rotation, translation = _motion(estimate.float(), first, second)
            true_rotation, true_translation = _motion(target, first, second)
            total = total + rotation_weight * (rotation - true_rotation).abs().mean()
            total = total + translation_weight * (translation - true_translation).abs().mean()
            terms += 1
    return total / max(terms, 1)


def _motion(encoding: Tensor, first: list[int], second: list[int]) -> tuple[Tensor, Tensor]:
    """second_from_first: rotations (B, P, 3, 3) and translations (B, P, 3)."""
    quaternion = encoding[..., 3:7]
    # an untrained head may give almost zero: the clamp avoids a huge quotient
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    rotation, translation = rotation_from_quaternion(quaternion + 1e-8), encoding[..., :3]
    relative = rotation[:, second] @ rotation[:, first].transpose(-2, -1)
    return relative, translation[:, second] - (relative @ translation[:, first, :, None])[..., 0]


def depth_loss(
    depth: Tensor, confidence: Tensor, target: Tensor, valid: Tensor, *, gradient_weight: float = 0.5
) -> Tensor:
    """Confidence-weighted L1 and gradient loss of z-depth, relative to the truth.

    depth, confidence (>= 1), target (N, H, W), positive where valid (N, H, W). The error of a pixel is log(depth /
    target) if the depth is too small, and (depth - target) / target, the measure of the benchmarks, if it is too large.
    Beyond four times the truth it grows linearly in the logarithm. At an edge that cannot be resolved, this prefers the
    near side. Pixels without truth (sky) are trained to have the lowest confidence.
    """
    return _confident(_depth_error(depth, target)[..., None], confidence, valid, gradient_weight)


def plain_depth_loss(depth: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The error of `depth_loss` with the same weight for every pixel. With confidences alone, the network may learn to
    give up pixels that are hard to predict, such as edges. depth, target, valid (N, H, W).
    """
    error = torch.where(valid, _depth_error(depth, target).abs(), torch.zeros((), device=depth.device))
    return error.sum() / valid.sum().clamp_min(1)


def _depth_error(depth: Tensor, target: Tensor) -> Tensor:
    logarithm = depth.float().clamp_min(1e-6).log() - target.clamp_min(1e-6).log()
    near = logarithm.clamp(0.0, _LINE)
    beyond = (logarithm - _LINE).clamp_min(0.0) * math.exp(_LINE)
    return torch.where(logarithm > 0, torch.expm1(near) + beyond, logarithm)


def point_loss(
    points: Tensor, confidence: Tensor, target: Tensor, valid: Tensor, *, gradient_weight: float = 0.5
) -> Tensor:
    """Confidence-weighted L1 and gradient loss of points (N, H, W, 3), relative to their distance if this is above
    1."""
    scale = target.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return _confident((points.float() - target) / scale, confidence, valid, gradient_weight)


def _confident(error: Tensor, confidence: Tensor, valid: Tensor, gradient_weight: float) -> Tensor:
    """VGGT's loss with confidence: error (N, H, W, C), confidence and valid (N, H, W)."""
    mask = valid.float()
    count = mask.sum().clamp_min(1.0)
    error = torch.where(valid[..., None], error, torch.zeros((), device=error.device))
    confidence = confidence.float()
    data = (confidence * error.abs().mean(-1) - _CONFIDENCE_SHARE * confidence.log()) * mask
    loss = data.sum() / count
    for dim in (1, 2):
        size = error.shape[dim]
        both = valid.narrow(dim, 1, size - 1) & valid.narrow(dim, 0, size - 1)
        step = error.narrow(dim, 1, size - 1) - error.narrow(dim, 0, size - 1)
        loss = loss + gradient_weight * (step.abs().mean(-1) * both).sum() / both.sum().clamp_min(1)
    if not bool(valid.all()):
        nowhere = 1 - mask
        loss = loss + 0.1 * (confidence.log() * nowhere).sum() / nowhere.sum().clamp_min(1.0)
    return loss
