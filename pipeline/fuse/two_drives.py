"""Whether frames of two drives show the same place, and their relative pose, by features and geometry.

SIFT features (Lowe 2004) of both pictures are matched in both directions with the ratio test. The drives' own points
give depths to the features. Perspective-n-Point in RANSAC (SQPnP, Terzakis and Lourakis 2020) gives rotation and
translation in the first drive's units; features with depths in both drives give the ratio of the units. No network is
needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.backend.sim3 import Sim3, cross_matrix, nearest_rotation

Array = NDArray[np.float64]

VERIFIER = 3
"""Version of the comparison. Increase it when the comparison changes: verdicts of other versions are not used."""

_RATIO = 0.8  # largest ratio of the distances to the best and to the second best match
_LARGEST = 3000  # most features of a picture
_NEAR_PX = 4.0  # pixels: a feature has the depth of the points that appear nearer to it than this
_SPREAD = 0.1  # half the range of log depths, from the nearest point on, that count as the same surface
_INSIDE_PX = 3.0  # pixels: largest reprojection error of a match that agrees
_LEAST_DEPTHS = 6  # matches that agree and have depths in both drives, for the scale
_LEAST_EXTENT = 0.15  # share of the picture's width over which they must be spread
_LARGEST_SCALE = 0.25  # largest robust deviation of the log ratio of depths
# Factors of a link's deviations, because the errors of its depths are not independent; and of its place, whose errors
# in two rendered cities were half of the deviations so estimated (median of 370 links: 0.2 to 0.5 of them).
_ALIKE, _PLACE = 2.0, 0.5
# Least deviations: radians; of the place, as a share of the median depth, and of the distance between both cameras,
# which has the error of the depths; log scale. The last one is large, because depths are longer or shorter than the
# steps of their drive by one or two percent, and equally so in all links of a drive.
_FLOOR_TURN, _FLOOR_PLACE, _FLOOR_AWAY, _FLOOR_SCALE = 0.001, 0.001, 0.025, 0.05


@dataclass(frozen=True)
class Needed:
    """How many matches must agree on one relative pose: `least`, as a `share` of all matches; or `few` with
    `few_share`, because other light changes most features."""

    least: int
    share: float
    few: int
    few_share: float

    def met(self, count: int, total: int) -> bool:
        """Whether `count` of `total` matches are enough."""
        share = count / max(total, 1)
        return (count >= self.least and share >= self.share) or (count >= self.few and share >= self.few_share)

    def __str__(self) -> str:
        return f"{self.least} and {self.share:.0%} of them are needed, or {self.few} and {self.few_share:.0%}"


ALONE = Needed(25, 0.25, 12, 0.6)
"""Where nothing else shows that the frames see the same place."""


@dataclass(frozen=True, eq=False)
class Look:
    """The features of a frame. width: of the picture; pixel (n, 2); ray (n, 3): with z = 1; descriptor (n, 128): unit
    vectors; depth (n,): in drive units, NaN where the drive has no points there; focal: pixels."""

    width: int
    pixel: Array
    ray: Array
    descriptor: NDArray[np.float32]
    depth: Array
    focal: float


@dataclass(frozen=True, eq=False)
class SeenTogether:
    """The relative pose of two frames. second_from_first, covariance (7, 7): as in pipeline.fuse.Link; matches: number
    that agree; share: of all matches."""

    second_from_first: Sim3
    covariance: Array
    matches: int
    share: float


def look_at(grey: NDArray[np.uint8], intrinsics: Array, points: Array) -> Look:
    """Features of a grey picture (h, w) of a pinhole camera, intrinsics (4,): fx fy cx cy in pixels. Their depths are
    those of `points` (m, 3) in the camera's axes, drive units."""
    make = cv2.SIFT_create  # type: ignore[attr-defined]  # OpenCV's stubs lack it
    found = make(nfeatures=_LARGEST).detectAndCompute(grey, None)
    width = grey.shape[1]
    if found[1] is None or len(found[0]) < 2:
        nothing = np.zeros((0, 2))
        return Look(width, nothing, np.zeros((0, 3)), np.zeros((0, 128), np.float32), np.zeros(0), float(intrinsics[0]))
    pixel = np.array([one.pt for one in found[0]]) + 0.5
    ray = np.concatenate([(pixel - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixel), 1))], 1)
    return Look(width, pixel, ray, root_sift(found[1]), depth_at(pixel, points, intrinsics), float(intrinsics[0]))


def root_sift(descriptor: NDArray[np.float32]) -> NDArray[np.float32]:
    """SIFT descriptors (n, 128) as unit vectors whose products compare histograms (Arandjelovic and Zisserman 2012)."""
    descriptor = np.asarray(descriptor, np.float32)
    return np.sqrt(descriptor / np.maximum(descriptor.sum(1, keepdims=True), 1e-9))


def depth_at(pixel: Array, points: Array, intrinsics: Array) -> Array:
    """Depth (n,) of the nearest surface at pixels (n, 2) of a pinhole camera, NaN where fewer than two points are near.
    points (m, 3): in the camera's axes."""
    front = points[points[:, 2] > 1e-9]
    answer = np.full(len(pixel), np.nan)
    if not len(front):
        return answer
    seen = front[:, :2] / front[:, 2:] * intrinsics[:2] + intrinsics[2:]
    for n, near in enumerate(cKDTree(seen).query_ball_point(pixel, _NEAR_PX)):
        if len(near) >= 2:
            logs = np.log(front[near, 2])
            logs = logs[logs < logs.min() + 2 * _SPREAD]  # points behind the nearest surface are hidden
            answer[n] = np.exp(np.median(logs))
    return answer


def seen_together(first: Look, second: Look, needed: Needed = ALONE) -> SeenTogether | str:
    """The relative pose of two cameras; a reason, in words, if the pictures do not show the same place well enough.
    needed: how many matches must agree."""
    i, j = matches(first.descriptor, second.descriptor)
    has = np.isfinite(first.depth[i])
    if has.sum() < needed.few:
        return f"{int(has.sum())} features match in both pictures and have a depth, {needed.few} are needed"
    i, j = i[has], j[has]
    place = first.ray[i] * first.depth[i][:, None]
    size = float(np.median(first.depth[i]))
    cv2.setRNGSeed(0)
    good, turn, shift, inside = cv2.solvePnPRansac(
        place / size,
        np.ascontiguousarray(second.ray[j, :2]),
        np.eye(3),
        None,
        iterationsCount=500,
        reprojectionError=_INSIDE_PX / second.focal,
        confidence=0.999,
        flags=cv2.SOLVEPNP_SQPNP,
    )
    count = 0 if not good or inside is None else len(inside)
    share = count / len(i)
    if not needed.met(count, len(i)):
        return f"{count} of {len(i)} matched features agree on one relative pose ({needed})"
    kept = inside.ravel()
    extent = float(np.ptp(second.pixel[j[kept], 0])) / second.width
    if extent < _LEAST_EXTENT:
        return f"features that agree cover only {extent:.0%} of the picture's width: they may be on a single object"
    turn, shift = cv2.solvePnPRefineLM(
        place[kept] / size, np.ascontiguousarray(second.ray[j[kept], :2]), np.eye(3), None, turn, shift
    )
    rotation = nearest_rotation(cv2.Rodrigues(turn)[0])
    moved = place[kept] @ rotation.T + shift.ravel() * size
    both = np.isfinite(second.depth[j[kept]]) & (moved[:, 2] > 0)
    if both.sum() < min(_LEAST_DEPTHS, needed.few // 2):
        return f"only {int(both.sum())} features that agree have a depth in both drives: the scale is unknown"
    logs = np.log(second.depth[j[kept]][both] / moved[both, 2])
    scale = float(np.exp(np.median(logs)))
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    if spread > _LARGEST_SCALE:
        return f"the ratio of both drives' depths varies by {spread:.0%} from feature to feature"
    relative = Sim3(scale, rotation, scale * shift.ravel() * size)
    pixels = (moved[:, :2] / moved[:, 2:] - second.ray[j[kept], :2]) * second.focal
    away = float(np.linalg.norm(relative.translation))
    covariance = _covariance(scale * moved, pixels, second.focal, spread / np.sqrt(both.sum()), away)
    return SeenTogether(relative, covariance, count, share)


def matches(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of descriptors that are each other's best match and pass the ratio test."""
    if len(first) < 2 or len(second) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    alike = first @ second.T
    best = alike.argmax(1)
    row = np.arange(len(first))
    top = alike[row, best]
    alike[row, best] = -1.0
    rival = alike.max(1)
    alike[row, best] = top
    mutual = alike.argmax(0)[best] == row
    # The squared distance of unit vectors is 2 - 2 cosine.
    clear = (2 - 2 * top) < _RATIO**2 * (2 - 2 * rival)
    kept = np.nonzero(mutual & clear)[0]
    return kept, best[kept]


def _covariance(place: Array, pixels: Array, focal: float, scale_deviation: float, away: float) -> Array:
    """Covariance (7, 7) of rotation, translation (second drive's units) and log scale, from matches at `place` (m, 3)
    in the second camera's axes and their residuals `pixels` (m, 2); away: distance between both cameras."""
    x, y, z = place.T
    project = np.zeros((len(place), 2, 3))
    project[:, 0, 0] = project[:, 1, 1] = focal / z
    project[:, 0, 2], project[:, 1, 2] = -focal * x / z**2, -focal * y / z**2
    jacobian = np.concatenate([-project @ cross_matrix(place), project], 2)
    noise = max(1.4826 * float(np.median(np.abs(pixels))), 0.5)
    information = np.einsum("nki,nkj->ij", jacobian, jacobian) / (noise * _ALIKE) ** 2
    depth = float(np.median(z))
    covariance = np.zeros((7, 7))
    covariance[:6, :6] = np.linalg.inv(information + 1e-12 * np.trace(information) * np.eye(6))
    covariance[3:6] *= _PLACE
    covariance[:, 3:6] *= _PLACE
    covariance[6, 6] = (_ALIKE * scale_deviation) ** 2
    least = float(np.hypot(_FLOOR_PLACE * depth, _FLOOR_AWAY * away))
    covariance += np.diag(np.array([_FLOOR_TURN] * 3 + [least] * 3 + [_FLOOR_SCALE]) ** 2)
    return (covariance + covariance.T) / 2
