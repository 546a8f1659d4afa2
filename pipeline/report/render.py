"""Renders points on the CPU: each point is a square, the nearest one is visible, and depth shades the edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3

FloatArray = NDArray[np.float64]

BACKGROUND = (13, 15, 18)
_LARGEST = 9  # largest side of a point in pixels
_NEAR = 1e-3  # least depth, in point sizes; points with less are behind the camera
_SHADE = 1.2  # strength of the shading at edges


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera: world_from_camera (4, 4), OpenCV axes; focal and centre in pixels (fx fy cx cy)."""

    world_from_camera: FloatArray
    intrinsics: tuple[float, float, float, float]
    width: int
    height: int


def look_at(position: FloatArray, target: FloatArray, up: FloatArray) -> FloatArray:
    """world_from_camera (4, 4) of a camera at `position` that looks at `target`, with `up` upwards in its picture."""
    forward = np.asarray(target, np.float64) - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-9:
        raise ValueError("a camera cannot look along its own up")
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], -1)
    pose[:3, 3] = position
    return pose


def render_points(
    xyz: NDArray[np.float32], rgb: NDArray[np.uint8], camera: Camera, size: float, world_from_points: Sim3 | None = None
) -> NDArray[np.uint8]:
    """A picture (height, width, 3) of points (n, 3) with colours (n, 3) as squares of side `size` (world units).

    world_from_points: transforms the points first, to align another result of the same drive.
    """
    to_camera = Sim3.from_matrix(camera.world_from_camera).inverse() @ (world_from_points or Sim3.identity())
    matrix = to_camera.matrix().astype(np.float32)
    x, y, z = (xyz @ matrix[i, :3] + matrix[i, 3] for i in range(3))
    fx, fy, cx, cy = camera.intrinsics
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        u, v = fx * x / z + cx, fy * y / z + cy
    seen = np.flatnonzero(
        (z > _NEAR * size)
        & (u > -_LARGEST)
        & (u < camera.width + _LARGEST)
        & (v > -_LARGEST)
        & (v < camera.height + _LARGEST)
    )
    u, v, z = u[seen], v[seen], z[seen]
    side = np.clip(np.round(size * fx / z), 1, _LARGEST).astype(np.int64)
    # one integer key sorts by depth, then by number: the bits of positive floats sort like their values
    key = (z.astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(len(z), dtype=np.uint64)
    nothing = np.uint64(0xFFFFFFFFFFFFFFFF)
    nearest = np.full(camera.height * camera.width, nothing, np.uint64)
    left, top = np.floor(u - (side - 1) / 2).astype(np.int64), np.floor(v - (side - 1) / 2).astype(np.int64)
    for across in range(int(side.max(initial=0))):
        for down in range(int(side.max())):
            px, py = left + across, top + down
            inside = (side > max(across, down)) & (px >= 0) & (px < camera.width) & (py >= 0) & (py < camera.height)
            np.minimum.at(nearest, py[inside] * camera.width + px[inside], key[inside])
    image = np.tile(np.array(BACKGROUND, np.float32), (len(nearest), 1))
    hit = nearest != nothing
    point = (nearest[hit] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    depth = np.full(len(nearest), np.inf, np.float32)
    depth[hit] = z[point]
    image[hit] = rgb[seen[point]] * _shading(depth.reshape(camera.height, camera.width)).reshape(-1)[hit, None]
    return np.round(image).astype(np.uint8).reshape(camera.height, camera.width, 3)


def _shading(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) in 0 ... 1: darker where a neighbour is nearer (eye-dome lighting, Boucheny 2009)."""
    log = np.where(np.isfinite(depth), np.log(np.maximum(depth, 1e-12)), np.float32(1e3))
    drop = np.zeros_like(log)
    for rows, columns in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        drop += np.clip(log - np.roll(log, (rows, columns), (0, 1)), 0, 0.3)
    return np.asarray(np.exp(-_SHADE * drop), np.float32)
