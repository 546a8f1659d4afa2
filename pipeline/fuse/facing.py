"""The relative pose of two frames that face each other: drives in opposite directions that see the same facades.

Features are matched in views across the street (`side_views.py`), the right side of one drive with the left side of
the other. Perspective-n-Point in RANSAC with depths of either drive begins. Both cameras see a facade from directions
that are often 100 degrees apart, so the matches alone determine the relative pose up to scale, better than depths do:
the last estimate minimises distances from epipolar lines (Sampson 1982), with depths of both drives for the scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from pipeline.backend.sim3 import Sim3, nearest_rotation, rotation_exp, rotation_log
from pipeline.fuse.facade_depths import two_view
from pipeline.fuse.side_views import BothSides
from pipeline.fuse.two_drives import SeenTogether, matches

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BEGIN_PX = 4.0  # pixels: largest reprojection error of a match at the beginning, whose depths have errors
_BEGIN_LEAST = 8  # matches that agree at the beginning
_INSIDE_PX = 2.0  # pixels: largest distance from the epipolar line of a match that agrees
_DEPTH_RATIO = 0.35  # largest log ratio of its depth and the drive's
_LEAST, _LEAST_SHARE = 25, 0.5  # matches that must agree: number, and share of all matches
_LEAST_A_SIDE = 8  # of them on each side of the street: a single facade may look the same at the next window
_LEAST_DEPTHS = 6  # of them that have a depth in each drive
_LEAST_EXTENT = 0.15  # share of the picture's width over which they must be spread
_LARGEST_TURN = 10.0  # degrees by which both streets' axes may differ from opposite ones
_LARGEST_SPREAD = 0.25  # largest robust deviation of the log ratios of depths
_ROUNDS = 3  # estimates and new choices of matches
# Deviations of residuals: pixels; log depth of a point; degrees between the axes of a street that both drives have.
_PIXEL, _DEPTH, _TURN = 0.3, 0.15, 5.0
_ALIKE = 2.0  # factor of a link's deviations, because errors of depths are not independent
# Least deviations: radians; of the place, as shares of the distance between both cameras, across and along the line
# between them (which has the errors of depths); log scale.
_FLOOR_TURN, _FLOOR_ACROSS, _FLOOR_ALONG, _FLOOR_SCALE = 0.008, 0.012, 0.02, 0.05


@dataclass(frozen=True, eq=False)
class _Matches:
    """m matches. first, second (m, 3): rays with z = 1; first_depth, second_depth (m,): of the drives, NaN where
    unknown; pixel (m,): columns in the second picture; right (m,): on the first drive's right side; focal: pixels."""

    first: Array
    second: Array
    first_depth: Array
    second_depth: Array
    pixel: Array
    right: Flags
    focal: float

    def __len__(self) -> int:
        return len(self.pixel)


@dataclass(frozen=True, eq=False)
class _Pose:
    """second_from_first: rotation, shift in the first drive's units; scale: second drive's units in one of the
    first's."""

    rotation: Array
    shift: Array
    scale: float

    def moved(self, step: Array) -> _Pose:
        """step (7,): rotation, shift as a share of its length, log scale."""
        shift = self.shift + step[3:6] * np.linalg.norm(self.shift)
        return _Pose(rotation_exp(step[:3]) @ self.rotation, shift, self.scale * float(np.exp(step[6])))


def seen_facing(first: BothSides, second: BothSides) -> SeenTogether | str:
    """The relative pose of two cameras that face each other; a reason, in words, if they do not see the same facades
    well enough."""
    found = _matched(first, second)
    if len(found) < _LEAST:
        return f"{len(found)} features of facades match, {_LEAST} are needed"
    pose, kept = _begin(found)
    if pose is None:
        return f"no relative pose agrees with {_BEGIN_LEAST} of {len(found)} matched features of facades"
    turned = second.street_from_camera.T @ np.diag([-1.0, 1.0, -1.0]) @ first.street_from_camera
    for _ in range(_ROUNDS):
        pose = _estimate(found, kept, pose, turned)
        kept = _agreeing(found, pose)
        if kept.sum() < _BEGIN_LEAST:
            return f"{int(kept.sum())} of {len(found)} matched features of facades agree on one relative pose"
    refusal = _refusal(found, kept, pose, turned, second.right.width)
    if refusal:
        return refusal
    relative = Sim3(pose.scale, nearest_rotation(pose.rotation), pose.scale * pose.shift)
    return SeenTogether(relative, _covariance(found, kept, pose, turned), int(kept.sum()), float(kept.mean()))


def _matched(first: BothSides, second: BothSides) -> _Matches:
    parts = []
    for right, one, other in ((True, first.right, second.left), (False, first.left, second.right)):
        i, j = matches(one.descriptor, other.descriptor)
        side = np.full(len(i), float(right))
        parts.append((one.ray[i], other.ray[j], one.depth[i], other.depth[j], other.pixel[j, 0], side))
    first_ray, second_ray, one_depth, other_depth, pixel, side = (
        np.concatenate([part[n] for part in parts]) for n in range(6)
    )
    return _Matches(first_ray, second_ray, one_depth, other_depth, pixel, side.astype(bool), second.right.focal)


def _begin(found: _Matches) -> tuple[_Pose | None, Flags]:
    """A first pose, by the depths of the drive with which more matches agree, and those matches."""
    best: tuple[_Pose | None, Flags] = (None, np.zeros(len(found), bool))
    ways = (
        (found.first, found.first_depth, found.second, found.second_depth, False),
        (found.second, found.second_depth, found.first, found.first_depth, True),
    )
    for ray, depth, seen, other, back in ways:
        has = np.flatnonzero(np.isfinite(depth))
        if len(has) < max(_BEGIN_LEAST, int(best[1].sum())):
            continue
        size = float(np.median(depth[has]))
        point = ray[has] * depth[has][:, None] / size
        image = np.ascontiguousarray(seen[has, :2])
        cv2.setRNGSeed(0)
        good, turn, shift, inside = cv2.solvePnPRansac(
            point,
            image,
            np.eye(3),
            None,
            iterationsCount=500,
            reprojectionError=_BEGIN_PX / found.focal,
            confidence=0.999,
            flags=cv2.SOLVEPNP_SQPNP,
        )
        if not good or inside is None or len(inside) < max(_BEGIN_LEAST, int(best[1].sum()) + 1):
            continue
        at = inside.ravel()
        turn, shift = cv2.solvePnPRefineLM(point[at], image[at], np.eye(3), None, turn, shift)
        rotation = nearest_rotation(cv2.Rodrigues(turn)[0])
        z = (point[at] @ rotation.T + shift.ravel())[:, 2] * size
        both = np.isfinite(other[has[at]]) & (z > 0)
        scale = float(np.exp(np.median(np.log(other[has[at]][both] / z[both])))) if both.any() else 1.0
        kept = np.zeros(len(found), bool)
        kept[has[at]] = True
        pose = _Pose(rotation, shift.ravel() * size, scale)
        if back:
            pose = _Pose(rotation.T, -scale * rotation.T @ shift.ravel() * size, 1 / scale)
        best = (pose, kept)
    return best


def _compared(found: _Matches, pose: _Pose) -> tuple[Array, Array, Array, Flags]:
    """Of each match: distance from the epipolar line in pixels, log ratios of its depths in both cameras to those of
    the drives (NaN where unknown), and whether it lies in front of both."""
    away, a, b = two_view(pose.rotation, pose.shift, found.first, found.second)
    front = (a > 0) & (b > 0)
    logs = [
        np.log(np.maximum(found_depth, 1e-12) / np.maximum(depth, 1e-12))
        for found_depth, depth in ((found.first_depth, a), (found.second_depth, pose.scale * b))
    ]
    return found.focal * away, logs[0], logs[1], front


def _agreeing(found: _Matches, pose: _Pose) -> Flags:
    away, one, other, front = _compared(found, pose)
    known = np.isfinite(one) | np.isfinite(other)
    near = ~(np.abs(one) > _DEPTH_RATIO) & ~(np.abs(other) > _DEPTH_RATIO)
    return np.asarray((np.abs(away) < _INSIDE_PX) & front & known & near)


def _residuals(found: _Matches, kept: Flags, pose: _Pose, turned: Array) -> Array:
    away, one, other, _ = _compared(found, pose)
    depths = np.concatenate([one[kept], other[kept]])
    depths = np.where(np.isfinite(depths), np.clip(depths, -2.0, 2.0), 0.0)
    turn = np.degrees(rotation_log((turned.T @ pose.rotation)[None])[0])
    return np.concatenate([away[kept] / _PIXEL, depths / _DEPTH, turn / _TURN])


def _estimate(found: _Matches, kept: Flags, pose: _Pose, turned: Array) -> _Pose:
    solved = least_squares(
        lambda step: _residuals(found, kept, pose.moved(step), turned), np.zeros(7), loss="soft_l1", max_nfev=30
    )
    return pose.moved(solved.x)


def _refusal(found: _Matches, kept: Flags, pose: _Pose, turned: Array, width: int) -> str:
    """Why the pose is not believed; empty if it is."""
    count, share = int(kept.sum()), float(kept.mean())
    if count < _LEAST or share < _LEAST_SHARE:
        return (
            f"{count} of {len(found)} matched features of facades agree on one relative pose "
            f"({_LEAST} and {_LEAST_SHARE:.0%} of them are needed)"
        )
    sides = int((kept & found.right).sum()), int((kept & ~found.right).sum())
    if min(sides) < _LEAST_A_SIDE:
        return (
            f"features that agree are on one side of the street ({max(sides)} and {min(sides)}, {_LEAST_A_SIDE} are "
            "needed): the next window may look the same"
        )
    extent = float(np.ptp(found.pixel[kept])) / width
    if extent < _LEAST_EXTENT:
        return f"features that agree cover only {extent:.0%} of the picture's width: they may be on a single object"
    turn = float(np.degrees(np.linalg.norm(rotation_log((turned.T @ pose.rotation)[None])[0])))
    if turn > _LARGEST_TURN:
        return f"the cameras would differ by {turn:.0f} degrees from facing each other along the street"
    _, one, other, _ = _compared(found, pose)
    for logs in (one[kept], other[kept]):
        logs = logs[np.isfinite(logs)]
        if len(logs) < _LEAST_DEPTHS:
            return f"only {len(logs)} features that agree have a depth in each drive: the scale is unknown"
        spread = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
        if spread > _LARGEST_SPREAD:
            return f"depths of a drive differ by {spread:.0%} from those that both directions give"
    return ""


def _covariance(found: _Matches, kept: Flags, pose: _Pose, turned: Array) -> Array:
    """Covariance (7, 7) as in pipeline.fuse.Link: rotation, translation in the second drive's units, log scale."""
    step = 1e-5
    jacobian = np.stack(
        [
            (
                _residuals(found, kept, pose.moved(step * axis), turned)
                - _residuals(found, kept, pose.moved(-step * axis), turned)
            )
            / (2 * step)
            for axis in np.eye(7)
        ],
        1,
    )
    length = pose.scale * float(np.linalg.norm(pose.shift))
    own = _ALIKE**2 * np.linalg.inv(jacobian.T @ jacobian)
    change = np.eye(7)
    change[3:6, 3:6] *= length
    change[3:6, 6] = pose.scale * pose.shift
    covariance = change @ own @ change.T
    line = pose.shift / np.linalg.norm(pose.shift)
    across, along = (_FLOOR_ACROSS * length) ** 2, (_FLOOR_ALONG * length) ** 2
    covariance[:3, :3] += _FLOOR_TURN**2 * np.eye(3)
    covariance[3:6, 3:6] += across * np.eye(3) + (along - across) * np.outer(line, line)
    covariance[6, 6] += _FLOOR_SCALE**2
    return (covariance + covariance.T) / 2
