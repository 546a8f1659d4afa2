"""Finds objects that one drive saw and another drive looked through, by rays and not only by distance.

A camera of the second drive looks through a point of the first if everything it saw near that direction is clearly
behind the point. Enough cameras must look through a point, and hardly any may have seen a surface there. The cameras of
the first drive are tested in the same way: a point that they look through at another time belongs to something that
moved (a driving car), or is noise at the edge of an object. The remaining points are grouped into objects; groups
without a surface (leaves) are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.fuse.range_images import OWN_FRAMES, RangeImages
from pipeline.publish.cameras import Cameras
from pipeline.publish.voxels import own_voxel_keys

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

GONE, NEW = 1, 2
"""Class of a point. GONE: the earlier drive saw it, the later one looked through it. NEW: the other way round."""

RANGE_M = 30.0
"""Largest distance from a camera to a point that it is compared with, metres (or the equivalent in a city's frame)."""
_VIEWS = 64  # most cameras of a drive that are used for a tile
_THROUGH = 3  # cameras that must look through a point
_MET = 0.2  # most cameras that saw a surface at a point, as a share of those that look through it
_OWN_THROUGH = 2  # cameras of its own drive that look through a point that moved
_APART = 2.0  # cubes: a point that is nearer to a point of the other drive has not changed
_LINK = 4.0  # cubes: largest distance between neighbouring points of one object
_NEARLY = 0.7  # a camera shows an object well if it looks through this share of what the best camera does
_LEAST = 25, 5.0  # points of an object; cubes along its second longest side
_NEIGHBOURS, _ROUGH = 12, 0.1  # points for the surface variation (Pauly 2002); from 0.1 on they are leaves, no surface


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of a drive in a frame of the city. xyz (n, 3); frame_index (n,): the frame that saw each point; cameras:
    of the drive, with poses in the city; of_rig: number of cameras, whose frames alternate; images: range images of
    these cameras, of more points than these (the cloud may be a part of the drive)."""

    xyz: Floats
    frame_index: Numbers
    cameras: Cameras
    of_rig: int = 1
    images: RangeImages | None = None

    @cached_property
    def tree(self) -> cKDTree:
        """The points, to be searched by distance."""
        return cKDTree(self.xyz)

    def range_images(self, voxel: float, reach: float) -> RangeImages:
        """`images`; if there are none, those of the cloud's own points."""
        if self.images is not None:
            return self.images
        return RangeImages(self.cameras, lambda camera: (self.xyz, self.frame_index), voxel, reach, self.of_rig)

    def thinned(self, cube: float) -> tuple[Cloud, Numbers]:
        """One point of each cube of side `cube`, and the indices of these points."""
        _, places = np.unique(own_voxel_keys(np.ascontiguousarray(self.xyz.T), cube), return_index=True)
        places = np.sort(places)
        return replace(self, xyz=self.xyz[places], frame_index=self.frame_index[places]), places


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of a cloud that another drive looked through. point (k,): indices of the cloud's points; label (k,): each
    one's object, from 0; seen_by (number of objects,): a frame of the other drive that looks through the object."""

    point: Numbers
    label: Numbers
    seen_by: Numbers


def looked_through(first: Cloud, second: Cloud, asked: Mask, voxel: float, unit: float) -> Objects:
    """Objects of `first` that `second` looks through.

    asked (n,): which points of `first` may belong to objects (the others only stop rays); voxel: side of the cubes of
    which a drive keeps one point each; unit: length of a metre; both in units of the city's frame.
    """
    place = np.flatnonzero(asked)
    if len(place) and len(second.xyz):
        away, _ = second.tree.query(first.xyz[place], distance_upper_bound=_APART * voxel)
        place = place[~np.isfinite(away)]
    if not len(place) or not len(second.xyz):
        return Objects(*(np.zeros(0, np.int64) for _ in range(3)))
    frames: list[int] = []
    every = []
    met = np.zeros(len(place), np.int64)
    images = second.range_images(voxel, RANGE_M * unit)
    for camera in _near_cameras(second, first.xyz[place], RANGE_M * unit):
        through, on_it = images.of(camera).look(first.xyz[place])
        frames.append(int(second.cameras.frame_index[camera]))
        every.append(through)
        met += on_it
    looks = np.array(every, bool).reshape(-1, len(place))
    count = looks.sum(0)
    seen = (count >= _THROUGH) & (met <= _MET * count)
    seen[seen] = ~_moved(first, place[seen], voxel, unit)
    label = np.full(len(place), -1)
    label[seen] = gathered(first, place[seen], voxel)
    kept = label >= 0
    best = [_best_look(looks[:, label == n], second, frames, first.xyz[place[label == n]]) for n in _numbers(label)]
    return Objects(place[kept], label[kept], np.array(best, np.int64))


def glimpsed(cloud: Cloud, xyz: Array, voxel: float, unit: float) -> Mask:
    """Whether (n,) any camera of a cloud may look through each point (n, 3): a first, generous choice."""
    answer = np.zeros(len(xyz), bool)
    if len(xyz):
        images, near = cloud.range_images(voxel, RANGE_M * unit), xyz.astype(np.float32)
        for camera in _near_cameras(cloud, near, RANGE_M * unit):
            answer |= images.of(camera).look(near)[0]
    return answer


def _numbers(label: Numbers) -> range:
    return range(int(label.max(initial=-1)) + 1)


def _best_look(looks: Mask, cloud: Cloud, frames: Sequence[int], xyz: Floats) -> int:
    """The frame nearest to an object among those that look through nearly as many of its points as the best one."""
    counts = looks.sum(1)
    eyes = cloud.cameras.world_from_camera[cloud.cameras.places(np.array(frames)), :3, 3]
    away = np.linalg.norm(eyes - xyz.mean(0), axis=1)
    return frames[int(np.argmin(np.where(counts >= _NEARLY * counts.max(), away, np.inf)))]


def _near_cameras(cloud: Cloud, xyz: Floats, reach: float) -> list[int]:
    """Cameras of a cloud within `reach` of the points' box; if they are too many, evenly chosen ones."""
    eye = cloud.cameras.world_from_camera[:, :3, 3]
    off = np.maximum(np.maximum(xyz.min(0) - eye, eye - xyz.max(0)), 0.0)
    near = np.flatnonzero(np.linalg.norm(off, axis=1) < reach)
    if len(near) > _VIEWS:
        # camera by camera of a rig, so that even steps do not choose frames of one camera alone
        near = near[np.argsort(cloud.cameras.frame_index[near] % cloud.of_rig, kind="stable")]
        near = near[np.linspace(0, len(near) - 1, _VIEWS).round().astype(int)]
    return [int(n) for n in near]


def _moved(cloud: Cloud, place: Numbers, voxel: float, unit: float) -> Mask:
    """Which (k,) of the points with indices `place` (k,) the drive's own cameras look through at another time."""
    if not len(place):
        return np.zeros(0, bool)
    xyz, frame = cloud.xyz[place], cloud.frame_index[place]
    votes = np.zeros((len(place), 2), np.int64)
    images = cloud.range_images(voxel, RANGE_M * unit)
    for camera in _near_cameras(cloud, xyz, RANGE_M * unit):
        other = np.abs(frame - int(cloud.cameras.frame_index[camera])) > OWN_FRAMES * cloud.of_rig
        votes += np.stack([look & other for look in images.of(camera, own=True).look(xyz)], 1)
    return np.asarray((votes[:, 0] >= _OWN_THROUGH) & (votes[:, 0] > votes[:, 1]))


def gathered(
    cloud: Cloud, place: Numbers, voxel: float, rough_from: float = _ROUGH, least: tuple[int, float] = _LEAST
) -> Numbers:
    """Number (k,) of the object, from 0, of each point with index in `place` (k,). It is -1 where the group has too few
    points, is too small, was seen in one frame only, or has no surface (surface variation from `rough_from` on)."""
    if not len(place):
        return np.zeros(0, np.int64)
    xyz = cloud.xyz[place]
    tree = cKDTree(xyz)
    pairs = tree.query_pairs(_LINK * voxel, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(xyz), len(xyz)))
    _, part = connected_components(links, directed=False)
    part = np.asarray(part)
    rough = _roughness(cloud, xyz)
    label, count = np.full(len(xyz), -1), 0
    for number in np.flatnonzero(np.bincount(part) >= least[0]):
        mine = part == number
        axes = np.linalg.svd(xyz[mine] - xyz[mine].mean(0), full_matrices=False)[2]
        extent = np.ptp(xyz[mine] @ axes.T, axis=0)
        frames = np.unique(cloud.frame_index[place[mine]])
        if extent[1] >= least[1] * voxel and len(frames) > 1 and np.median(rough[mine]) < rough_from:
            label[mine], count = count, count + 1
    return label


def _roughness(cloud: Cloud, xyz: Floats) -> Array:
    """Surface variation (k,) at points xyz (k, 3) of a cloud: the least eigenvalue of the covariance of a point's
    neighbours, divided by the sum of all three."""
    _, near = cloud.tree.query(xyz, min(_NEIGHBOURS, len(cloud.xyz)))
    spread = cloud.xyz[near.reshape(len(xyz), -1)].astype(np.float64)
    spread -= spread.mean(1, keepdims=True)
    values = np.linalg.eigvalsh(spread.transpose(0, 2, 1) @ spread)
    return np.asarray(values[:, 0] / np.maximum(values.sum(1), 1e-12))
