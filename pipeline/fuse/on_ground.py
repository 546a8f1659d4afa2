"""The relative pose of two frames by charts of the road around them (`ground_chart.py`): whatever the directions of
both drives are, they saw the same road.

SIFT features of the charts turn with the picture, so the directions may differ by any angle. Matches that agree on one
similarity in the plane (RANSAC) give turn, shift and the ratio of scales; the planes of both roads give the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3, nearest_rotation, rotation_exp, rotation_log
from pipeline.fuse.ground_chart import CELL, GroundChart
from pipeline.fuse.two_drives import Needed, SeenTogether, matches, root_sift

Array = NDArray[np.float64]

_LARGEST = 1500  # most features of a chart
_CONTRAST = 0.01  # least contrast of a feature; SIFT's usual 0.04 leaves few on asphalt
_EDGE = 4  # cells beside the border of a chart without features
_BEGIN = 3 * CELL  # heights: largest distance of a match that agrees at the beginning
_INSIDE = 2 * CELL  # the same at the end
_NEEDED = Needed(70, 0.6, 45, 0.85)  # matches that must agree; of wrong pairs in one city at most 38 did
_LEAST_WIDE = 0.7  # heights: least deviation of the places of matches in any direction: markings may be on one line
_LARGEST_RATIO = 2.0  # of the two cameras' heights
_ROUNDS = 3  # estimates and new choices of matches
_ALIKE = 2.0  # factor of deviations, because errors of neighbouring matches are not independent
# Deviations of what all matches of a chart have in common. Of a plane: tilt (radians), height (heights). A wrong
# height moves all that is seen ahead: in heights. Then least deviations of turn, shift (heights) and log scale. They
# are twice those of single links, because the links of a drive have errors in common: its own bends at that place.
_TILT, _HEIGHT, _AHEAD = 0.008, 0.02, 0.08
_FLOOR_TURN, _FLOOR_SHIFT, _FLOOR_SCALE = 0.008, 0.04, 0.012


@dataclass(frozen=True, eq=False)
class GroundLook:
    """Features of a chart. place (n, 2): right and ahead of the frame, in heights; descriptor (n, 128): unit vectors;
    camera_from_chart, origin, height: as in GroundChart."""

    place: Array
    descriptor: NDArray[np.float32]
    camera_from_chart: Array
    origin: Array
    height: float


def look_down(chart: GroundChart) -> GroundLook:
    """The features of a chart."""
    make = cv2.SIFT_create  # type: ignore[attr-defined]  # OpenCV's stubs lack it
    sift = make(nfeatures=_LARGEST, contrastThreshold=_CONTRAST)
    around = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
    mask = cv2.erode(chart.inside.astype(np.uint8), around, borderValue=0)
    found, descriptor = sift.detectAndCompute(chart.picture, mask * 255)
    place, unit = np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    if found:
        place, unit = chart.place(np.array([one.pt for one in found])), root_sift(descriptor)
    return GroundLook(place, unit, chart.camera_from_chart, chart.origin, chart.height)


@dataclass(frozen=True, eq=False)
class _Similarity:
    """Of the plane: place in the second chart = scale * turned by `angle` + shift (2,); heights, radians."""

    scale: float
    angle: float
    shift: Array

    def apply(self, place: Array) -> Array:
        return np.asarray(self.scale * place @ _turn(self.angle).T + self.shift)


def seen_on_ground(first: GroundLook, second: GroundLook) -> SeenTogether | str:
    """The relative pose of two cameras by the road around them; a reason, in words, if the charts do not show the same
    road well enough."""
    i, j = matches(first.descriptor, second.descriptor)
    if len(i) < _NEEDED.few:
        return f"{len(i)} features of the road match, {_NEEDED.few} are needed"
    one, other = first.place[i], second.place[j]
    cv2.setRNGSeed(0)
    _, inside = cv2.estimateAffinePartial2D(one, other, method=cv2.RANSAC, ransacReprojThreshold=_BEGIN, maxIters=1000)
    kept = np.zeros(len(i), bool) if inside is None else inside.ravel().astype(bool)
    move = _Similarity(1.0, 0.0, np.zeros(2))
    for _ in range(_ROUNDS):
        if kept.sum() < 3:
            break
        move = _fitted(one[kept], other[kept])
        kept = np.linalg.norm(move.apply(one) - other, axis=1) < _INSIDE
    count, share = int(kept.sum()), float(kept.mean())
    if not _NEEDED.met(count, len(i)):
        return f"{count} of {len(i)} matched features of the road agree on one place ({_NEEDED})"
    wide = np.linalg.eigvalsh(np.cov(one[kept].T))[0] ** 0.5
    if wide < _LEAST_WIDE:
        return "features of the road that agree lie on one line"
    if not 1 / _LARGEST_RATIO < move.scale < _LARGEST_RATIO:
        return f"one camera would be {max(move.scale, 1 / move.scale):.1f} times as high as the other"
    missed = float(np.sqrt(((move.apply(one[kept]) - other[kept]) ** 2).mean()))
    radius = float(np.sqrt(((one[kept] - one[kept].mean(0)) ** 2).sum(1).mean()))
    noise = _ALIKE * missed / np.sqrt(count)
    relative = _relative(first, second, move, np.zeros(8))
    covariance = _covariance(first, second, move, one[kept].mean(0), noise, noise / radius)
    return SeenTogether(relative, covariance, count, share)


def _turn(angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _fitted(one: Array, other: Array) -> _Similarity:
    """The similarity of least squares from places (n, 2) to others (n, 2)."""
    middle, there = one.mean(0), other.mean(0)
    a, b = (one - middle) @ [1, 1j], (other - there) @ [1, 1j]
    factor = np.vdot(a, b) / np.vdot(a, a).real
    scale, angle = float(np.abs(factor)), float(np.angle(factor))
    return _Similarity(scale, angle, there - scale * _turn(angle) @ middle)


def _relative(first: GroundLook, second: GroundLook, move: _Similarity, tilt: Array) -> Sim3:
    """second_from_first of the cameras. tilt (8,): errors of both planes: of the first one about its axes right and
    ahead (radians), of its height, and of all that is seen ahead (heights); then of the second one."""
    flat = np.eye(3)
    flat[:2, :2] = _turn(move.angle)
    ways = []
    for look, error in ((first, tilt[:4]), (second, tilt[4:])):
        axes = look.camera_from_chart @ rotation_exp(np.array([error[0], error[1], 0.0]))
        origin = look.origin * (1 + error[2]) + look.camera_from_chart[:, 1] * error[3] * look.height
        ways.append((axes, origin))
    (axes, origin), (there, its_origin) = ways
    scale = move.scale * second.height / first.height
    rotation = there @ flat @ axes.T
    shift = its_origin + there @ np.append(move.shift, 0.0) * second.height - scale * rotation @ origin
    return Sim3(scale, nearest_rotation(rotation), shift)


def _covariance(
    first: GroundLook, second: GroundLook, move: _Similarity, middle: Array, shift: float, turn: float
) -> Array:
    """Covariance (7, 7) of `_relative`, as in Link, from deviations of the similarity's shift (heights) at the middle
    (2,) of the matches, of its turn, which is that of its log scale, and of both planes."""
    deviation = np.array(
        [
            np.hypot(turn, _FLOOR_TURN),
            *[np.hypot(shift, _FLOOR_SHIFT)] * 2,
            np.hypot(turn, _FLOOR_SCALE),
            *[_TILT, _TILT, _HEIGHT, _AHEAD] * 2,
        ]
    )
    base = _relative(first, second, move, np.zeros(8))
    jacobian = np.zeros((7, len(deviation)))
    for n, size in enumerate(deviation):
        step = np.zeros(len(deviation))
        step[n] = size
        turned = _Similarity(move.scale * np.exp(step[3]), move.angle + step[0], np.zeros(2))
        moved = replace(turned, shift=move.apply(middle) + step[1:3] - turned.apply(middle))
        there = _relative(first, second, moved, step[4:])
        jacobian[:3, n] = rotation_log((there.rotation @ base.rotation.T)[None])[0]
        jacobian[3:6, n] = there.translation - base.translation
        jacobian[6, n] = np.log(there.scale / base.scale)
    least = np.array([_FLOOR_TURN] * 3 + [_FLOOR_SHIFT * second.height] * 3 + [_FLOOR_SCALE])
    covariance = jacobian @ jacobian.T + np.diag(least**2)
    return np.asarray((covariance + covariance.T) / 2)
