"""A street of boxes and a tree, seen by cameras that drive through it: points as a drive publishes them, without
rendering pictures."""

import numpy as np

from pipeline.backend.sim3 import Sim3
from pipeline.fuse.change import Cloud
from pipeline.publish.cameras import Cameras

WIDTH, HEIGHT, FOCAL = 96, 48, 60.0
FINER = 2  # pixels of a drive with pictures, along each axis, for one of those
GROUND, WALL = 1.5, 9.0  # metres: the road below the camera, the wall to the right of it
EAST_NORTH_UP = Sim3(1.0, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3))  # from the street's axes
CAR = ((3.0, 0.1, 18.0), (4.7, 1.45, 22.0))  # lowest and highest corner: right, down, ahead
TREE = (np.array([6.0, -1.0, 14.0]), 1.6)  # centre and radius of its leaves


def cameras(count=20, aside=0.0, start=0.0):
    """Cameras one metre apart along z from `start`, `aside` metres to the right (x)."""
    pose = np.tile(np.eye(4), (count, 1, 1))
    pose[:, 0, 3], pose[:, 2, 3] = aside, start + np.arange(count)
    intrinsics = np.tile([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], (count, 1))
    sizes = np.tile([WIDTH, HEIGHT], (count, 1))
    return Cameras(np.arange(count), pose, intrinsics, sizes, np.zeros(count, bool), None, ("",) * count)


def box_range(eye, ray, low, high):
    """Range along rays (n, 3) to a box; inf where they miss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (np.array(low) - eye) / ray, (np.array(high) - eye) / ray
    near, far = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    return np.where((near < far) & (near > 0), near, np.inf)


def rays(finer=1):
    """Rays (n, 3) of all pixels, with z = 1; of a picture with `finer` times as many pixels along each axis."""
    column, row = np.meshgrid(*[(np.arange(finer * n) + 0.5) / finer for n in (WIDTH, HEIGHT)])
    return np.stack([(column - WIDTH / 2) / FOCAL, (row - HEIGHT / 2) / FOCAL, np.ones_like(row)], -1).reshape(-1, 3)


def depth_along(ray, eye, boxes):
    """z-depth (n,) along rays (n, 3) from `eye` to the road, the wall or a box."""
    with np.errstate(divide="ignore"):
        away = np.where(ray[:, 1] > 0, (GROUND - eye[1]) / ray[:, 1], np.inf)
        away = np.minimum(away, np.where(ray[:, 0] > 0, (WALL - eye[0]) / ray[:, 0], np.inf))
    for low, high in boxes:
        away = np.minimum(away, box_range(eye, ray, low, high))
    return away


def seen(cameras, boxes=lambda frame: (), tree=False, seed=0, noise=0.004):
    """The cloud of a drive, with one point in each cube of 0.1 m.

    boxes: returns the (low, high) corners of boxes at a frame; tree: whether there is one. Where a ray meets the tree
    its depth is random within the tree.
    """
    rng = np.random.default_rng(seed)
    ray = rays()
    points, frames = [], []
    for n, pose in enumerate(cameras.world_from_camera):
        eye = pose[:3, 3]
        away = depth_along(ray, eye, boxes(n))
        if tree:
            middle, radius = TREE
            along = ray @ (middle - eye) / (ray**2).sum(1)
            off = np.linalg.norm(eye + along[:, None] * ray - middle, axis=1)
            leaf = (off < radius) & (rng.random(len(ray)) < 0.8)  # some rays pass between the leaves
            depth = along + rng.normal(0, 0.5 * radius, len(ray)).clip(-radius, radius)
            away = np.where(leaf, np.minimum(away, depth), away)
        away = away * (1 + noise * rng.normal(size=len(away)))
        good = away < 45
        points.append(eye + ray[good] * away[good, None])
        frames.append(np.full(int(good.sum()), n))
    cloud = Cloud(np.concatenate(points).astype(np.float32), np.concatenate(frames), cameras)
    return cloud.thinned(0.1)[0]


class SceneDrive:
    """A drive through the street with images and depth of every camera. boxes: as in `seen`; aside, start: as in
    `cameras`; way: metres along z by which the boxes move from frame to frame, with their texture."""

    def __init__(self, boxes=lambda frame: (), count=20, aside=0.0, start=0.0, way=0.0):
        at = cameras(count, aside, start)
        self.poses = at.world_from_camera
        focal, width, height = FINER * FOCAL, FINER * WIDTH, FINER * HEIGHT
        self.intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        ray = rays(FINER)
        depth = np.stack([depth_along(ray, pose[:3, 3], boxes(n)) for n, pose in enumerate(self.poses)])
        place = self.poses[:, None, :3, 3] + ray * np.where(depth < 45, depth, 0.0)[:, :, None]
        if way:
            behind = np.stack([depth_along(ray, pose[:3, 3], ()) for pose in self.poses])
            place[..., 2] -= np.where(depth < behind, way * np.arange(count)[:, None], 0.0)
        depth = np.where(depth < 45, depth, 0.0)
        self.images = textured(place).reshape(count, height, width, 3)
        self.depth = np.zeros((count, height, width), np.float32)
        sparse = slice(None, None, FINER)  # as many points as in a picture that is not finer
        self.depth[:, sparse, sparse] = depth.reshape(count, height, width)[:, sparse, sparse]


def textured(place):
    """Colours (..., 3) of surfaces at places (..., 3): waves of 0.5 to 2 metres, the same from all sides."""
    rng = np.random.default_rng(9)
    wave = rng.normal(size=(12, 3))
    wave *= (rng.uniform(3, 12, 12) / np.linalg.norm(wave, axis=1))[:, None]
    shade = 128 + 25 * np.sin(place @ wave.T + rng.uniform(0, 6.3, 12)).sum(-1)
    shade = np.clip(shade, 0, 255).astype(np.uint8)
    return np.stack([shade, shade, 255 - shade], -1)
