"""Confirms by pictures that an object stands in one drive and not in the other: seeds -> points -> objects.

Dense depth may lack an object, or have one where there is none. So groups of dense points and triangulated corners are
only seeds: `picture_depth` measures what the pictures of both drives say about them. Around seeds that agree the first
drive's pictures give more points. A point is confirmed if the first drive saw a surface there whenever it looked, and
the second one looks through it. Confirmed points are grouped into objects that have a surface and stand on the ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.fuse.change import Cloud, gathered, glimpsed, looked_through
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.fuse.picture_depth import correlations, seen_at, votes
from pipeline.publish.voxels import own_voxel_keys

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

_FEW, _LOOKS = 6, 10  # cameras that are asked about a point: first, and if these look through it
_OWN_MET = 3  # cameras of its own drive that must have seen a surface there
_AGAINST = 0.2  # most votes against a point, as a share of those for it
_SEED_THROUGH, _THROUGH = 1, 2  # cameras of the other drive that must look through a seed, and through a point
_MOST_SEEDS = 150  # dense points of a group that are tried
_LEAST_SEEDS = 3
_SEED_LINK_M = 1.2  # metres: largest distance between neighbouring seeds, and from a seed to a new point
_GROWN = 2  # times that points are looked for around those known
_GROWN_VIEWS = 6  # cameras of the first drive that look for them,
_GROWN_M = (4.0, 12.0)  # at these distances in metres
_APART_M = 0.1  # metres between the pixels that are tried, at the object
_MOST_PIXELS = 600  # of a camera
_DEPTHS = 32  # that are tried for a pixel
_ALIKE = 0.7  # least correlation of a pixel's patch at its depth
_ROUGH = 0.2  # surface variation of points of pictures without a surface: their noise is a cube, and edges are near
_LEAST = 20, 3.0  # points of an object, and cubes along its second longest side: the lowest third is not confirmed
_FOOT = 0.35  # largest height of an object's lowest points above the ground, as a share of the camera's height
_AROUND_M, _MOST_AROUND = 12.0, 60  # metres around an object, and points there that the second drive is asked about
_LEAST_AGREE, _AGREE = 5, 3.0  # of them, so many must be surfaces to it, and so many times those that it looks through
_LOWEST = 5  # per cent: the lowest points, of an object and of the ground about it


@dataclass(frozen=True, eq=False)
class Sight:
    """What a drive knows of a tile. cloud: its dense points in and around it; corners (m, 3): triangulated ones there;
    pictures: of the whole drive."""

    cloud: Cloud
    corners: Array
    pictures: DrivePictures


@dataclass(frozen=True, eq=False)
class Found:
    """An object that only one drive has. xyz (k, 3); camera, pixel (k, 2): row of the camera of its drive that shows
    each point, and where; through: row of a camera of the other drive that looks through it."""

    xyz: Array
    camera: Numbers
    pixel: Array
    through: int


def changed_objects(first: Sight, second: Sight, asked: Mask, near: Mask, voxel: float, unit: float) -> list[Found]:
    """Objects of `first` that `second` looks through.

    asked (n,), near (m,): which dense points and corners of `first` may be seeds; voxel, unit: as in
    `change.looked_through`.
    """
    made = looked_through(first.cloud, second.cloud, asked, voxel, unit)
    rng = np.random.default_rng(0)
    dense = [np.flatnonzero(made.label == n) for n in range(len(made.seen_by))]
    dense = [rng.permutation(one)[:_MOST_SEEDS] for one in dense]
    corners = first.corners[near]
    corners = corners[glimpsed(second.cloud, corners, voxel, unit)]
    points = [first.cloud.xyz[made.point[one]].astype(np.float64) for one in dense]
    seeds = np.concatenate([np.zeros((0, 3)), *points, corners])
    if len(seeds) < _LEAST_SEEDS:
        return []
    seeds = seeds[_judged(first, second, seeds, unit, _SEED_THROUGH)[0]]
    answer = []
    for part in _parts(seeds, _SEED_LINK_M * unit):
        answer += _grown(first, second, seeds[part], voxel, unit)
    return _without_doubles(answer, voxel)


def _judged(first: Sight, second: Sight, xyz: Array, unit: float, least: int) -> tuple[Numbers, Numbers]:
    """Indices of points (n, 3) that the first drive's pictures saw and `least` pictures of the second look through, and
    a camera for each that looks through it."""
    kept = np.arange(len(xyz))
    at_once = votes(second.pictures, xyz, unit, _FEW)
    kept = kept[(at_once.through > 0) & (at_once.met <= _AGAINST * at_once.through)]
    own = votes(first.pictures, xyz[kept], unit, _LOOKS)
    kept = kept[(own.met >= _OWN_MET) & (own.through <= _AGAINST * own.met)]
    other = votes(second.pictures, xyz[kept], unit, _LOOKS)
    good = (other.through >= least) & (other.met <= _AGAINST * other.through)
    return kept[good], other.camera[good]


def _parts(xyz: Array, link: float) -> list[Numbers]:
    """Groups of at least _LEAST_SEEDS points (n, 3) whose neighbours are nearer than `link`."""
    if len(xyz) < _LEAST_SEEDS:
        return []
    pairs = cKDTree(xyz).query_pairs(link, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(xyz), len(xyz)))
    _, part = connected_components(links, directed=False)
    groups = [np.flatnonzero(part == n) for n in np.flatnonzero(np.bincount(part) >= _LEAST_SEEDS)]
    return groups


def _grown(first: Sight, second: Sight, seeds: Array, voxel: float, unit: float) -> list[Found]:
    """Objects around seeds (n, 3), of points that the first drive's pictures measure."""
    xyz, camera, through = np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64)
    around = seeds
    for _ in range(_GROWN):
        fresh, by = _measured(first, around, unit)
        fresh, by = np.concatenate([xyz, fresh]), np.concatenate([camera, by])
        _, place = np.unique(own_voxel_keys(np.ascontiguousarray(fresh.T.astype(np.float32)), voxel), return_index=True)
        place = np.sort(place)
        new = place[place >= len(xyz)]
        good, seen = _judged(first, second, fresh[new], unit, _THROUGH)
        if not len(good):
            break
        xyz, camera = np.concatenate([xyz, fresh[new[good]]]), np.concatenate([camera, by[new[good]]])
        through = np.concatenate([through, seen])
        around = np.concatenate([seeds, xyz])
    if not len(xyz):
        return []
    cloud = Cloud(xyz.astype(np.float32), first.pictures.frame_index[camera], first.cloud.cameras)
    label = gathered(cloud, np.arange(len(xyz)), voxel, _ROUGH, _LEAST)
    answer = []
    for n in range(int(label.max(initial=-1)) + 1):
        mine = np.flatnonzero(label == n)
        if _stands(first, xyz[mine], unit) and _agree(first, second, xyz[mine], unit):
            pixel = np.stack([seen_at(first.pictures, camera[[k]], xyz[k])[0][0] for k in mine])
            best = int(np.bincount(through[mine]).argmax())
            answer.append(Found(xyz[mine], camera[mine], pixel, best))
    return answer


def _measured(first: Sight, known: Array, unit: float) -> tuple[Array, Numbers]:
    """Points (n, 3) near known ones (m, 3) by the first drive's pictures, and the row of the camera of each."""
    pictures, tree = first.pictures, cKDTree(known)
    pixel, depth, away = seen_at(pictures, np.arange(len(pictures.pose)), known.mean(0))
    shown = (
        (depth > 0)
        & (away > _GROWN_M[0] * unit)
        & (away < _GROWN_M[1] * unit)
        & ((pixel > 0) & (pixel < pictures.sizes)).all(1)
    )
    cameras = np.flatnonzero(shown)[::-1]  # the later ones are nearer
    if len(cameras) > _GROWN_VIEWS:
        cameras = cameras[np.linspace(0, len(cameras) - 1, _GROWN_VIEWS).round().astype(int)]
    points, rows = [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for camera in cameras.tolist():
        pixel, low, high = _pixels(pictures, camera, known, unit)
        if not len(pixel):
            continue
        inverse = np.linspace(1 / high, 1 / low, _DEPTHS)
        middle = 2 / (inverse[0] + inverse[-1])
        score, textured = correlations(pictures, camera, pixel, np.full(len(pixel), middle), 1 / (inverse * middle))
        best = score.argmax(1)
        at = np.arange(len(pixel))
        inner = np.clip(best, 1, _DEPTHS - 2)
        before, peak, behind = (score[at, inner + k] for k in (-1, 0, 1))
        bend = before - 2 * peak + behind
        shift = np.where(bend < 0, 0.5 * (before - behind) / np.where(bend < 0, bend, -1.0), 0.0).clip(-0.5, 0.5)
        good = textured & (best == inner) & (peak > _ALIKE)
        z = 1 / (inverse[0] + (inner + shift) * (inverse[1] - inverse[0]))
        lens, pose = pictures.intrinsics[camera], pictures.pose[camera]
        ray = np.concatenate([(pixel - lens[2:]) / lens[:2], np.ones((len(pixel), 1))], 1)
        xyz = (ray * z[:, None])[good] @ pose[:3, :3].T + pose[:3, 3]
        near = np.isfinite(tree.query(xyz, distance_upper_bound=_SEED_LINK_M * unit)[0])
        points.append(xyz[near])
        rows.append(np.full(int(near.sum()), camera))
    return np.concatenate(points), np.concatenate(rows)


def _pixels(pictures: DrivePictures, camera: int, known: Array, unit: float) -> tuple[Array, float, float]:
    """Pixels (n, 2) of a camera near known points (m, 3), and the least and largest depth to be tried there."""
    pose, lens = pictures.pose[camera], pictures.intrinsics[camera]
    local = (known - pose[:3, 3]) @ pose[:3, :3]
    local = local[local[:, 2] > unit]
    if not len(local):
        return np.zeros((0, 2)), 0.0, 0.0
    seen, room = local[:, :2] / local[:, 2:] * lens[:2] + lens[2:], _SEED_LINK_M * unit * lens[0] / local[:, 2]
    low = np.maximum((seen - room[:, None]).min(0), 4)
    high = np.minimum((seen + room[:, None]).max(0), pictures.sizes[camera] - 4)
    if (high <= low).any():
        return np.zeros((0, 2)), 0.0, 0.0
    step = max(_APART_M * unit * float(lens[0]) / float(np.median(local[:, 2])), 2.0)
    step = max(step, float(np.sqrt(np.prod(high - low) / _MOST_PIXELS)))
    column, row = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step))
    pixel = np.stack([column.ravel(), row.ravel()], 1)
    beside = cKDTree(seen).query(pixel)[0] < np.median(room)
    z = local[:, 2]
    nearest = max(float(z.min()) - _SEED_LINK_M * unit, 0.5 * float(z.min()))
    return pixel[beside], nearest, float(z.max()) + _SEED_LINK_M * unit


def _stands(first: Sight, xyz: Array, unit: float) -> bool:
    """Whether an object (k, 3) stands on the ground as the first drive's dense points show it. A car that comes towards
    the camera looks like a smaller and nearer one that stands still, but above the ground: at half the distance it
    floats at half the camera's height."""
    camera = int(np.argmin(np.linalg.norm(first.pictures.pose[:, :3, 3] - xyz.mean(0), axis=1)))
    up = -first.pictures.pose[camera, :3, 1]
    flat = np.eye(3) - np.outer(up, up)
    cloud = first.cloud.xyz.astype(np.float64)
    radius = np.linalg.norm((xyz - xyz.mean(0)) @ flat, axis=1).max() + 0.5 * unit
    about = cloud[np.linalg.norm((cloud - xyz.mean(0)) @ flat, axis=1) < radius]
    if not len(about):
        return False
    ground = np.percentile(about @ up, _LOWEST)
    foot, eye = np.percentile(xyz @ up, _LOWEST), first.pictures.pose[camera, :3, 3] @ up
    return bool(abs(foot - ground) < _FOOT * (eye - ground))


def _agree(first: Sight, second: Sight, xyz: Array, unit: float) -> bool:
    """Whether the second drive saw surfaces where the first one saw them around an object (k, 3)."""
    rng, known = np.random.default_rng(0), cKDTree(xyz)
    around = []
    for points in (first.corners, first.cloud.xyz.astype(np.float64)):
        away = np.linalg.norm(points - xyz.mean(0), axis=1)
        near = rng.permutation(np.flatnonzero(away < _AROUND_M * unit))[: 4 * _MOST_AROUND]
        around.append(points[near][known.query(points[near])[0] > _SEED_LINK_M * unit])
    asked = np.concatenate(around)[:_MOST_AROUND]
    own = votes(first.pictures, asked, unit, _FEW)
    sure = (own.met >= _OWN_MET) & (own.through <= _AGAINST * own.met)
    other = votes(second.pictures, asked[sure], unit, _FEW)
    met, through = (other.met > other.through).sum(), (other.through > other.met).sum()
    return bool(met >= _LEAST_AGREE and met >= _AGREE * through)


def _without_doubles(found: list[Found], voxel: float) -> list[Found]:
    """Each object once: seeds of one object may be in several groups."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -len(one.xyz)):
        if all(np.median(cKDTree(other.xyz).query(one.xyz)[0]) > 2 * voxel for other in kept):
            kept.append(one)
    return kept
