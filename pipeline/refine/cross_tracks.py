"""Corners that one camera of a rig follows, found in the pictures of its other cameras: they tell where those are.

A car that turns only about the vertical does not show how high a camera is, and in a straight drive tracks of single
cameras tell no place at all. A point that two cameras see, at the same instant or one after the other, tells it in all
three directions. The points and the rotations of the cameras are known from an adjustment without such observations,
so each point is predicted in the other camera's picture, and its patch, warped as that camera sees it, is searched
around the prediction. The error of the prediction is a motion of one camera against the other that is common to all
matches of both; matches that no such motion explains are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.grid import Grid
from pipeline.refine.problem import Problem, inverse
from pipeline.refine.rig_frames import Mount
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Grey = NDArray[np.uint8]

_LATER = (0, 1, 2, 4, 8, 16, -1, -2, -4, -8, -16)  # instants between the picture of the patch and the searched one
_TURNED = np.cos(np.radians(25.0))  # of the largest angle between the two rays to a point
_NEARER = 1.5  # largest ratio of the two distances to a point
_HALF = 6  # pixels on each side of a patch's middle
# Searched pixels on each side of a prediction: that many deviations of it by the places of both cameras, and some for
# their rotations; at most so large a share of the picture's width.
_DEVIATIONS, _LEAST_REACH, _MOST_REACH = 2.5, 4, 1 / 8
_ALIKE = 0.8  # least correlation of a patch
_ALONE = 0.08  # by which the correlation is smaller everywhere else in the searched pixels
_PEAK = 2  # pixels around the best place that are not elsewhere
_FEWEST = 12  # matches of two cameras
_SHARE = 0.3  # least share of them that one motion explains
_SAMPLES, _ROUNDS = 300, 3  # of three matches; of least squares with those that agree
_NEAR, _BENT = 1.0, 0.1  # grid pixels from a common motion within which a match is believed; and share of the motion


@dataclass(frozen=True, eq=False)
class _Pairs:
    """n points to search. point: its row; source, target: frames; at, ahead (n, 2): where it is and where it is
    predicted, in grid pixels, centre of the first one at 0.5; warp (n, 3, 3): homographies, grid pixels of target -> of
    source; local (n, 3): in the axes of the target's camera."""

    point: Ints
    source: Ints
    target: Ints
    at: Array
    ahead: Array
    warp: Array
    local: Array

    def select(self, rows: NDArray[np.generic]) -> _Pairs:
        return _Pairs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Crossings:
    """Observations in pictures of other cameras than the tracks' own, and what they say of the cameras' places.

    rows: with the numbers of the tracks, in source pixels; cameras (K, 2): of each pair with believed matches the
    camera of the tracks and the one in whose pictures they are; shift (K, 3): error of the second one's place against
    the first one's, in the rig's axes and the window's units; count (K,): matches.
    """

    rows: Tracks
    cameras: Ints
    shift: Array
    count: Ints

    def corrected(self, mount: Mount) -> Mount:
        """The mount with the places that explain the errors; what they do not tell stays."""
        if not len(self.count) or not len(mount.coefficient):
            return mount
        weight = np.sqrt(self.count)[:, None]
        directions = mount.directions[:, self.cameras[:, 1]] - mount.directions[:, self.cameras[:, 0]]
        matrix = (directions * weight).reshape(len(directions), -1).T
        step = np.linalg.lstsq(matrix, (self.shift * weight).ravel(), rcond=1e-6)[0]
        return replace(mount, coefficient=mount.coefficient + step)


def cross_tracks(
    window: Window, problem: Problem, covariance: Array, track: Ints, tracks: Tracks, grid: Grid
) -> Crossings:
    """Find points of an adjusted rig in pictures of other cameras than those that follow them.

    Args:
        window: in the order of `RigFrames`; depth is NaN where a pixel is masked.
        problem: adjusted; covariance (Q, Q): of the coefficients of its mount.
        track (P,): the number of the track of each point, rising; tracks: the rows of each camera's own pictures.
    """
    assert problem.rig is not None
    instants, mount = problem.rig.instants, problem.rig.mount
    grey = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in window.rgb])
    rows = tracks.select(np.isin(tracks.track, track))
    pairs = _to_search(problem, np.searchsorted(track, rows.track), rows, window.ok, grid)
    if len(pairs.point):
        pairs = pairs.select(~grid.hidden(window.depth, pairs.target, _to_source(pairs.ahead, grid)))
    focal = problem.camera[:2] * grid.scale
    cameras = np.stack([pairs.source, pairs.target], 1) // instants
    reach = _reach(mount, covariance, cameras, focal[0] / pairs.local[:, 2], grid.width)
    found, good = _found(grey, pairs, reach)
    pairs, found, cameras = pairs.select(good), found[good], cameras[good]
    both, of = np.unique(cameras, axis=0, return_inverse=True)
    believed = np.zeros(len(found), np.bool_)
    shifts = np.zeros((len(both), 3))
    for number, (_, second) in enumerate(both):
        mine = np.flatnonzero(of.ravel() == number)
        believed[mine], shift = _common_motion(found[mine] - pairs.ahead[mine], pairs.local[mine], focal)
        shifts[number] = -mount.turn[second].T @ shift
    count = np.bincount(of.ravel()[believed], minlength=len(both))
    seen = Tracks.sorted(track[pairs.point[believed]], pairs.target[believed], _to_source(found[believed], grid))
    return Crossings(seen, both[count > 0], shifts[count > 0], count[count > 0])


def _to_source(at: Array, grid: Grid) -> Array:
    return np.asarray((at + grid.offset) / grid.scale)


def _reach(mount: Mount, covariance: Array, cameras: Ints, pixels: Array, width: int) -> Ints:
    """Pixels (n,) around predictions that are searched. cameras (n, 2): of the patch and of the searched picture;
    pixels (n,): by which a point moves if its distance does by a unit."""
    apart = mount.directions[:, cameras[:, 1]] - mount.directions[:, cameras[:, 0]]
    deviation = np.sqrt(np.maximum(np.einsum("qni,qr,rni->n", apart, covariance, apart), 0.0))
    asked = np.ceil(_DEVIATIONS * deviation * pixels) + _LEAST_REACH
    return np.minimum(np.nan_to_num(asked, nan=0.0), np.ceil(_MOST_REACH * width)).astype(np.int64)


def _to_search(problem: Problem, point: Ints, rows: Tracks, ok: NDArray[np.bool_], grid: Grid) -> _Pairs:
    """One pair for each point and other camera that sees it: the one in which the point is nearest. point (n,): of
    each row; ok (F,): False where a picture was bad."""
    rig = problem.rig
    assert rig is not None
    instants, cameras = rig.instants, len(rig.mount.turn)
    begun = inverse(problem.cam_from_window)[:, :3, 3]
    size = np.array([grid.width, grid.height])
    at = grid.from_source(rows.xy)
    within = ((at > _HALF) & (at < size - _HALF)).all(1)
    away = np.linalg.norm(problem.points[point] - begun[rows.frame], axis=1)
    parts = []
    for other, later in product(range(cameras), _LATER):
        instant = rows.frame % instants + later
        row = np.flatnonzero(within & (rows.frame // instants != other) & (instant >= 0) & (instant < instants))
        target = other * instants + instant[row]
        row, target = row[ok[target]], target[ok[target]]
        where = problem.points[point[row]]
        pose = problem.cam_from_window[target]
        local = np.einsum("nij,nj->ni", pose[:, :3, :3], where) + pose[:, :3, 3]
        ahead = _grid_pixels(local, problem.camera, grid)
        there, here = where - begun[target], where - begun[rows.frame[row]]
        far = np.linalg.norm(there, axis=1)
        inside = ((ahead > _HALF + 1) & (ahead < size - _HALF - 1)).all(1) & (local[:, 2] > 1e-6)
        alike = (there * here).sum(1) > _TURNED * far * away[row]
        alike &= (far < _NEARER * away[row]) & (away[row] < _NEARER * far)
        usable = inside & alike
        parts.append((row[usable], target[usable], far[usable], ahead[usable], local[usable]))
    row, target, far, ahead, local = (np.concatenate(part) for part in zip(*parts, strict=True))
    key = point[row] * cameras + target // instants
    order = np.lexsort((far, key))
    chosen = order[np.unique(key[order], return_index=True)[1]]
    row, target = row[chosen], target[chosen]
    of, source = point[row], rows.frame[row]
    warp = _warps(problem, source, target, problem.points[of], grid)
    return _Pairs(of, source, target, at[row], ahead[chosen], warp, local[chosen])


def _grid_pixels(local: Array, camera: Array, grid: Grid) -> Array:
    """Grid pixels (n, 2) of points (n, 3) in a camera's axes."""
    z = np.where(local[:, 2:] > 1e-6, local[:, 2:], np.nan)
    return np.nan_to_num(grid.from_source(local[:, :2] / z * camera[:2] + camera[2:]), nan=-1e6)


def _warps(problem: Problem, source: Ints, target: Ints, where: Array, grid: Grid) -> Array:
    """Homographies (n, 3, 3), grid pixels of the target -> of the source, by the plane through each point that faces
    both cameras. An affine warp is not enough: at the edges of pictures that are turned by 55 degrees against each
    other the scale changes by a sixth over half a patch."""
    begun = inverse(problem.cam_from_window)
    middle = where - (begun[source, :3, 3] + begun[target, :3, 3]) / 2
    between = problem.cam_from_window[source] @ begun[target]
    pose = problem.cam_from_window[target]
    normal = np.einsum("nij,nj->ni", pose[:, :3, :3], middle)
    local = np.einsum("nij,nj->ni", pose[:, :3, :3], where) + pose[:, :3, 3]
    height = (normal * local).sum(1)
    height = np.where(np.abs(height) > 1e-12, height, 1e-12)
    moved = between[:, :3, :3] + between[:, :3, 3:] * (normal / height[:, None])[:, None]
    matrix = grid.camera_from_source(problem.camera)
    return np.asarray(matrix @ moved @ np.linalg.inv(matrix))


def _through(warp: Array, at: Array) -> Array:
    """Where homographies (n, 3, 3) map pixels (n, k, 2)."""
    mapped = np.concatenate([at, np.ones((*at.shape[:2], 1))], 2) @ warp.transpose(0, 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mapped[..., 2:] > 1e-6, mapped[..., :2] / mapped[..., 2:], -1e6)


def _found(pictures: Grey, pairs: _Pairs, reaches: Ints) -> tuple[Array, NDArray[np.bool_]]:
    """Where the patches are in the target pictures (n, 2), grid pixels, and which (n,) are found. reaches (n,): pixels
    around the prediction that are searched."""
    found, good = pairs.ahead.copy(), np.zeros(len(pairs.point), np.bool_)
    height, width = pictures.shape[1:]
    y, x = np.mgrid[-_HALF : _HALF + 1, -_HALF : _HALF + 1].astype(np.float64)
    offset = np.stack([x.ravel(), y.ravel()], 1)
    mapped = _through(pairs.warp, pairs.ahead[:, None] + offset)
    mapped += (pairs.at - _through(pairs.warp, pairs.ahead[:, None])[:, 0])[:, None]  # the corner is where it was seen
    for row, (source, target) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)):
        # The patch lies around a whole pixel of the target, so that places need no fraction.
        middle, reach = np.floor(pairs.ahead[row]).astype(int), int(reaches[row])
        low, high = middle - reach - _HALF, middle + reach + _HALF + 1
        low, high = np.maximum(low, 0), np.minimum(high, (width, height))
        sampled = (mapped[row] - 0.5).astype(np.float32)
        if (sampled < 0).any() or (sampled > (width - 1, height - 1)).any() or (high - low <= 2 * _HALF + 4).any():
            continue
        side = 2 * _HALF + 1
        patch = cv2.remap(pictures[source], sampled.reshape(side, side, 2), None, cv2.INTER_LINEAR)
        surface = cv2.matchTemplate(
            pictures[target, low[1] : high[1], low[0] : high[0]], np.asarray(patch, np.uint8), cv2.TM_CCOEFF_NORMED
        )
        place = _peak(np.asarray(surface, np.float64))
        if place is not None:
            found[row], good[row] = low + _HALF + 0.5 + place, True
    return found, good


def _peak(surface: Array) -> Array | None:
    """The place (2,), x and y, of the only high peak of correlations (h, w), by parabolas; None if there is none."""
    y, x = np.unravel_index(int(np.argmax(surface)), surface.shape)
    height, width = surface.shape
    best = float(surface[y, x])
    if not best > _ALIKE or not 0 < y < height - 1 or not 0 < x < width - 1:
        return None
    rest = surface.copy()
    rest[max(y - _PEAK, 0) : y + _PEAK + 1, max(x - _PEAK, 0) : x + _PEAK + 1] = -1
    if rest.max() > best - _ALONE:
        return None
    answer = []
    for at, (before, after) in ((x, surface[y, [x - 1, x + 1]]), (y, surface[[y - 1, y + 1], x])):
        bend = before + after - 2 * best
        answer.append(at + (0.5 * float(before - after) / bend if bend < 0 else 0.0))
    return np.array(answer)


def _common_motion(error: Array, local: Array, focal: Array) -> tuple[NDArray[np.bool_], Array]:
    """Which errors (n, 2) of predictions one motion of the camera explains, none unless many; and its shift (3,). local
    (n, 3): the points in the camera's axes."""
    count, none = len(error), np.zeros(len(error), np.bool_)
    if count < _FEWEST:
        return none, np.zeros(3)
    x, y, z = local.T
    by_place = np.zeros((count, 2, 3))
    by_place[:, 0, 0], by_place[:, 0, 2] = focal[0] / z, -focal[0] * x / z**2
    by_place[:, 1, 1], by_place[:, 1, 2] = focal[1] / z, -focal[1] * y / z**2
    turned = np.zeros((count, 3, 3))  # of a point by a turn of the camera
    turned[:, 0, 1], turned[:, 0, 2], turned[:, 1, 2] = z, -y, x
    turned -= turned.transpose(0, 2, 1)
    usual = float(np.median(z))  # a shift is counted in it, so that all unknowns are alike
    matrix = np.concatenate([by_place @ turned, by_place * usual], 2)
    # A motion by many pixels is not quite linear.
    near = _NEAR + _BENT * float(np.median(np.linalg.norm(error, axis=1)))
    sample = np.random.default_rng(0).integers(0, count, (_SAMPLES, 3))
    motion = _solved(matrix[sample].reshape(_SAMPLES, 6, 6), error[sample].reshape(_SAMPLES, 6))
    off = np.linalg.norm(np.einsum("nij,sj->sni", matrix, motion) - error, axis=2)
    inside = off[np.argmax((off < near).sum(1))] < near
    answer = np.zeros(6)
    for _ in range(_ROUNDS):
        answer = _solved(matrix[inside].reshape(1, -1, 6), error[inside].reshape(1, -1))[0]
        inside = np.linalg.norm(matrix @ answer - error, axis=1) < near
    if inside.sum() < max(_FEWEST, _SHARE * count):
        return none, np.zeros(3)
    return np.asarray(inside), np.asarray(answer[3:] * usual)


def _solved(matrix: Array, right: Array) -> Array:
    """Least squares (s, 6) of systems (s, n, 6) and (s, n), a little damped: samples may be degenerate."""
    down = matrix.transpose(0, 2, 1)
    return np.asarray(np.linalg.solve(down @ matrix + 1e-3 * np.eye(6), down @ right[:, :, None])[:, :, 0])
