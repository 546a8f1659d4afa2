"""Encoders of single frames into patch tokens: a DINOv2 vision transformer, or a few convolutions.

They see one frame at a time, so a frame that two chunks share needs to be encoded only once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block import Block, LayerNorm
from models.config import ENCODER_DEPTH, ENCODER_HEAD_WIDTH, ENCODER_WIDTH, STEM_CELL, ModelConfig
from models.mixed_precision import Prepared

_ENCODER_LAYER_SCALE = 1.0  # initial LayerScale of DINOv2; published weights overwrite it
_ENCODER_NORM_EPS = 1e-6
_STEM_CHANNELS = 32


class PatchProjection(nn.Module):
    """One token per patch, by a convolution whose stride is its size, computed as one matrix product."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """images (S, 3, H, W), normalised -> tokens (S, patches, width), row by row."""
        weight, side = self.proj.weight, self.proj.kernel_size[0]
        rows, cols = images.shape[2] // side, images.shape[3] // side
        cells = images[:, :, : rows * side, : cols * side].unflatten(3, (cols, side)).unflatten(2, (rows, side))
        patches = cells.permute(0, 2, 4, 1, 3, 5).reshape(len(images), rows * cols, weight[0].numel())
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """DINOv2 with four registers (arXiv 2304.07193, 2309.16588). Returns the normalised patch tokens."""

    def __init__(self, width: int, depth: int, image_size: int, patch_size: int, registers: int = 4) -> None:
        super().__init__()
        side = image_size // patch_size
        self.side = side
        self.patch_embed = PatchProjection(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # unused; it is in the published weights
        self.blocks = nn.ModuleList(
            Block(width, width // ENCODER_HEAD_WIDTH, norm_eps=_ENCODER_NORM_EPS, layer_scale=_ENCODER_LAYER_SCALE)
            for _ in range(depth)
        )
        self.norm = LayerNorm(width, eps=_ENCODER_NORM_EPS)
        self._position = Prepared()
        for tensor in (self.cls_token, self.pos_embed, self.register_tokens):
            nn.init.trunc_normal_(tensor, std=0.02)

    def position(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Position embedding of the class token (1, 1, width) and of a grid (1, rows * cols, width).

        It is resized again only if the grid or the weights change.
        """
        cls, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if grid != (self.side, self.side):
            (patches,) = self._position.get((self.pos_embed,), grid, lambda: (self._resized(grid),))
        return cls, patches

    def _resized(self, grid: tuple[int, int]) -> Tensor:
        patches = self.pos_embed[:, 1:]
        square = patches.float().unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
        return resized.flatten(2).transpose(1, 2).to(patches.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """images (S, 3, H, W), normalised -> patch tokens (S, patches, width)."""
        patch = self.patch_embed.proj.kernel_size[0]
        cls_position, patch_position = self.position((images.shape[2] // patch, images.shape[3] // patch))
        patches = self.patch_embed(images) + patch_position
        count = images.shape[0]
        cls = (self.cls_token + cls_position).expand(count, -1, -1)
        x = torch.cat([cls, self.register_tokens.expand(count, -1, -1), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1 + self.register_tokens.shape[1] :]


class ConvStem(nn.Module):
    """A few convolutions, for small networks. To each token, the normalised fine features of its cells are appended."""

    def __init__(self, patch_size: int, width: int, fine_channels: int) -> None:
        super().__init__()
        self.cells = patch_size // STEM_CELL
        self.fine_channels = fine_channels
        self.first = nn.Conv2d(3, _STEM_CHANNELS, 7, stride=STEM_CELL, padding=3)
        self.second = nn.Conv2d(_STEM_CHANNELS, _STEM_CHANNELS, 3, padding=1)
        self.patches = nn.Conv2d(_STEM_CHANNELS, width, self.cells, stride=self.cells)
        self.fine = nn.Conv2d(_STEM_CHANNELS, fine_channels, 1) if fine_channels else None

    def forward(self, images: Tensor) -> Tensor:
        """images (S, 3, H, W), normalised -> (S, patches, width + cells^2 * fine_channels), row by row."""
        x = F.gelu(self.first(images.to(self.first.weight.dtype)))
        x = x + F.gelu(self.second(x))
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.fine is None:
            return tokens
        fine = F.normalize(self.fine(x).float(), dim=1).to(tokens.dtype)  # (S, channels, H / 4, W / 4)
        s, channels, height, width = fine.shape
        cells = fine.view(s, channels, height // self.cells, self.cells, width // self.cells, self.cells)
        return torch.cat([tokens, cells.permute(0, 2, 4, 3, 5, 1).reshape(s, tokens.shape[1], -1)], dim=-1)


def make_encoder(config: ModelConfig) -> nn.Module:
    """The encoder that a configuration names."""
    if config.encoder == "conv":
        return PatchProjection(config.patch_size, config.embed_dim)
    if config.encoder == "conv_stem":
        channels = config.motion_channels if config.motion_radius else 0
        return ConvStem(config.patch_size, config.embed_dim, channels)
    name = config.encoder
    return VisionTransformer(ENCODER_WIDTH[name], ENCODER_DEPTH[name], config.image_size, config.patch_size)
