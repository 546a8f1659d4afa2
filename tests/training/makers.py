"""Small drives for the training tests: a textured wall seen by a moving camera, and a network to match."""

from __future__ import annotations

import numpy as np

from models import ModelConfig
from pipeline.training.data import Frames

SMALL = ModelConfig(
    embed_dim=32,
    depth=4,
    num_heads=2,
    encoder="conv_stem",
    image_size=32,
    patch_size=8,
    memory_layers=(1, 2),
    dense_layers=(0, 1, 2, 3),
    dense_features=8,
    dense_channels=(8, 8, 8, 8),
    camera_trunk_depth=1,
    camera_heads=2,
    memory_hidden_ratio=2,
    register_tokens=1,
    layer_scale=1.0,
    frame_order=True,
    motion_radius=1,
    motion_channels=4,
)


def wall_drive(seed: int, frames: int = 8, height: int = 16, width: int = 32) -> Frames:
    """A camera that moves and rotates a little in front of a textured wall at z = 10 m."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    angle = np.cumsum(rng.normal(0, 0.03, frames))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    poses[:, :3, 3] = np.cumsum(rng.normal((0.1, 0, 0.3), 0.05, (frames, 3)), axis=0)
    k = np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]])
    v, u = np.mgrid[0:height, 0:width] + 0.5
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1)
    world = rays @ np.swapaxes(poses[:, None, :3, :3], -1, -2)
    depth = (10.0 - poses[:, 2, 3])[:, None, None] / world[..., 2]
    points = poses[:, None, None, :3, 3] + depth[..., None] * world
    waves = rng.uniform(0.3, 2.0, (3, 2))
    colour = 0.5 + 0.5 * np.sin(2 * points[..., :2] @ waves.T)
    return Frames((255 * colour).astype(np.uint8), depth.astype(np.float32), poses, np.tile(k, (frames, 1, 1)))


class WallClip:
    """A wall drive as a clip."""

    def __init__(self, seed: int, frames: int = 12) -> None:
        self.frames = wall_drive(seed, frames)

    def __len__(self) -> int:
        return len(self.frames.images)

    def read(self, frames) -> Frames:
        """These frames."""
        chosen = list(frames)
        f = self.frames
        return Frames(f.images[chosen], f.depth[chosen], f.world_from_camera[chosen], f.intrinsics[chosen])


class WallSource:
    """A few wall drives of one clip each."""

    def __init__(self, drives: int = 3) -> None:
        self._drives = [[WallClip(seed)] for seed in range(drives)]

    def drives(self):
        """The drives."""
        return self._drives
