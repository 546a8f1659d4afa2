"""The loss of a batch: cameras, depth and points, and auxiliary losses that help small networks.

The auxiliary losses, which are not in the paper: motion between frames of a chunk, depth without confidence, and two
linear heads that are used in training only. `FlowHead` predicts flow and points from the last patch tokens, `StepHead`
the motion to the neighbouring frames from each camera token. Their targets come from poses and depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.losses import camera_loss, depth_loss, plain_depth_loss, point_loss, relative_pose_loss
from models.pose_encoding import quaternion_from_rotation, unproject
from pipeline.training.data import Batch
from pipeline.training.forward import Outputs

_CELLS = 2  # FlowHead predicts for _CELLS x _CELLS cells of each patch
_FLOW_UNIT = 1 / 16  # unit of flow, as a share of the image width
_FLOW_LIMIT = 4.0  # larger flows, above a quarter of the width, are not in the loss


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts of the loss. Zero leaves a part out."""

    camera: float = 5.0
    """Pose encodings of all refinement rounds (lambda of the paper)."""
    fov: float = 0.5
    """Weight of the two fields of view inside the camera loss, in which each coordinate of the position has weight 1.
    At 0.5, small networks hardly learn them (a few degrees of error weigh as much as a centimetre)."""
    motion: float = 1.0
    """Motion between the frames of a chunk; auxiliary, not in the paper."""
    depth: float = 1.0
    """Depth with its gradient term."""
    plain_depth: float = 0.0
    """Depth without its confidence, for sharper edges; auxiliary, not in the paper."""
    points: float = 0.0
    """Point map with its gradient term."""
    flow: float = 0.0
    """Flow and coarse points from the training-only FlowHead; auxiliary, not in the paper."""
    steps: float = 0.0
    """Motion to the neighbouring frames from the training-only StepHead; auxiliary, not in the paper."""

    def __post_init__(self) -> None:
        """Raises ValueError for a negative weight."""
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"loss weight {name} must not be negative, got {value}")


class FlowHead(nn.Module):
    """Patch tokens -> for each cell, flow to the previous and the next frame, and its point (training only)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * embed_dim)
        self.out = nn.Linear(2 * embed_dim, _CELLS * _CELLS * 7)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """tokens (B, S, patches, 2d) -> (B, S, rows * cells, cols * cells, 7)."""
        b, s = tokens.shape[:2]
        rows, cols = grid
        out = self.out(self.norm(tokens)).view(b, s, rows, cols, _CELLS, _CELLS, 7)
        return out.permute(0, 1, 2, 4, 3, 5, 6).reshape(b, s, rows * _CELLS, cols * _CELLS, 7)


class StepHead(nn.Module):
    """A frame's camera token -> motion to the previous and the next frame (training only).

    A camera token needs these before the network can learn to sum them up to poses.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * embed_dim)
        self.out = nn.Linear(2 * embed_dim, 12)

    def forward(self, camera: Tensor) -> Tensor:
        """camera (B, S, 2d) -> (B, S, 2, 6): rotation vector and translation to the previous and the next frame."""
        return self.out(self.norm(camera)).unflatten(-1, (2, 6))


class Objective(nn.Module):
    """Outputs and truth -> the loss and its parts. Contains the training-only heads."""

    def __init__(self, embed_dim: int, patch_size: int, weights: LossWeights) -> None:
        super().__init__()
        self.weights = weights
        self.patch_size = patch_size
        self.flow_head = FlowHead(embed_dim) if weights.flow else None
        self.step_head = StepHead(embed_dim) if weights.steps else None

    def forward(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted sum, and each part by name, without weight and gradient."""
        w = self.weights
        chosen = outputs.dense_frames
        depth = batch.depth[:, chosen].flatten(0, 1)
        valid = depth > 0
        parts: dict[str, Tensor] = {}
        if w.camera:
            parts["camera"] = camera_loss(outputs.rounds, batch.pose_encoding, fov_weight=w.fov)
        if w.motion and len(batch.offsets) > 1:
            parts["motion"] = relative_pose_loss(outputs.rounds[-1], batch.pose_encoding, batch.offsets)
        if w.depth:
            parts["depth"] = depth_loss(outputs.depth, outputs.depth_confidence, depth, valid)
        if w.plain_depth:
            parts["plain_depth"] = plain_depth_loss(outputs.depth, depth, valid)
        if w.points and outputs.points is not None and outputs.points_confidence is not None:
            points = points_in_reference(batch, chosen).flatten(0, 1)
            parts["points"] = point_loss(outputs.points, outputs.points_confidence, points, valid)
        if self.flow_head is not None:
            parts["flow"] = self._flow_loss(outputs.tokens, batch)
        if self.step_head is not None and len(batch.offsets) > 1:
            target, known = step_targets(batch)
            error = (self.step_head(outputs.camera).float() - target).abs() * known[..., None]
            parts["steps"] = error.sum() / (known.sum() * 6 * len(target)).clamp_min(1)
        total = sum((getattr(w, name) * part for name, part in parts.items()), start=depth.new_zeros(()))
        return total, {name: part.detach() for name, part in parts.items()}

    def _flow_loss(self, tokens: Tensor, batch: Batch) -> Tensor:
        assert self.flow_head is not None
        height, width = batch.depth.shape[-2:]
        grid = (height // self.patch_size, width // self.patch_size)
        said = self.flow_head(tokens, grid).float()
        target, known = flow_targets(batch, self.patch_size // _CELLS)
        return ((said - target).abs() * known).sum() / known.sum().clamp_min(1)


def step_targets(batch: Batch) -> tuple[Tensor, Tensor]:
    """Motion (B, S, 2, 6) to the previous and the next frame, and which of these exist (1, S, 2).

    Rotation vectors (for small angles) in tenths of a radian, translations in twentieths of the batch's unit.
    """
    s = len(batch.offsets)
    in_time = sorted(range(s), key=batch.offsets.__getitem__)
    place = {frame: i for i, frame in enumerate(in_time)}
    pose = batch.cam_from_reference
    targets, knowns = [], []
    for step in (-1, 1):
        other = [in_time[min(max(place[f] + step, 0), s - 1)] for f in range(s)]
        rotation = pose[:, other, :, :3] @ pose[..., :3].transpose(-2, -1)
        translation = pose[:, other, :, 3] - (rotation @ pose[..., 3:])[..., 0]
        vector = 2 * quaternion_from_rotation(rotation)[..., :3]
        targets.append(torch.cat([10 * vector, 20 * translation], dim=-1))
        knowns.append(torch.tensor([o != f for f, o in enumerate(other)], device=pose.device))
    return torch.stack(targets, dim=2), torch.stack(knowns, dim=-1)[None]


def points_in_reference(batch: Batch, frames: list[int]) -> Tensor:
    """True points (B, len(frames), H, W, 3) in the coordinates of the reference camera."""
    local = unproject(batch.depth[:, frames], batch.intrinsics[:, frames])
    pose = batch.cam_from_reference[:, frames]
    return torch.einsum("bsji,bshwj->bshwi", pose[..., :3], local - pose[:, :, None, None, :, 3])


def flow_targets(batch: Batch, stride: int) -> tuple[Tensor, Tensor]:
    """Targets (B, S, h, w, 7) and which of them are known (same shape): flow to the previous and to the next frame, and
    the point, at the centres of cells.

    stride: side of a cell in pixels. Flow is in sixteenths of the image width; a point is given as its direction from
    the reference camera times log(1 + distance).
    """
    _, s, height, width = batch.depth.shape
    half = stride // 2
    v = torch.arange(half, height, stride, device=batch.depth.device)
    u = torch.arange(half, width, stride, device=batch.depth.device)
    depth = batch.depth[:, :, v][..., u]
    k = batch.intrinsics[:, :, None, None]
    x = (u + 0.5 - k[..., 0, 2]) / k[..., 0, 0] * depth
    y = ((v + 0.5)[:, None] - k[..., 1, 2]) / k[..., 1, 1] * depth
    local = torch.stack([x, y, depth], dim=-1)
    pose = batch.cam_from_reference
    reference = torch.einsum("bsji,bshwj->bshwi", pose[..., :3], local - pose[:, :, None, None, :, 3])
    distance = reference.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    points = reference / distance * torch.log1p(distance)
    in_time = sorted(range(s), key=batch.offsets.__getitem__)
    place = {frame: i for i, frame in enumerate(in_time)}
    pixel = torch.stack([(u + 0.5).expand(len(v), -1), (v + 0.5)[:, None].expand(-1, len(u))], dim=-1)
    flows, knowns = [], []
    for step in (-1, 1):
        other = [in_time[min(max(place[f] + step, 0), s - 1)] for f in range(s)]
        there = torch.einsum("bsij,bshwj->bshwi", pose[:, other, :, :3], reference) + pose[:, other, None, None, :, 3]
        ahead = there[..., 2] > 0.02
        safe = there[..., 2].clamp_min(0.02)
        ku = batch.intrinsics[:, other, None, None]
        seen_u = there[..., 0] / safe * ku[..., 0, 0] + ku[..., 0, 2]
        seen_v = there[..., 1] / safe * ku[..., 1, 1] + ku[..., 1, 2]
        seen = torch.stack([seen_u, seen_v], -1)
        flow = (seen - pixel) / (width * _FLOW_UNIT)
        flows.append(flow)
        has_neighbour = torch.tensor([o != f for f, o in enumerate(other)], device=depth.device)
        knowns.append((depth > 0) & ahead & (flow.abs().amax(-1) < _FLOW_LIMIT) & has_neighbour[:, None, None])
    known = torch.stack([knowns[0], knowns[0], knowns[1], knowns[1], depth > 0, depth > 0, depth > 0], dim=-1)
    return torch.cat([*flows, points], dim=-1), known
