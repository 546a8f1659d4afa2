"""Features of four layers -> one value map and its confidence at image size (DPT, arXiv 2103.13413)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.block import LayerNorm
from models.config import STEM_CELL, ModelConfig

_GRID_SHARE = 0.1  # factor on the grid embedding where it is added
_GRID_BASE = 100.0
_OUTPUT_CHANNELS = 32
_GRIDS = 32  # embeddings kept on a device; one image size needs five


@lru_cache(maxsize=64)
def grid_embedding(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """Sinusoidal embedding (channels, height, width), float32, of a grid over an image of aspect W / H.

    The image's half diagonal has length one; sines and cosines of u fill the first half of the channels,
    those of v the second. Computed in float64.
    """
    diagonal = (aspect**2 + 1) ** 0.5

    def line(extent: float, count: int) -> Tensor:
        end = extent / diagonal * (count - 1) / count
        return torch.linspace(-end, end, count, dtype=torch.float64)

    quarter = channels // 4
    frequency = _GRID_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def sines(position: Tensor) -> Tensor:
        angle = position[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)  # (count, channels / 2)

    u = sines(line(aspect, width)).T[:, None, :].expand(-1, height, -1)
    v = sines(line(1.0, height)).T[:, :, None].expand(-1, -1, width)
    return torch.cat([u, v]).float()


@lru_cache(maxsize=_GRIDS)
def _scaled_grid(
    channels: int, height: int, width: int, aspect: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The grid embedding times its factor (1, channels, height, width), made once for each device, channels last."""
    with torch.inference_mode(False):
        grid = _GRID_SHARE * grid_embedding(channels, height, width, aspect).to(dtype)
        return grid[None].contiguous(memory_format=torch.channels_last).to(device)


def _project_halves(
    norm: tuple[Tensor, Tensor, float], weight: Tensor, bias: Tensor, frame_half: Tensor, global_half: Tensor
) -> Tensor:
    """LayerNorm over both halves (..., d) of a feature, then a linear map: (..., channels), in the halves' dtype.

    norm: weight (2d,), bias (2d,) and epsilon. Norm and product have the weights' precision.
    """
    feature = torch.cat([frame_half, global_half], dim=-1).to(weight.dtype)
    normed = F.layer_norm(feature, feature.shape[-1:], norm[0], norm[1], norm[2])
    return F.linear(normed, weight, bias).to(frame_half.dtype)


class ResidualUnit(nn.Module):
    """conv(relu(conv(relu(x)))) + relu(x). The published code applies the first relu in place, so it affects the
    sum."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x (S, features, h, w) -> same shape."""
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class FusionBlock(nn.Module):
    """Adds a layer's lateral map to the map from the deeper layers, refines the sum and resizes it."""

    def __init__(self, features: int, deepest: bool) -> None:
        super().__init__()
        self.unit1 = None if deepest else ResidualUnit(features)
        self.unit2 = ResidualUnit(features)
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, deeper: Tensor | None, lateral: Tensor, size: tuple[int, int]) -> Tensor:
        """deeper (S, features, h, w) or None, lateral (S, features, h, w) -> (S, features, *size)."""
        x = lateral if deeper is None or self.unit1 is None else deeper + self.unit1(lateral)
        # the 1x1 convolution commutes with the resize; before the resize it has a quarter of the pixels to process
        return F.interpolate(self.out(self.unit2(x)), size=size, mode="bilinear", align_corners=True)


class DenseHead(nn.Module):
    """Depth (1 value: exp) or points (3 values: inverse log), each with a confidence 1 + exp."""

    def __init__(self, config: ModelConfig, values: int) -> None:
        super().__init__()
        features, channels = config.dense_features, config.dense_channels
        self.patch_size = config.patch_size
        self.project_halves = _project_halves  # may be compiled
        self.norm = LayerNorm(2 * config.embed_dim)
        self.projects = nn.ModuleList(nn.Conv2d(2 * config.embed_dim, c, 1) for c in channels)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, features, 3, padding=1, bias=False) for c in channels)
        self.cells = config.patch_size // STEM_CELL
        self.skip: nn.Conv2d | None = None
        if config.dense_skip:
            self.skip = nn.Conv2d(config.motion_channels, features, 3, padding=1)
            nn.init.zeros_(self.skip.weight)  # has no effect until it is trained
            nn.init.zeros_(self.skip.bias)  # type: ignore[arg-type]
        self.fusion = nn.ModuleList(FusionBlock(features, deepest=i == 3) for i in range(4))
        self.output1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output2 = nn.Sequential(
            nn.Conv2d(features // 2, _OUTPUT_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_OUTPUT_CHANNELS, values + 1, 1),
        )

    def forward(self, features: list[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Four features (S, patches, 2d), shallow first, and with dense_skip the fine ones -> values (S, H, W, values)
        and confidence (S, H, W). grid: rows and columns of patches."""
        projected = [self.project(place, feature) for place, feature in enumerate(features[:4])]
        return self.fuse([*projected, *features[4:]], grid)

    def project(self, place: int, feature: Tensor) -> Tensor:
        """The feature of the dense layer number `place` of four, (..., patches, 2d) -> (..., patches, its channels).

        Patches do not depend on each other, so this can be done as soon as the layer has run; the result is smaller.
        """
        convolution = self.projects[place]
        assert isinstance(convolution, nn.Conv2d)
        return F.linear(self.norm(feature), convolution.weight.flatten(1), convolution.bias)

    def project_early(self, place: int, frame_half: Tensor, global_half: Tensor) -> Tensor:
        """`project` of the two halves of a feature (..., patches, d); the result has their dtype."""
        convolution = self.projects[place]
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        norm = (self.norm.weight, self.norm.bias, self.norm.eps)
        weight = convolution.weight.flatten(1)
        return self.project_halves(norm, weight, convolution.bias, frame_half, global_half)

    def fuse(self, projected: list[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Four projected features (S, patches, channels), and with dense_skip the fine ones -> as `forward`."""
        size = grid[0] * self.patch_size, grid[1] * self.patch_size
        aspect, device, dtype = size[1] / size[0], projected[0].device, projected[0].dtype
        laterals = []
        for feature, resize, lateral in zip(projected[:4], self.resize, self.lateral, strict=True):
            embedding = _scaled_grid(feature.shape[-1], *grid, aspect, device, dtype)
            x = feature.transpose(1, 2).unflatten(2, grid) + embedding  # channels last, like the features
            laterals.append(lateral(resize(x)))
        if self.skip is not None:
            laterals[0] = laterals[0] + self._fine_map(projected[4], grid, laterals[0].shape[-2:])
        y: Tensor | None = None
        for i in (3, 2, 1, 0):
            rows, cols = laterals[i - 1].shape[-2:] if i else (2 * s for s in laterals[0].shape[-2:])
            y = self.fusion[i](y, laterals[i], (rows, cols))
        assert y is not None
        return self.finish(y, _scaled_grid(self.output1.out_channels, *size, aspect, device, dtype))

    def finish(self, fused: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The fused map (S, features, h, w) and the image's grid embedding (1, features / 2, H, W) -> as `forward`."""
        size = (embedding.shape[2], embedding.shape[3])
        y = F.interpolate(self.output1(fused), size=size, mode="bilinear", align_corners=True)
        out = self.output2(y + embedding).permute(0, 2, 3, 1)
        return out[..., :-1], 1 + out[..., -1].exp()

    def _fine_map(self, fine: Tensor, grid: tuple[int, int], size: torch.Size) -> Tensor:
        """Fine features (S, patches, cells^2 * channels) -> a map (S, features, *size)."""
        assert self.skip is not None
        s, cells = fine.shape[0], self.cells
        cells_first = fine.view(s, *grid, cells, cells, -1).permute(0, 5, 1, 3, 2, 4)
        x = self.skip(cells_first.reshape(s, -1, grid[0] * cells, grid[1] * cells))
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def depth_from(values: Tensor) -> Tensor:
    """Head values (S, H, W, 1) -> z-depth (S, H, W)."""
    return values.squeeze(-1).exp()


def points_from(values: Tensor) -> Tensor:
    """Head values (S, H, W, 3) -> points (S, H, W, 3): sign(y) (exp|y| - 1)."""
    return values.sign() * torch.expm1(values.abs())
