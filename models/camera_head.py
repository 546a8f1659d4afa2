"""Camera token -> pose encoding, refined over a few rounds (VGGT's camera head)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block import Block, LayerNorm, Mlp
from models.config import ModelConfig

_MODULATION_EPS = 1e-6
POSE_SIZE = 9


class CameraHead(nn.Module):
    """A small trunk over the frames of a chunk, run in `camera_rounds` rounds, each modulated by the estimate so
    far."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = 2 * config.embed_dim
        self.rounds = config.camera_rounds
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, width)
        self.modulation = nn.Linear(width, 3 * width)
        self.token_norm = LayerNorm(width)
        self.trunk = nn.ModuleList(
            Block(width, config.camera_heads, config.mlp_ratio, layer_scale=config.layer_scale)
            for _ in range(config.camera_trunk_depth)
        )
        self.trunk_norm = LayerNorm(width)
        self.pose_branch = Mlp(width, config.embed_dim, POSE_SIZE)

    def all_rounds(self, camera: Tensor) -> list[Tensor]:
        """camera (B, S, 2d) -> the activated pose encodings (B, S, 9) of every round; the last is the result."""
        b, s, width = camera.shape
        token = self.token_norm(camera)
        estimate = self.empty_pose_tokens.expand(b, s, -1)
        activated = []
        for round_number in range(self.rounds):
            shift, scale, gate = self.modulation(F.silu(self.embed_pose(estimate))).chunk(3, dim=-1)
            normed = F.layer_norm(token, (width,), eps=_MODULATION_EPS)
            x = gate * (normed * (1 + scale) + shift) + token
            for block in self.trunk:
                x = block(x)
            change = self.pose_branch(self.trunk_norm(x))
            estimate = change if round_number == 0 else estimate + change
            activated.append(torch.cat([estimate[..., :7], F.relu(estimate[..., 7:])], dim=-1))
        return activated

    def forward(self, camera: Tensor) -> Tensor:
        """camera (B, S, 2d) -> pose encodings (B, S, 9) of the last round."""
        return self.all_rounds(camera)[-1]
