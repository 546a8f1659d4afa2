"""A street of points and a car with three cameras that drives through it: tracks of each camera, and a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, logm

from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse
from pipeline.refine.rotation import exp
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window
from tests.refine.scene import CAMERA, NET, SOURCE

Array = NDArray[np.float64]

CAMERAS = 3


def _pose(degrees: float, place: tuple[float, float, float]) -> Array:
    pose = np.eye(4)
    pose[:3, :3] = exp(np.radians([[0.0, degrees, 0.0]]))[0]
    pose[:3, 3] = place
    return pose


RIG = np.stack([np.eye(4), _pose(-55, (-0.6, 0.1, -0.4)), _pose(55, (0.6, 0.0, -0.4))])
"""rig_from_camera (3, 4, 4), metres."""
UNKNOWN = np.concatenate([RIG[:1], np.full((2, 4, 4), np.nan)])


@dataclass(frozen=True, eq=False)
class RigScene:
    """world_from_rig (I, 4, 4), metres; tracks with frames numbered camera + 3 * instant; the network's grid;
    world_from_late (I, 3, 4, 4): poses of the cameras, where they are not all at the times of the instants."""

    world_from_rig: Array
    tracks: Tracks
    grid: Grid
    world_from_late: Array | None = None

    @property
    def world_from_camera(self) -> Array:
        """Poses of all frames (I * 3, 4, 4), metres."""
        poses = self.world_from_rig[:, None] @ RIG[None] if self.world_from_late is None else self.world_from_late
        return poses.reshape(-1, 4, 4)

    def window(self, turn: float = 0.1, shift: float = 0.5, unit: float = 1.0, seed: int = 1) -> Window:
        """A network's window in units of 1 / unit metres. Each camera's poses have errors of their own, with deviations
        of `turn` radians and `shift` metres; depth is that of a flat scene."""
        rng = np.random.default_rng(seed)
        poses = inverse(self.world_from_camera)
        count = len(poses)
        poses = poses @ inverse(poses[:1])[0]
        poses[1:, :3, :3] = exp(rng.normal(0, turn, (count - 1, 3))) @ poses[1:, :3, :3]
        poses[1:, :3, 3] += rng.normal(0, shift, (count - 1, 3))
        poses[:, :3, 3] *= unit
        depth = np.full((count, NET[1], NET[0]), 10.0 * unit, np.float32)
        return Window(
            np.arange(count),
            poses,
            np.tile(self.grid.camera_from_source(CAMERA), (count, 1, 1)),
            depth,
            np.ones_like(depth),
            np.zeros((count, NET[1], NET[0], 3), np.uint8),
            np.ones(count, np.bool_),
        )

    def without(self, camera: int, instants: range) -> Tracks:
        """The tracks where a camera sees nothing for a stretch; those that reach over it go on."""
        rows = self.tracks
        gone = (rows.frame % CAMERAS == camera) & np.isin(rows.frame // CAMERAS, instants)
        return rows.select(~gone)


def rig_drive(
    instants: int = 20,
    noise: float = 0.3,
    seed: int = 0,
    points: int = 1200,
    step: float = 1.0,
    swing: float = 0.5,
    late: tuple[float, ...] = (),
) -> RigScene:
    """A drive through two bends of `swing` radians, about a metre an instant (step), with points around it; noise of
    tracks in pixels; late (3,): steps by which the cameras' pictures are later than the instants."""
    rng = np.random.default_rng(seed)
    instants += 2 if late else 0  # the first and the last one are cut, so that the car is somewhere at all times
    heading = swing * np.sin(np.arange(instants) / 6)
    wobble = rng.normal(0, 0.02 * swing, (2, instants))
    world = np.tile(np.eye(4), (instants, 1, 1))
    world[:, :3, :3] = exp(np.stack([wobble[0], heading, wobble[1]], 1))
    speed = rng.uniform(0.8, 1.2, (instants - 1, 1))
    if (
        late
    ):  # a car does not brake by a third within a step, and late pictures at the ends would be far from all others
        speed = 1 + 0.2 * np.sin(np.arange(instants - 1) / 3)[:, None]
    world[1:, :3, 3] = np.cumsum(step * world[:-1, :3, 2] * speed, axis=0)
    along = rng.uniform(-10, instants + 30, points)
    cloud = np.stack([rng.uniform(3, 14, points) * rng.choice([-1, 1], points), rng.uniform(-5, 1.6, points), along], 1)
    rows = []
    poses = (_at_times(world, late) if late else world[:, None]) @ RIG[None]
    world = world[1:-1] if late else world
    for instant in range(len(world)):
        for camera in range(CAMERAS):
            to_camera = inverse(poses[instant, camera][None])[0]
            local = cloud @ to_camera[:3, :3].T + to_camera[:3, 3]
            z = np.maximum(local[:, 2], 1e-9)
            xy = CAMERA[:2] * local[:, :2] / z[:, None] + CAMERA[2:] + rng.normal(0, noise, (points, 2))
            seen = (local[:, 2] > 1) & (local[:, 2] < 40) & (xy > 0).all(1) & (xy < SOURCE).all(1)
            number = np.flatnonzero(seen)
            rows.append((number * CAMERAS + camera, np.full(len(number), instant * CAMERAS + camera), xy[seen]))
    track, frame, xy = (np.concatenate(part) for part in zip(*rows, strict=True))
    return RigScene(world, Tracks.sorted(track, frame, xy), Grid.of(SOURCE, NET), poses if late else None)


def _at_times(world: Array, late: tuple[float, ...]) -> Array:
    """Poses (I - 2, C, 4, 4) of a car, some time after each of its inner instants."""
    answer = np.empty((len(world) - 2, len(late), 4, 4))
    for number, (before, now, after) in enumerate(zip(world, world[1:], world[2:], strict=False)):
        for camera, time in enumerate(late):
            step = logm(np.linalg.inv(now) @ (after if time > 0 else before)).real
            answer[number, camera] = now @ expm(abs(time) * step)
    return answer


def error_of(cam_from_window: Array, scene: RigScene) -> tuple[float, float]:
    """Of the reference camera: error of position (RMS) in metres after a similarity transform, and of the rotation
    between instants (RMS) in radians. cam_from_window (I * 3, 4, 4)."""
    found = inverse(cam_from_window)[::CAMERAS]
    steps, true = (inverse(one[:-1]) @ one[1:] for one in (found, scene.world_from_rig))
    turned = inverse(steps)[:, :3, :3] @ true[:, :3, :3]
    cosine = np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1)
    a, b = (one[:, :3, 3] - one[:, :3, 3].mean(0) for one in (found, scene.world_from_rig))
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * sign).sum() / (a**2).sum()
    off = scale * a @ (u @ np.diag(sign) @ vt).T - b
    return float(np.sqrt((off**2).sum(1).mean())), float(np.sqrt((np.arccos(cosine) ** 2).mean()))
