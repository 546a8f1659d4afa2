"""Do two frames of two drives show one place, and how do their cameras stand to each other? Features and geometry.

Lowe's SIFT (2004) on both pictures, matched both ways with the ratio test; the drives' own points give the features of
either picture a depth. Perspective-n-Point inside RANSAC (Lepetit et al. 2009) gives turn and shift in the first
drive's units, depths seen from both sides the ratio of the units. No network.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.backend.sim3 import Sim3, cross_matrix, nearest_rotation

Array = NDArray[np.float64]

VERIFIER = 1
"""Raise it when two pictures may be judged otherwise than before: verdicts of others are made again."""

_RATIO = 0.8  # of the best match's distance to the second best's
_LARGEST = 3000  # features of a picture
_NEAR_PX = 4.0  # a feature takes the depth of points that appear so near to it
_SPREAD = 0.1  # of those points' log depths, beyond which the feature is on an edge
_INSIDE_PX = 3.0  # reprojection error of a match that agrees
_LEAST, _LEAST_SHARE = 25, 0.25  # matches that agree: how many, and of how many
_LEAST_EXTENT = 0.15  # of the picture's width that matches that agree are spread over
_LARGEST_SCALE = 0.25  # spread of the log ratio of depths
_ALIKE = 3.0  # by which a link's deviation is larger than independent matches say: their depths err together
_FLOOR_TURN, _FLOOR_PLACE, _FLOOR_SCALE = 0.002, 0.01, 0.01  # radians, share of the median depth, log


@dataclass(frozen=True, eq=False)
class Look:
    """A frame to be compared. grey (h, w); rays (n, 3) with z = 1 of its features, their pixels (n, 2), descriptors
    (n, 128); depth (n,): drive units, NaN where the drive's points say none; focal: pixels."""

    width: int
    pixel: Array
    ray: Array
    descriptor: NDArray[np.float32]
    depth: Array
    focal: float


@dataclass(frozen=True, eq=False)
class SeenTogether:
    """second_from_first: from the first frame's camera in its drive's units to the second's in its; covariance (7, 7)
    of turn, shift, log scale (as pipeline.fuse.Link); matches: that agree; share: of all."""

    second_from_first: Sim3
    covariance: Array
    matches: int
    share: float


def look_at(grey: NDArray[np.uint8], intrinsics: Array, points: Array) -> Look:
    """Features of a picture (h, w) of a pinhole (fx fy cx cy), with depths from `points` (m, 3) in the camera's
    frame."""
    make = cv2.SIFT_create  # type: ignore[attr-defined]  # OpenCV's stubs lack it
    found = make(nfeatures=_LARGEST).detectAndCompute(grey, None)
    width = grey.shape[1]
    if found[1] is None or len(found[0]) < 2:
        nothing = np.zeros((0, 2))
        return Look(width, nothing, np.zeros((0, 3)), np.zeros((0, 128), np.float32), np.zeros(0), float(intrinsics[0]))
    pixel = np.array([one.pt for one in found[0]]) + 0.5
    ray = np.concatenate([(pixel - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixel), 1))], 1)
    descriptor = np.asarray(found[1], np.float32)
    root = np.sqrt(descriptor / np.maximum(descriptor.sum(1, keepdims=True), 1e-9))  # Arandjelovic 2012
    return Look(width, pixel, ray, root, _depth_at(pixel, points, intrinsics), float(intrinsics[0]))


def _depth_at(pixel: Array, points: Array, intrinsics: Array) -> Array:
    """(n,): the nearest surface's depth at pixels (n, 2)."""
    front = points[points[:, 2] > 1e-9]
    answer = np.full(len(pixel), np.nan)
    if not len(front):
        return answer
    seen = front[:, :2] / front[:, 2:] * intrinsics[:2] + intrinsics[2:]
    for n, near in enumerate(cKDTree(seen).query_ball_point(pixel, _NEAR_PX)):
        if len(near) >= 2:
            logs = np.log(front[near, 2])
            logs = logs[logs < logs.min() + 2 * _SPREAD]  # what lies behind is hidden
            if np.ptp(logs) < 2 * _SPREAD:
                answer[n] = np.exp(np.median(logs))
    return answer


def seen_together(first: Look, second: Look) -> SeenTogether | str:
    """How two cameras stand to each other; a sentence where the pictures do not show one place well enough."""
    i, j = _matches(first.descriptor, second.descriptor)
    has = np.isfinite(first.depth[i])
    if has.sum() < _LEAST:
        return f"{int(has.sum())} features are alike in both pictures and have a depth, {_LEAST} are needed"
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
    if count < _LEAST or share < _LEAST_SHARE:
        return f"{count} of {len(i)} features that are alike agree on one motion ({_LEAST} and a quarter are needed)"
    kept = inside.ravel()
    extent = float(np.ptp(second.pixel[j[kept], 0])) / second.width
    if extent < _LEAST_EXTENT:
        return f"features that agree are spread over {extent:.0%} of the picture: one thing, not a place"
    turn, shift = cv2.solvePnPRefineLM(
        place[kept] / size, np.ascontiguousarray(second.ray[j[kept], :2]), np.eye(3), None, turn, shift
    )
    rotation = nearest_rotation(cv2.Rodrigues(turn)[0])
    moved = place[kept] @ rotation.T + shift.ravel() * size
    both = np.isfinite(second.depth[j[kept]]) & (moved[:, 2] > 0)
    if both.sum() < _LEAST // 2:
        return f"only {int(both.sum())} features that agree have a depth in both drives: the ratio of units is unknown"
    logs = np.log(second.depth[j[kept]][both] / moved[both, 2])
    scale = float(np.exp(np.median(logs)))
    spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    if spread > _LARGEST_SCALE:
        return f"depths of both drives differ by {spread:.0%} from feature to feature"
    relative = Sim3(scale, rotation, scale * shift.ravel() * size)
    pixels = (moved[:, :2] / moved[:, 2:] - second.ray[j[kept], :2]) * second.focal
    covariance = _covariance(scale * moved, pixels, second.focal, spread / np.sqrt(both.sum()))
    return SeenTogether(relative, covariance, count, share)


def _matches(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs that are each other's best, and clearly so."""
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
    # unit vectors: squared distance 2 - 2 cosine
    clear = (2 - 2 * top) < _RATIO**2 * (2 - 2 * rival)
    kept = np.nonzero(mutual & clear)[0]
    return kept, best[kept]


def _covariance(place: Array, pixels: Array, focal: float, scale_deviation: float) -> Array:
    """(7, 7) of turn, shift (second's units) and log scale, from matches at `place` (m, 3) in the second camera's frame
    and their residuals (m, 2)."""
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
    covariance[6, 6] = (_ALIKE * scale_deviation) ** 2
    covariance += np.diag(np.array([_FLOOR_TURN] * 3 + [_FLOOR_PLACE * depth] * 3 + [_FLOOR_SCALE]) ** 2)
    return (covariance + covariance.T) / 2
