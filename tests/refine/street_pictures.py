"""Pictures of a street with walls and a road of random texture, as the cameras of `rig_scene` see it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.rotation import exp
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window
from tests.refine.rig_scene import CAMERAS, RIG, RigScene
from tests.refine.scene import CAMERA, SOURCE

Array = NDArray[np.float64]

NET = (320, 160)
GRID = Grid.of(SOURCE, NET)
_WALL, _ROAD, _END = 6.0, 1.6, 60.0  # metres: to both sides, below, and ahead of the beginning
_FINE = 20  # pixels of the texture in a metre


def street_drive(instants: int, swing: float, noise: float = 0.2) -> RigScene:
    """A level drive at a metre an instant along walls, with bends of `swing` radians; tracks of corners on them."""
    rng = np.random.default_rng(0)
    world = np.tile(np.eye(4), (instants, 1, 1))
    heading = swing * np.sin(np.arange(instants) / 4)
    world[:, :3, :3] = exp(np.stack([0 * heading, heading, 0 * heading], 1))
    world[1:, :3, 3] = np.cumsum(world[:-1, :3, 2] * rng.uniform(0.8, 1.2, (instants - 1, 1)), axis=0)
    count = 900
    side = np.stack([_WALL * rng.choice([-1, 1], count), rng.uniform(-4, _ROAD, count)], 1)
    road = np.stack([rng.uniform(-_WALL, _WALL, count), np.full(count, _ROAD)], 1)
    across = np.where(rng.random(count)[:, None] < 0.75, side, road)
    cloud = np.concatenate([across, rng.uniform(-2, instants + 25, (count, 1))], 1)
    rows = []
    for instant, pose in enumerate(world):
        for camera in range(CAMERAS):
            local = (cloud - (pose @ RIG[camera])[:3, 3]) @ (pose @ RIG[camera])[:3, :3]
            z = np.maximum(local[:, 2], 1e-9)
            xy = CAMERA[:2] * local[:, :2] / z[:, None] + CAMERA[2:] + rng.normal(0, noise, (count, 2))
            number = np.flatnonzero((local[:, 2] > 1) & (local[:, 2] < 30) & (xy > 0).all(1) & (xy < SOURCE).all(1))
            rows.append((number * CAMERAS + camera, np.full(len(number), instant * CAMERAS + camera), xy[number]))
    track, frame, xy = (np.concatenate(part) for part in zip(*rows, strict=True))
    return RigScene(world, Tracks.sorted(track, frame, xy), GRID)


def seen_window(scene: RigScene, turn: float = 0.02, shift: float = 0.1, unit: float = 1.0) -> Window:
    """The network's window of a drive, with its pictures."""
    rng = np.random.default_rng(1)
    true = (scene.world_from_rig[:, None] @ RIG[None]).reshape(-1, 4, 4)
    count = len(true)
    poses = inverse(true) @ true[:1]
    poses[1:, :3, :3] = exp(rng.normal(0, turn, (count - 1, 3))) @ poses[1:, :3, :3]
    poses[1:, :3, 3] += rng.normal(0, shift, (count - 1, 3))
    poses[:, :3, 3] *= unit
    depth = np.full((count, NET[1], NET[0]), 8.0 * unit, np.float32)
    intrinsics = np.tile(GRID.camera_from_source(CAMERA), (count, 1, 1))
    return Window(
        np.arange(count), poses, intrinsics, depth, np.ones_like(depth), _pictures(true), np.ones(count, np.bool_)
    )


def black(window: Window) -> Window:
    """The window with black pictures."""
    return replace(window, rgb=np.zeros_like(window.rgb))


def _pictures(world_from_camera: Array) -> NDArray[np.uint8]:
    rng = np.random.default_rng(2)
    textures = []
    for _ in range(4):
        fine = cv2.GaussianBlur(rng.normal(0, 1, (1024, 1024)), (0, 0), 2.5, borderType=cv2.BORDER_REFLECT)
        textures.append((128 + 45 * fine / fine.std()).clip(0, 255).astype(np.float32))
    matrix = GRID.camera_from_source(CAMERA)
    x, y = np.meshgrid(np.arange(NET[0]) + 0.5, np.arange(NET[1]) + 0.5)
    ray = np.stack([(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], np.ones_like(x)], -1)
    pictures = []
    for pose in world_from_camera:
        way, centre = ray @ pose[:3, :3].T, pose[:3, 3]
        with np.errstate(divide="ignore"):
            far = np.stack(
                [(at - centre[axis]) / way[..., axis] for axis, at in ((0, -_WALL), (0, _WALL), (1, _ROAD), (2, _END))]
            )
        far = np.where(far > 0, far, np.inf)
        surface, nearest = far.argmin(0), far.min(0)
        point = centre + np.where(np.isfinite(nearest), nearest, 0.0)[..., None] * way
        picture = np.full(x.shape, 200, np.float32)  # sky
        for number, (u, v) in enumerate(((2, 1), (2, 1), (0, 2), (0, 1))):
            at = ((point[..., [u, v]] * _FINE) % 1022).astype(np.float32)
            seen = cv2.remap(textures[number], at, None, cv2.INTER_LINEAR)
            picture = np.where((surface == number) & np.isfinite(nearest) & (point[..., 1] > -8), seen, picture)
        pictures.append(np.repeat(picture.astype(np.uint8)[..., None], 3, 2))
    return np.stack(pictures)
