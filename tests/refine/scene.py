"""A street of points and a camera that drives through it: tracks with known noise, and a window of a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.rotation import exp
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window

Array = NDArray[np.float64]

SOURCE, NET = (640, 320), (64, 32)
CAMERA = np.array([400.0, 400.0, 320.0, 160.0])


@dataclass(frozen=True, eq=False)
class Scene:
    """world_from_camera (F, 4, 4); tracks through it; the network's grid."""

    world_from_camera: Array
    tracks: Tracks
    grid: Grid

    def window(self, turn: float = 0.0, shift: float = 0.0, seed: int = 1) -> Window:
        """A network's window: errors of poses with deviations of `turn` radians and `shift` times the step's length;
        depth of a flat scene."""
        rng = np.random.default_rng(seed)
        count = len(self.world_from_camera)
        steps = inverse(self.world_from_camera[1:]) @ self.world_from_camera[:-1]
        poses = [np.eye(4)]
        for step in steps:
            off = np.eye(4)
            off[:3, :3] = exp(rng.normal(0, turn, (1, 3)))[0]
            off[:3, 3] = rng.normal(0, shift, 3) * np.linalg.norm(step[:3, 3])
            poses.append(off @ step @ poses[-1])
        depth = np.full((count, NET[1], NET[0]), 12.0, np.float32)
        intrinsics = np.tile(self.grid.camera_from_source(CAMERA), (count, 1, 1))
        rgb = np.zeros((count, NET[1], NET[0], 3), np.uint8)
        return Window(
            np.arange(count), np.stack(poses), intrinsics, depth, np.ones_like(depth), rgb, np.ones(count, np.bool_)
        )


def drive(
    frames: int = 16, noise: float = 0.3, seed: int = 0, points: int = 900, bend: float = 1.0, step: float = 1.0
) -> Scene:
    """A drive along a slight curve, about a metre a frame, between two rows of points; noise of tracks in pixels. bend:
    factor of the curve, 0 for a straight drive; step: usual length of a step."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    heading = bend * np.cumsum(rng.normal(0, 0.004, frames) + 0.01)
    poses[:, :3, :3] = exp(np.stack([0 * heading, heading, 0.2 * heading], 1))
    forward = poses[:, :3, 2]
    poses[1:, :3, 3] = np.cumsum(step * forward[:-1] * rng.uniform(0.8, 1.2, (frames - 1, 1)), axis=0)
    cloud = np.stack(
        [
            rng.uniform(2, 9, points) * rng.choice([-1, 1], points),
            rng.uniform(-4, 1.6, points),
            rng.uniform(4, frames + 40, points),
        ],
        1,
    )
    rows = []
    for frame, pose in enumerate(inverse(poses)):
        local = cloud @ pose[:3, :3].T + pose[:3, 3]
        z = np.maximum(local[:, 2], 1e-9)
        xy = CAMERA[:2] * local[:, :2] / z[:, None] + CAMERA[2:] + rng.normal(0, noise, (points, 2))
        seen = (local[:, 2] > 1) & (local[:, 2] < 40) & (xy > 0).all(1) & (xy < SOURCE).all(1)
        rows.append((np.flatnonzero(seen), np.full(int(seen.sum()), frame), xy[seen]))
    track, frame_of, xy = (np.concatenate(part) for part in zip(*rows, strict=True))
    return Scene(poses, Tracks.sorted(track, frame_of, xy), Grid.of(SOURCE, NET))


def turned_apart(one: Array, other: Array) -> float:
    """Root mean square difference of the relative rotations of two trajectories (F, 4, 4), radians."""
    relative = [inverse(p[:-1]) @ p[1:] for p in (one, other)]
    difference = inverse(relative[0])[:, :3, :3] @ relative[1][:, :3, :3]
    cosine = np.clip((np.trace(difference, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return float(np.sqrt((np.arccos(cosine) ** 2).mean()))
