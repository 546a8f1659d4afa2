"""Similarity transforms x -> scale * rotation @ x + translation, checked when they are made; rotation functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Largest error of a matrix that still counts as a rounded rotation (float32 rounding is about 1e-6).
_ROTATION_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Sim3:
    """One similarity transform. Variables name its direction: `b_from_a.apply(points_in_a)`.

    scale: above zero; rotation: (3, 3) proper rotation; translation: (3,) in units of the target. All float64; a
    rounded rotation (float32) is made orthonormal. Raises ValueError for numbers that are not finite, a scale not above
    zero or a matrix that is not a rotation.
    """

    scale: float
    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        rotation = np.asarray(self.rotation, np.float64)
        translation = np.asarray(self.translation, np.float64)
        scale = float(self.scale)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ValueError(f"Sim3 needs (3, 3) and (3,), got {rotation.shape} and {translation.shape}")
        if not (np.isfinite(scale) and np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise ValueError("Sim3 needs finite numbers")
        if scale <= 0:
            raise ValueError(f"Sim3 needs a scale above zero, got {scale}")
        off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if off > _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError(f"Sim3 needs a proper rotation, this matrix is off by {off:.2g}")
        rotation = nearest_rotation(rotation)
        translation = translation.copy()
        rotation.flags.writeable = False
        translation.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @staticmethod
    def identity() -> Sim3:
        """The transform that changes nothing."""
        return Sim3(1.0, np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: Array) -> Sim3:
        """From a (4, 4) matrix [[scale * rotation, translation], [0, 0, 0, 1]]. Raises ValueError for any other."""
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape != (4, 4):
            raise ValueError(f"expected a (4, 4) matrix, got {matrix.shape}")
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        if not np.isfinite(scale) or scale <= 0:
            raise ValueError("the matrix is no similarity transform: its determinant is not above zero")
        return Sim3(scale, matrix[:3, :3] / scale, matrix[:3, 3])

    def __matmul__(self, other: Sim3) -> Sim3:
        """c_from_a = c_from_b @ b_from_a."""
        return Sim3(self.scale * other.scale, self.rotation @ other.rotation, self.apply(other.translation))

    def inverse(self) -> Sim3:
        """a_from_b of b_from_a."""
        return Sim3(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.translation) / self.scale)

    def apply(self, points: Array) -> Array:
        """Points (..., 3) of the source frame, in the target frame."""
        return self.scale * (np.asarray(points, np.float64) @ self.rotation.T) + self.translation

    def matrix(self) -> Array:
        """(4, 4): [[scale * rotation, translation], [0, 0, 0, 1]]."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    def transform_pose(self, chunk_from_camera: Array) -> Array:
        """Camera poses (..., 4, 4) in the target frame: rotations stay orthonormal, translations are scaled.

        If `self` is world_from_chunk, this gives world_from_camera. To get depth in the target's units, multiply it by
        `scale` (Scal3R, "Joining chunks").
        """
        poses = np.asarray(chunk_from_camera, np.float64)
        moved = poses.copy()
        moved[..., :3, :3] = self.rotation @ poses[..., :3, :3]
        moved[..., :3, 3] = self.apply(poses[..., :3, 3])
        return moved


def nearest_rotation(matrices: Array) -> Array:
    """The proper rotations (..., 3, 3) nearest to `matrices` in the Frobenius norm."""
    u, _, vt = np.linalg.svd(np.asarray(matrices, np.float64))
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return np.asarray(u @ vt)


def rotation_exp(vectors: Array) -> Array:
    """Rotation vectors (..., 3) in radians -> rotations (..., 3, 3), by Rodrigues' formula."""
    vectors = np.asarray(vectors, np.float64)
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    small = angle < 1e-6
    safe = np.where(small, 1.0, angle)
    sine = np.where(small, 1 - angle**2 / 6, np.sin(safe) / safe)
    versine = np.where(small, 0.5 - angle**2 / 24, (1 - np.cos(safe)) / safe**2)
    cross = cross_matrix(vectors)
    return np.asarray(np.eye(3) + sine * cross + versine * (cross @ cross))


def rotation_log(rotations: Array) -> Array:
    """Rotations (..., 3, 3) -> rotation vectors (..., 3) of length at most pi, in radians."""
    rotations = np.asarray(rotations, np.float64)
    m = rotations
    # By quaternion, which is accurate near zero and near pi (Shepperd 1978: divide by the largest component).
    candidates = np.stack(
        [
            np.stack(
                [
                    1 + m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2],
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + m[..., 0, 0] - m[..., 1, 1] - m[..., 2, 2],
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 0, 1] + m[..., 1, 0],
                    1 - m[..., 0, 0] + m[..., 1, 1] - m[..., 2, 2],
                    m[..., 1, 2] + m[..., 2, 1],
                ],
                -1,
            ),
            np.stack(
                [
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 - m[..., 0, 0] - m[..., 1, 1] + m[..., 2, 2],
                ],
                -1,
            ),
        ],
        -2,
    )
    best = np.argmax(np.diagonal(candidates, axis1=-2, axis2=-1), -1)
    quaternion = np.take_along_axis(candidates, best[..., None, None], -2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    quaternion = np.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = np.linalg.norm(quaternion[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, quaternion[..., :1])
    factor = np.where(sine < 1e-9, 2.0, angle / np.where(sine < 1e-9, 1.0, sine))
    return np.asarray(quaternion[..., 1:] * factor)


def cross_matrix(vectors: Array) -> Array:
    """(..., 3) -> (..., 3, 3) with cross_matrix(a) @ b = a x b."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    zero = np.zeros_like(x)
    rows = [zero, -z, y, z, zero, -x, -y, x, zero]
    return np.stack(rows, -1).reshape(*vectors.shape[:-1], 3, 3)


def rotate_rows(matrices: Array, vectors: Array) -> Array:
    """(n, 3, 3) times (n, 3), row by row."""
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])


def cross_rows(a: Array, b: Array) -> Array:
    """(n, 3) cross (n, 3), row by row; np.cross takes five times as long."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def fit_similarity(source: Array, target: Array, weight: Array | None = None, *, with_scale: bool = True) -> Sim3:
    """The Sim(3) (or SE(3)) that takes `source` (n, 3) to `target` (n, 3) with least weighted squares.

    Rotation and translation after Umeyama 1991. The scale is the symmetric one of Horn 1987, the ratio of the spreads:
    Umeyama's is too small if `source` is noisy, which over a chain of 150 chunks turned an error of 16 m into 48 m. For
    points on one line, the rotation about this line is arbitrary. Raises ValueError for fewer than three points,
    weights that sum to zero, or points that are all in one place.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    weight = np.ones(len(source)) if weight is None else np.asarray(weight, np.float64)
    total = float(weight.sum())
    if len(source) < 3 or not np.isfinite(total) or total <= 0:
        raise ValueError(f"a similarity needs three weighted points, got {len(source)} of weight {total:g}")
    share = (weight / total)[:, None]
    source_mean, target_mean = (share * source).sum(0), (share * target).sum(0)
    source_local, target_local = source - source_mean, target - target_mean
    spread_source = float((share * source_local**2).sum())
    spread_target = float((share * target_local**2).sum())
    tiny = 1e-24 * max(1.0, float((source_mean**2).sum()))
    if not (spread_source > tiny and spread_target > tiny):
        raise ValueError("a similarity needs points in different places, but all are in one place")
    u, _, vt = np.linalg.svd((share * target_local).T @ source_local)
    sign = np.array([1.0, 1.0, 1.0 if np.linalg.det(u @ vt) > 0 else -1.0])
    rotation = (u * sign) @ vt
    scale = float(np.sqrt(spread_target / spread_source)) if with_scale else 1.0
    return Sim3(scale, rotation, target_mean - scale * rotation @ source_mean)
