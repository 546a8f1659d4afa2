"""Converts pose encodings to cameras and back, and depth to points. OpenCV axes, pixel centres at +0.5."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_FIELD_OF_VIEW = (math.radians(0.01), math.radians(179.99))


def rotation_from_quaternion(xyzw: Tensor) -> Tensor:
    """Quaternions (..., 4), xyzw, any length but zero -> rotation matrices (..., 3, 3)."""
    x, y, z, w = xyzw.unbind(-1)
    two = 2.0 / xyzw.square().sum(-1)
    rows = [
        1 - two * (y * y + z * z),
        two * (x * y - z * w),
        two * (x * z + y * w),
        two * (x * y + z * w),
        1 - two * (x * x + z * z),
        two * (y * z - x * w),
        two * (x * z - y * w),
        two * (y * z + x * w),
        1 - two * (x * x + y * y),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) -> unit quaternions (..., 4), xyzw, w not negative."""
    m = rotation
    m00, m11, m22 = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # four times the same quaternion, multiplied by 4 times one of its components: the best conditioned is taken
    candidates = torch.stack(
        [
            torch.stack(
                [
                    1 + m00 - m11 - m22,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 2, 1] - m[..., 1, 2],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 1] + m[..., 1, 0],
                    1 - m00 + m11 - m22,
                    m[..., 1, 2] + m[..., 2, 1],
                    m[..., 0, 2] - m[..., 2, 0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 - m00 - m11 + m22,
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                    1 + m00 + m11 + m22,
                ],
                -1,
            ),
        ],
        dim=-2,
    )
    best = torch.stack([m00, m11, m22, m00 + m11 + m22], -1).argmax(-1)
    q = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)


def decode_pose(pose_encoding: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pose encodings (..., 9) -> cam_from_world (..., 3, 4) and intrinsics (..., 3, 3) in pixels.

    An encoding is translation 3, quaternion xyzw 4, field of view (vertical, horizontal) 2 in radians.
    f = side / 2 / tan(fov / 2); the principal point is the image's centre (Scal3R, camera head). Fields of view are
    limited to 0.01 to 179.99 degrees, so that the camera is valid for any output of a network.
    """
    rotation = rotation_from_quaternion(pose_encoding[..., 3:7])
    cam_from_world = torch.cat([rotation, pose_encoding[..., :3, None]], dim=-1)
    fov_h, fov_w = pose_encoding[..., 7:9].clamp(*_FIELD_OF_VIEW).unbind(-1)
    zero, one = torch.zeros_like(fov_h), torch.ones_like(fov_h)
    fx, fy = width / 2 / torch.tan(fov_w / 2), height / 2 / torch.tan(fov_h / 2)
    rows = [fx, zero, one * width / 2, zero, fy, one * height / 2, zero, zero, one]
    return cam_from_world, torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def encode_pose(cam_from_world: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """cam_from_world (..., 3, 4) and intrinsics (..., 3, 3) in pixels -> pose encodings (..., 9).

    The principal point is not part of an encoding.
    """
    quaternion = quaternion_from_rotation(cam_from_world[..., :3, :3])
    fov_h = 2 * torch.atan(height / 2 / intrinsics[..., 1, 1])
    fov_w = 2 * torch.atan(width / 2 / intrinsics[..., 0, 0])
    return torch.cat([cam_from_world[..., :3, 3], quaternion, fov_h[..., None], fov_w[..., None]], dim=-1)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """z-depth (..., H, W) and intrinsics (..., 3, 3) -> points in the camera's frame (..., H, W, 3)."""
    height, width = depth.shape[-2:]
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] + 0.5
    u = torch.arange(width, device=depth.device, dtype=depth.dtype)[None, :] + 0.5
    k = intrinsics[..., None, None, :, :]
    x = (u - k[..., 0, 2]) / k[..., 0, 0] * depth
    y = (v - k[..., 1, 2]) / k[..., 1, 1] * depth
    return torch.stack([x, y, depth], dim=-1)
