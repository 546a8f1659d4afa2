"""How far a drive's own pictures saw in a direction, by a plane sweep (Collins 1996): whether they saw a surface at a
point, or look through it.

A patch around the point's pixel is compared with the drive's pictures before and behind, as they would show it at many
depths, by the normalised correlation of differences along the epipolar line: the edges of a road are parallel to it and
look alike at all depths. If it correlates at the point's depth and at no other one, the camera saw a surface
there; if it correlates clearly better behind the point, the camera looks through it. A patch without texture or
parallax says nothing. Pictures of two drives are never compared, so their light may differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.drive_pictures import DrivePictures, Grey

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

_HALF = 3  # a patch has 7 x 7 differences
_STEP = 2  # pixels along the epipolar line between the two of a difference
_EDGE = 8.0  # pixels: least distance of a point from the picture's edge
_FACTORS = 1 / np.linspace(1 / 0.5, 1 / 4, 48)  # of the point's depth: depths that are tried
_HERE = (_FACTORS > 0.93) & (_FACTORS < 1.08)  # of them, these are the point's own depth,
_BEHIND, _BEFORE = _FACTORS > 1.2, _FACTORS < 0.85  # these clearly behind it and before it
_ALIKE = 0.7  # least correlation
_MET, _THROUGH = 0.1, 0.2  # by so much it must exceed that at all other depths
_CONTRAST = 2.0  # least standard deviation of a patch's differences, of 255
_BASELINES = (-0.25, -0.125, 0.125, 0.25)  # of the pictures to compare with, as shares of the range
_NEAREST, _FARTHEST = 3.0, 22.0  # metres: range of a point that is judged
_MOST = 256  # points that are compared at a time, 50 MB

_ALONG = np.arange(2 * _HALF + 1 + _STEP) - _HALF - _STEP / 2  # pixels along the epipolar line, and across it
_ACROSS = np.arange(2 * _HALF + 1.0) - _HALF


@dataclass(frozen=True, eq=False)
class Votes:
    """What cameras of a drive say about points. through, met (n,): number of cameras that look through each point, and
    that saw a surface there; camera (n,): row of one that looks through it, -1 where none does."""

    through: Numbers
    met: Numbers
    camera: Numbers


def votes(pictures: DrivePictures, xyz: Array, unit: float, most: int) -> Votes:
    """What at most `most` cameras, spread over all that show each point (n, 3), say about it. unit: length of a metre
    in units of the city's frame."""
    nothing = np.zeros(len(xyz), np.int64)
    answer = Votes(nothing, nothing.copy(), nothing - 1)
    point, camera, pixel, depth = _looks(pictures, xyz, unit, most)
    for one in np.unique(camera):
        mine = np.flatnonzero(camera == one)
        score, textured = correlations(pictures, int(one), pixel[mine], depth[mine], _FACTORS)
        here, behind, before = (score[:, part].max(1) for part in (_HERE, _BEHIND, _BEFORE))
        met = textured & (here > _ALIKE) & (here - np.maximum(behind, before) > _MET)
        through = textured & (behind > _ALIKE) & (behind - np.maximum(here, before) > _THROUGH)
        at = point[mine]
        answer.met[at] += met
        answer.through[at] += through
        answer.camera[at[through]] = one
    return answer


def _looks(pictures: DrivePictures, xyz: Array, unit: float, most: int) -> tuple[Numbers, Numbers, Array, Array]:
    """Point, camera, pixel (m, 2) and depth of each look."""
    eye = pictures.pose[:, :3, 3]
    low, high = xyz.min(0) if len(xyz) else np.zeros(3), xyz.max(0) if len(xyz) else np.zeros(3)
    off = np.maximum(np.maximum(low - eye, eye - high), 0.0)
    near = np.flatnonzero(np.linalg.norm(off, axis=1) < _FARTHEST * unit)
    parts = []
    for n, point in enumerate(xyz):
        pixel, depth, away = seen_at(pictures, near, point)
        inside = (depth > 0) & (away > _NEAREST * unit) & (away < _FARTHEST * unit)
        inside &= ((pixel > _EDGE) & (pixel < pictures.sizes[near] - _EDGE)).all(1)
        some = np.flatnonzero(inside)
        if len(some):
            some = some[np.unique(np.linspace(0, len(some) - 1, min(most, len(some))).round().astype(int))]
            parts.append((np.full(len(some), n), near[some], pixel[some], depth[some]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0)
    point, camera, pixel, depth = (np.concatenate(part) for part in zip(*parts, strict=True))
    return point, camera, pixel, depth


def seen_at(pictures: DrivePictures, cameras: Numbers, point: Array) -> tuple[Array, Array, Array]:
    """Pixels (k, 2), depths (k,) and ranges (k,) of a point (3,) in these cameras (k,)."""
    pose, lens = pictures.pose[cameras], pictures.intrinsics[cameras]
    local = np.einsum("kij,ki->kj", pose[:, :3, :3], point - pose[:, :3, 3])
    depth = local[:, 2]
    front = np.where(depth > 0, depth, np.inf)
    return local[:, :2] / front[:, None] * lens[:, :2] + lens[:, 2:], depth, np.linalg.norm(local, axis=1)


def correlations(
    pictures: DrivePictures, camera: int, pixel: Array, depth: Array, factors: Array
) -> tuple[Array, Mask]:
    """Correlation (n, d) of patches at pixels (n, 2) of a camera with its neighbours' pictures, if they are at depth
    (n,) times each of the factors (d,): the mean over the better half of the neighbours, -1 where unknown; and whether
    (n,) a patch has texture."""
    others = neighbours(pictures, camera, float(np.median(depth)))
    grey = pictures.read([camera, *others])
    others = [one for one in others if one in grey]
    score, textured = np.full((len(pixel), len(factors)), -1.0), np.zeros(len(pixel), bool)
    if camera not in grey or len(others) < 2:
        return score, textured
    for start in range(0, len(pixel), _MOST):
        part = slice(start, start + _MOST)
        patch = _patches(pictures, camera, others, pixel[part])
        known, contrast = _differences(_sampled(grey[camera], patch))
        every = np.stack(
            [
                np.einsum("np,ndp->nd", known, _warped(pictures, camera, one, grey[one], patch, depth[part], factors))
                for one in others
            ]
        )
        every = np.sort(np.nan_to_num(every / known.shape[1], nan=-1.0), axis=0)
        score[part] = every[-max((len(others) + 1) // 2, 2) :].mean(0)
        textured[part] = contrast > _CONTRAST
    return score, textured


def neighbours(pictures: DrivePictures, camera: int, away: float) -> list[int]:
    """Frames of the same camera before and after it, some 12 and 25 % of the distance `away` from it."""
    turn = pictures.frame_index % pictures.camera_count

    rows = np.flatnonzero(turn == turn[camera])
    base = np.linalg.norm(pictures.pose[rows, :3, 3] - pictures.pose[camera, :3, 3], axis=1)
    found: list[int] = []
    for share in _BASELINES:
        wanted = abs(share) * away
        side = np.flatnonzero((rows < camera) if share < 0 else (rows > camera))
        if len(side):
            best = side[np.argmin(np.abs(base[side] - wanted))]
            if abs(base[best] - wanted) < 0.6 * wanted and int(rows[best]) not in found:
                found.append(int(rows[best]))
    return found


def _patches(pictures: DrivePictures, camera: int, others: list[int], pixel: Array) -> Array:
    """Pixels (n, p, 2) of patches around pixels (n, 2), along and across the epipolar line of the farthest other
    camera."""
    eye, back, lens = pictures.pose[:, :3, 3], pictures.pose[camera, :3, :3].T, pictures.intrinsics[camera]
    moves = (eye[others] - eye[camera]) @ back.T
    move = moves[np.argmax((moves**2).sum(1))]
    way = lens[:2] * move[:2] - (pixel - lens[2:]) * move[2]
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    side = np.stack([-way[:, 1], way[:, 0]], 1)
    grid = _ALONG[:, None, None] * way[:, None, None] + _ACROSS[:, None] * side[:, None, None]
    return np.asarray(pixel[:, None] + grid.reshape(len(pixel), -1, 2))


def _warped(
    pictures: DrivePictures, camera: int, other: int, grey: Grey, patch: Array, depth: Array, factors: Array
) -> Array:
    """Normalised patches (n, d, p) of another camera's picture, if patches (n, p, 2) face `camera` at these depths."""
    lens, other_lens = pictures.intrinsics[camera], pictures.intrinsics[other]
    ray = np.concatenate([(patch - lens[2:]) / lens[:2], np.ones((*patch.shape[:2], 1))], -1)
    back = pictures.pose[other, :3, :3].T
    turned = ray @ (back @ pictures.pose[camera, :3, :3]).T
    shift = back @ (pictures.pose[camera, :3, 3] - pictures.pose[other, :3, 3])
    place = turned[:, None] * (depth[:, None] * factors)[:, :, None, None] + shift
    with np.errstate(divide="ignore", invalid="ignore"):
        pixel = place[..., :2] / place[..., 2:] * other_lens[:2] + other_lens[2:]
    pixel[~(place[..., 2] > 0)] = -1e4
    return _differences(_sampled(grey, pixel))[0]


def _sampled(grey: Grey, pixel: Array) -> Array:
    """Values (...) of a picture at pixels (..., 2), NaN outside."""
    flat = np.clip(pixel.reshape(-1, pixel.shape[-2], 2) - 0.5, -1e4, 1e5).astype(np.float32)
    parts = []
    for rows in np.array_split(flat, len(flat) // 30_000 + 1):  # OpenCV takes fewer than 32768 rows
        border = float("nan")
        x, y = np.ascontiguousarray(rows[..., 0]), np.ascontiguousarray(rows[..., 1])
        parts.append(cv2.remap(grey, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=border))
    return np.concatenate(parts).reshape(pixel.shape[:-1]).astype(np.float64)


def _differences(values: Array) -> tuple[Array, Array]:
    """Differences along the epipolar line of patches (..., p), with mean 0 and deviation 1, and their deviations."""
    grid = values.reshape(*values.shape[:-1], len(_ALONG), len(_ACROSS))
    steps = (grid[..., _STEP:, :] - grid[..., :-_STEP, :]).reshape(*values.shape[:-1], -1)
    steps -= steps.mean(-1, keepdims=True)
    deviation = np.sqrt((steps**2).mean(-1))
    return steps / np.maximum(deviation, 1e-6)[..., None], deviation
