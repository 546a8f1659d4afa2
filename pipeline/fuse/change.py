"""What is there in one drive and seen through in another: by rays, not by distance alone.

A camera of the second drive looks through a point of the first where everything it saw around that direction lies well
behind the point. Enough cameras have to, and hardly any may have met a surface there. A drive's own cameras are asked
the same about its own points: what they look through at another time moved (a car that drives) or is noise at the edge
of a thing. What is left is gathered to objects; those without a surface (leaves) are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.publish.cameras import Cameras
from pipeline.publish.voxels import voxel_keys

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

GONE, NEW = 1, 2
"""Class of a point: there in the earlier drive and seen through in the later, and the other way round."""

RANGE_M = 30.0
"""Cameras look so far, metres (or what a city's frame has for one)."""
_CELL = np.radians(1.0)  # of a camera's picture of ranges
_LEVELS = 4  # a near point covers up to 2^3 cells
_SHARE, _CUBES = 0.05, 2.0  # behind a point: by so much of its range and so many cubes; nearer is the same surface
_FILLED = 5  # of the nine cells around a direction that something was seen in
_VIEWS = 64  # cameras of a drive that are asked about one tile
_THROUGH = 3  # cameras that must look through a point
_MET = 0.2  # of those that may have met a surface there
_OWN_FRAMES = 4  # frames before and behind a camera's own whose points it saw at that time
_OWN_THROUGH = 2  # cameras of its own drive that look through a point that moved
_APART = 2.0  # cubes: points nearer than this to another drive's are no change
_LINK = 4.0  # cubes between points of one object
_NEARLY = 0.7  # of what the best camera looks through
_LEAST_POINTS, _LEAST_EXTENT = 25, 5.0  # of an object; extent of its second longest side, cubes
_NEIGHBOURS, _ROUGH = 12, 0.1  # surface variation (Pauly 2002) beyond which there is no surface but leaves


@dataclass(frozen=True, eq=False)
class Cloud:
    """What a drive saw, in a frame of the city. xyz (n, 3); frame_index (n,): frame that saw each; cameras: of the
    drive, as they stand in the city."""

    xyz: Floats
    frame_index: Numbers
    cameras: Cameras

    def thinned(self, cube: float) -> tuple[Cloud, Numbers]:
        """One point a cube, and the places of those that stay."""
        _, places = np.unique(voxel_keys(np.ascontiguousarray(self.xyz.T), cube), return_index=True)
        places = np.sort(places)
        return Cloud(self.xyz[places], self.frame_index[places], self.cameras), places


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of a cloud that another drive looked through. point (k,): places in the cloud; label (k,): from 0;
    seen_by (number of objects,): frame of the other drive that looks through most of each."""

    point: Numbers
    label: Numbers
    seen_by: Numbers


def looked_through(first: Cloud, second: Cloud, asked: Mask, voxel: float, unit: float) -> Objects:
    """Objects of `first` that `second` looks through.

    asked (n,): points of first that may be among them (the others are there to be looked at); voxel: side of a cube in
    which a drive keeps one point; unit: a metre, both in the frame's units.
    """
    place = np.flatnonzero(asked)
    if len(place) and len(second.xyz):
        away, _ = cKDTree(second.xyz).query(first.xyz[place], distance_upper_bound=_APART * voxel)
        place = place[~np.isfinite(away)]
    if not len(place) or not len(second.xyz):
        return Objects(*(np.zeros(0, np.int64) for _ in range(3)))
    frames: list[int] = []
    looks = np.zeros((0, len(place)), bool)
    met = np.zeros(len(place), np.int64)
    for camera in _near_cameras(second.cameras, first.xyz[place], RANGE_M * unit):
        view = _View(second.cameras, camera, second.xyz, voxel, RANGE_M * unit)
        through, on_it = view.look(first.xyz[place])
        frames.append(int(second.cameras.frame_index[camera]))
        looks = np.concatenate([looks, through[None]])
        met += on_it
    count = looks.sum(0)
    seen = (count >= _THROUGH) & (met <= _MET * count)
    seen[seen] = ~_moved(first, place[seen], voxel, unit)
    label = np.full(len(place), -1)
    label[seen] = _gathered(first, place[seen], voxel)
    kept = label >= 0
    best = [_best_look(looks[:, label == n], second, frames, first.xyz[place[label == n]]) for n in _numbers(label)]
    return Objects(place[kept], label[kept], np.array(best, np.int64))


def _numbers(label: Numbers) -> range:
    return range(int(label.max(initial=-1)) + 1)


def _best_look(looks: Mask, cloud: Cloud, frames: Sequence[int], xyz: Floats) -> int:
    """The nearest frame of those that look through nearly as much of an object as any."""
    counts = looks.sum(1)
    eyes = cloud.cameras.world_from_camera[cloud.cameras.places(np.array(frames)), :3, 3]
    away = np.linalg.norm(eyes - xyz.mean(0), axis=1)
    return frames[int(np.argmin(np.where(counts >= _NEARLY * counts.max(), away, np.inf)))]


def _near_cameras(cameras: Cameras, xyz: Floats, reach: float) -> list[int]:
    """Cameras within reach of the points' box, evenly some of them."""
    eye = cameras.world_from_camera[:, :3, 3]
    off = np.maximum(np.maximum(xyz.min(0) - eye, eye - xyz.max(0)), 0.0)
    near = np.flatnonzero(np.linalg.norm(off, axis=1) < reach)
    if len(near) > _VIEWS:
        near = near[np.linspace(0, len(near) - 1, _VIEWS).round().astype(int)]
    return [int(n) for n in near]


class _View:
    """The ranges that a camera saw, in cells of a degree: of points (n, 3), each as wide as a cube looks from there."""

    def __init__(self, cameras: Cameras, camera: int, xyz: Floats, cube: float, reach: float) -> None:
        self._cameras, self._camera, self._cube, self._reach = cameras, camera, cube, reach
        self._eye = cameras.world_from_camera[camera, :3, 3]
        self._side = max(float(cameras.intrinsics[camera, 0]) * _CELL, 1.0)
        size = np.ceil(cameras.sizes[camera][::-1] / self._side).astype(np.int64)
        whole = 2 ** (_LEVELS - 1)
        self._shape = tuple(int(n) for n in -(-size // whole) * whole)
        cell, away, inside = self._cells(xyz, 2 * reach)
        cell, away = cell[inside], away[inside]
        level = np.clip(np.ceil(np.log2(np.maximum(cube / (_CELL * away), 1.0))), 0, _LEVELS - 1).astype(np.int64)
        self._own = np.full(self._shape, np.inf)
        for n in range(_LEVELS):
            coarse = np.full((self._shape[0] >> n, self._shape[1] >> n), np.inf)
            at = cell[level == n] >> n
            np.minimum.at(coarse, (at[:, 0], at[:, 1]), away[level == n])
            np.minimum(self._own, coarse.repeat(1 << n, 0).repeat(1 << n, 1), out=self._own)
        self._nearest = minimum_filter(self._own, 3, mode="nearest")
        filled = uniform_filter(np.isfinite(self._own).astype(np.float64), 3, mode="constant")
        self._nearest[filled < (_FILLED - 0.5) / 9] = 0.0  # too little was seen there to say anything

    def _cells(self, xyz: Floats, reach: float) -> tuple[Numbers, Array, Mask]:
        """Row and column (n, 2), range (n,) and whether the camera has the point in its picture within reach."""
        away = np.linalg.norm(xyz - self._eye, axis=1)
        inside = (away < reach) & (away > 0)
        cell = np.zeros((len(xyz), 2), np.int64)
        pixel, _ = self._cameras.project(self._camera, xyz[inside])
        good = np.asarray(np.isfinite(pixel).all(1))
        at = np.floor(np.where(good[:, None], pixel, -1.0)[:, ::-1] / self._side)
        good &= ((at >= 0) & (at < self._shape)).all(1)
        cell[np.flatnonzero(inside)[good]] = at[good].astype(np.int64)
        inside[np.flatnonzero(inside)[~good]] = False
        return cell, away, inside

    def look(self, xyz: Floats) -> tuple[Mask, Mask]:
        """Whether the camera looks through each point (n, 3), and whether it met a surface there."""
        cell, away, inside = self._cells(xyz, self._reach)
        slack = _SHARE * away + _CUBES * self._cube
        nearest, own = (grid[cell[:, 0], cell[:, 1]] for grid in (self._nearest, self._own))
        return inside & (nearest > away + slack), inside & (np.abs(own - away) < slack)


def _moved(cloud: Cloud, place: Numbers, voxel: float, unit: float) -> Mask:
    """Which of the points at `place` (k,) the drive's own cameras look through at another time."""
    if not len(place):
        return np.zeros(0, bool)
    xyz, frame = cloud.xyz[place], cloud.frame_index[place]
    votes = np.zeros((len(place), 2), np.int64)
    order = np.argsort(cloud.frame_index, kind="stable")
    sorted_frames = cloud.frame_index[order]
    for camera in _near_cameras(cloud.cameras, xyz, RANGE_M * unit):
        at = int(cloud.cameras.frame_index[camera])
        low, high = np.searchsorted(sorted_frames, (at - _OWN_FRAMES, at + _OWN_FRAMES + 1))
        view = _View(cloud.cameras, camera, cloud.xyz[order[low:high]], 2 * voxel, RANGE_M * unit)
        other = np.abs(frame - at) > _OWN_FRAMES
        votes += np.stack([look & other for look in view.look(xyz)], 1)
    return np.asarray((votes[:, 0] >= _OWN_THROUGH) & (votes[:, 0] > votes[:, 1]))


def _gathered(cloud: Cloud, place: Numbers, voxel: float) -> Numbers:
    """Number of the object of each point at `place` (k,), -1 of those that are too few, too small, seen in one frame
    alone or without a surface."""
    if not len(place):
        return np.zeros(0, np.int64)
    xyz = cloud.xyz[place]
    tree = cKDTree(xyz)
    pairs = tree.query_pairs(_LINK * voxel, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(xyz), len(xyz)))
    _, part = connected_components(links, directed=False)
    part = np.asarray(part)
    rough = _roughness(cloud.xyz, xyz)
    label, count = np.full(len(xyz), -1), 0
    for number in np.flatnonzero(np.bincount(part) >= _LEAST_POINTS):
        mine = part == number
        axes = np.linalg.svd(xyz[mine] - xyz[mine].mean(0), full_matrices=False)[2]
        extent = np.ptp(xyz[mine] @ axes.T, axis=0)
        frames = np.unique(cloud.frame_index[place[mine]])
        if extent[1] >= _LEAST_EXTENT * voxel and len(frames) > 1 and np.median(rough[mine]) < _ROUGH:
            label[mine], count = count, count + 1
    return label


def _roughness(every: Floats, xyz: Floats) -> Array:
    """(k,): surface variation around points: least eigenvalue of their neighbours' spread over all three."""
    _, near = cKDTree(every).query(xyz, min(_NEIGHBOURS, len(every)))
    spread = every[near.reshape(len(xyz), -1)].astype(np.float64)
    spread -= spread.mean(1, keepdims=True)
    values = np.linalg.eigvalsh(spread.transpose(0, 2, 1) @ spread)
    return np.asarray(values[:, 0] / np.maximum(values.sum(1), 1e-12))
