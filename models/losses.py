"""What training asks of the network: cameras over the refinement rounds, depth and points with their confidence.

Source: Scal3R's outer loop, which takes VGGT's losses (arXiv 2503.11651, section 3.4). Every function returns a
scalar float32 tensor, the mean over what counts. Targets are in the frame of the chunk's reference camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.pose_encoding import rotation_from_quaternion

_ROUND_DECAY = 0.6  # earlier refinement rounds count less (VGGT)
_HUBER = 0.01  # pose errors below it (half a degree of half an angle) are squared
_LINE = math.log(4.0)  # relative errors of depth grow in a line beyond
_CONFIDENCE_SHARE = 0.2  # alpha of VGGT's confidence term


def camera_loss(
    rounds: Sequence[Tensor], target: Tensor, *, rotation_weight: float = 1.0, fov_weight: float = 0.5
) -> Tensor:
    """Huber loss on pose encodings (B, S, 9) of every refinement round against target (B, S, 9), the last one most."""
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
    """L1 on the motion between frames one, two and four apart, from pose encodings (B, S, 9).

    order: each frame's place in time. The absolute loss shares one error among all frames of a chunk; what a
    trajectory is made of is the motion from frame to frame, and this asks for it. Zero for single frames.
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
    # an untrained head may say almost zero: keep the division harmless
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True).clamp_min(1e-3)
    rotation, translation = rotation_from_quaternion(quaternion + 1e-8), encoding[..., :3]
    relative = rotation[:, second] @ rotation[:, first].transpose(-2, -1)
    return relative, translation[:, second] - (relative @ translation[:, first, :, None])[..., 0]


def depth_loss(
    depth: Tensor, confidence: Tensor, target: Tensor, valid: Tensor, *, gradient_weight: float = 0.5
) -> Tensor:
    """Confidence-weighted L1 and gradient loss of z-depth, relative to the truth.

    depth, confidence (>= 1), target (N, H, W) positive where valid (N, H, W). An error is the logarithm of
    said over true where too little is said, the relative error (said - true) / true where too much: what a
    drive is judged by. At an edge that cannot be resolved the near side is then preferred. Beyond four times
    the truth it goes on in a line. Pixels without truth (sky) are asked for the lowest confidence.
    """
    return _confident(_depth_error(depth, target)[..., None], confidence, valid, gradient_weight)


def plain_depth_loss(depth: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The same error, every pixel alike: with a confidence the network may give up what is hard, edges above all.

    depth, target, valid (N, H, W).
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
    """Confidence-weighted L1 and gradient loss of points (N, H, W, 3), relative to their distance where above 1."""
    scale = target.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return _confident((points.float() - target) / scale, confidence, valid, gradient_weight)


def _confident(error: Tensor, confidence: Tensor, valid: Tensor, gradient_weight: float) -> Tensor:
    """error (N, H, W, C), confidence and valid (N, H, W)."""
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
