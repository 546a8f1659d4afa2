"""Converts between pixels of the source image and of the network's grid, which is the centre of the resized image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """How a source image becomes the network's grid: grid = source * scale - offset, for x and y, with pixel centres
    at +0.5. width, height: of the grid in pixels."""

    width: int
    height: int
    scale: tuple[float, float]
    offset: tuple[float, float]

    @staticmethod
    def of(source: tuple[int, int], net: tuple[int, int]) -> Grid:
        """The grid of images of size `source` for a network of size `net`, both (width, height) in pixels."""
        factor = max(net[0] / source[0], net[1] / source[1])
        resized = [max(round(size * factor), least) for size, least in zip(source, net, strict=True)]
        scale = (resized[0] / source[0], resized[1] / source[1])
        return Grid(net[0], net[1], scale, ((resized[0] - net[0]) // 2, (resized[1] - net[1]) // 2))

    def from_source(self, xy: Array) -> Array:
        """Source pixels (n, 2) -> grid pixels (n, 2)."""
        return np.asarray(xy * self.scale - self.offset)

    def camera_to_source(self, intrinsics: Array) -> Array:
        """Intrinsics (n, 3, 3) in grid pixels -> (n, 4): fx fy cx cy in source pixels."""
        focal = intrinsics[:, [0, 1], [0, 1]] / self.scale
        centre = (intrinsics[:, [0, 1], [2, 2]] + self.offset) / self.scale
        return np.concatenate([focal, centre], 1)

    def camera_from_source(self, camera: Array) -> Array:
        """Camera (4,), fx fy cx cy in source pixels -> intrinsics (3, 3) in grid pixels."""
        focal, centre = camera[:2] * self.scale, camera[2:] * self.scale - np.array(self.offset)
        return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1.0]])

    def hidden(self, maps: NDArray[np.float32], frame: NDArray[np.int64], xy: Array) -> NDArray[np.bool_]:
        """Whether (n,) maps (F, h, w) are NaN at source pixels xy (n, 2) of frames (n,); False outside the grid."""
        at = np.floor(self.from_source(xy)).astype(np.int64)
        inside = ((at >= 0) & (at < np.array([self.width, self.height]))).all(1)
        at = np.clip(at, 0, np.array([self.width, self.height]) - 1)
        return np.asarray(inside & np.isnan(maps[frame, at[:, 1], at[:, 0]]))

    def sample(self, maps: NDArray[np.float32], frame: NDArray[np.int64], xy: Array) -> Array:
        """Bilinear values (n,) of maps (F, h, w) at source pixels xy (n, 2) of frames (n,); NaN outside the grid."""
        at = self.from_source(xy) - 0.5
        inside = ((at > -0.5) & (at < np.array([self.width, self.height]) - 0.5)).all(1)
        at = np.clip(at, 0, np.array([self.width, self.height]) - 1.0)
        low = np.minimum(at.astype(np.int64), np.maximum(np.array([self.width, self.height]) - 2, 0))
        part = at - low
        right, below = np.minimum(low[:, 0] + 1, self.width - 1), np.minimum(low[:, 1] + 1, self.height - 1)
        top = maps[frame, low[:, 1], low[:, 0]] * (1 - part[:, 0]) + maps[frame, low[:, 1], right] * part[:, 0]
        bottom = maps[frame, below, low[:, 0]] * (1 - part[:, 0]) + maps[frame, below, right] * part[:, 0]
        return np.where(inside, top * (1 - part[:, 1]) + bottom * part[:, 1], np.nan)
