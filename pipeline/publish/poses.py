"""Camera poses as rows: quaternions, gaps filled from their neighbours, intrinsics of the source image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def quaternion_from_rotation(rotation: NDArray[np.floating]) -> Floats:
    """Unit quaternions w x y z with w >= 0, (..., 4), of rotation matrices (..., 3, 3).

    Of four equal formulas (Shepperd 1978) each matrix takes the one that divides by its largest part.
    """
    r = np.asarray(rotation, np.float64)
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    squares = np.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], -1)  # 4 q_i^2
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    products = np.stack(  # 4 q_i q_j
        [
            np.stack([squares[..., 0], wx, wy, wz], -1),
            np.stack([wx, squares[..., 1], xy, xz], -1),
            np.stack([wy, xy, squares[..., 2], yz], -1),
            np.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        -2,
    )
    largest = squares.argmax(-1)
    q = np.take_along_axis(products, largest[..., None, None], -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q) + 0.0  # no -0.0


def rotation_from_quaternion(quaternion: NDArray[np.floating]) -> Floats:
    """Rotation matrices (..., 3, 3) of unit quaternions w x y z (..., 4)."""
    w, x, y, z = np.moveaxis(np.asarray(quaternion, np.float64), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def slerp(first: Floats, second: Floats, share: NDArray[np.floating]) -> Floats:
    """Spherical interpolation at `share` (n,) of the shorter way from `first` to `second`, quaternions (n, 4)."""
    dot = (first * second).sum(-1, keepdims=True)
    second = np.where(dot < 0, -second, second)
    angle = np.arccos(np.clip(np.abs(dot), 0, 1))
    share = np.asarray(share, np.float64)[:, None]
    near = angle < 1e-6  # sin(angle) is too near to 0 for a division; linear interpolation is as good there
    sine = np.where(near, 1.0, np.sin(angle))
    first_weight = np.where(near, 1 - share, np.sin((1 - share) * angle) / sine)
    second_weight = np.where(near, share, np.sin(share * angle) / sine)
    q = first_weight * first + second_weight * second
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def fill_poses(
    world_from_camera: Floats, good: NDArray[np.bool_], times: NDArray[np.int64] | None
) -> tuple[Floats, NDArray[np.int64]]:
    """Poses for all N frames. Between two good poses, rotations are interpolated by slerp and positions linearly;
    before the first and after the last good pose, the nearest one is used.

    world_from_camera (N, 4, 4), used where good (N,); times (N,) ns or None: interpolation is by time where times rise
    from one good neighbour to the other, else by frame number. Returns the poses (N, 4, 4) (NaN where no frame is good)
    and for each frame the good frame nearest by number (N,), -1 where there is none.
    """
    count = len(good)
    known = np.flatnonzero(good)
    poses = np.full((count, 4, 4), np.nan)
    if not len(known):
        return poses, np.full(count, -1, np.int64)
    frames = np.arange(count)
    after = known[np.minimum(np.searchsorted(known, frames), len(known) - 1)]
    before = known[np.maximum(np.searchsorted(known, frames, side="right") - 1, 0)]
    share = (frames - before) / np.maximum(after - before, 1)
    if times is not None:
        t = np.asarray(times, np.int64)
        span = t[after] - t[before]
        within = (t >= t[before]) & (t <= t[after]) & (span > 0)
        share = np.where(within, (t - t[before]) / np.maximum(span, 1), share)
    share = np.where(before == after, 0.0, share)
    nearest = np.where(frames - before <= after - frames, before, after)

    poses[known] = world_from_camera[known]
    gaps = np.flatnonzero(~good)
    if len(gaps):
        q = quaternion_from_rotation(world_from_camera[known][:, :3, :3])
        position = np.searchsorted(known, before[gaps]), np.searchsorted(known, after[gaps])
        poses[gaps, :3, :3] = rotation_from_quaternion(slerp(q[position[0]], q[position[1]], share[gaps]))
        start, stop = world_from_camera[before[gaps], :3, 3], world_from_camera[after[gaps], :3, 3]
        poses[gaps, :3, 3] = start + share[gaps, None] * (stop - start)
        poses[gaps, 3] = (0, 0, 0, 1)
    return poses, nearest


def path_length(positions: Floats) -> float:
    """Length of the path through positions (N, 3), in their unit; rows with NaN are skipped."""
    there = positions[np.isfinite(positions).all(-1)]
    return float(np.linalg.norm(np.diff(there, axis=0), axis=-1).sum())


def source_intrinsics(
    intrinsics: NDArray[np.floating], source_size: tuple[int, int], net_size: tuple[int, int]
) -> Floats:
    """fx fy cx cy (..., 4) in pixels of the source image, from intrinsics (..., 3, 3) in pixels of the network's image.

    Sizes are (width, height). The network's image is the source image, resized to a size in whole pixels and cropped
    about its centre. Because of the rounding to whole pixels, the scales of the two axes differ slightly.
    """
    k = np.asarray(intrinsics, np.float64)
    source, net = np.asarray(source_size, np.float64), np.asarray(net_size, np.float64)
    resized = np.maximum(np.round((net / source).max() * source), net)
    scale, cut = resized / source, (resized - net) // 2
    focal = np.stack([k[..., 0, 0], k[..., 1, 1]], -1) / scale
    centre = (np.stack([k[..., 0, 2], k[..., 1, 2]], -1) + cut) / scale
    return np.concatenate([focal, centre], -1)
