"""The plane of the road below some frames of a published drive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.published_drives import SeenDrive

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

_DOWN, _ASIDE = 0.1, 0.7  # least tangent below the axis and largest one to the side of a point of the road
_LEAN = 0.35  # radians: largest angle between the normal and the cameras' y axes
_CLIMB = 0.06  # radians: largest angle between the plane and the cameras' way, which goes along the road
_MOST = 3_000  # points that are used
_TRIED = 300  # planes through three points
_BAND = 0.03  # heights: largest distance from the plane of a point that counts for it
_FEWEST, _LEAST_SHARE = 30, 0.15  # points that must lie in the plane: number, and share of all below the cameras
_SPREAD = 0.02  # heights: distance from the plane at which a point has a quarter of its weight
_ROUNDS = 8  # of robust weighting
_SAMPLES, _SAMPLE_FRAMES = 9, 20  # parts of a drive, and frames of each, that show the usual height of its camera
_LARGEST_CHANGE = 0.15  # log ratio to it of the height in another place
_heights: dict[tuple[str, str, int], float | None] = {}  # by result and camera; not the drives, which are large


@dataclass(frozen=True, eq=False)
class RoadPlane:
    """normal (3,): unit vector downwards; point (3,): of the plane; both in the drive's world. height: of the cameras
    above it in the mean, drive units."""

    normal: Array
    point: Array
    height: float


def road_plane(drive: SeenDrive, places: Numbers) -> RoadPlane | None:
    """The road below frames `places` (n,) of one camera: the plane that contains most points which they see below
    them; None where too few points lie in one, or where it is not as far below the camera as in the rest of the drive.
    Triangulated corners are used, and dense points where those show no road. Raises DriveError and StorageError where
    the drive's tables cannot be read."""
    usual = _usual_height(drive, int(drive.rig.camera[places[0]]))
    if usual is None:
        return None
    for found in _planes(drive, places):
        if abs(np.log(found.height / usual)) < _LARGEST_CHANGE:
            return found
    return None


def _usual_height(drive: SeenDrive, camera: int) -> float | None:
    """The median height of a camera above the road, drive units; None where no road is seen."""
    name = drive.opened.uri, drive.key, camera
    if name not in _heights:
        own = np.flatnonzero(drive.rig.camera == camera)
        parts = np.array_split(own, max(min(_SAMPLES, len(own) // _SAMPLE_FRAMES), 1))
        found = [plane for part in parts for plane in islice(_planes(drive, part[:_SAMPLE_FRAMES]), 1)]
        _heights[name] = float(np.median([one.height for one in found])) if found else None
    return _heights[name]


def _planes(drive: SeenDrive, places: Numbers) -> Iterator[RoadPlane]:
    """The plane by corners, then that by dense points."""
    pose = drive.opened.cameras.world_from_camera[places]
    number = drive.frame_index[places]
    for seen in (_corners, _dense):
        points, frame = seen(drive, number)
        mine = np.flatnonzero(np.isin(frame, number))
        found = plane_below(pose, np.searchsorted(number, frame[mine]), points[mine])
        if found is not None:
            yield found


def plane_below(pose: Array, seen_by: Numbers, points: Array) -> RoadPlane | None:
    """The plane of most points (m, 3) below cameras; pose (n, 4, 4): world_from_camera; seen_by (m,): the camera that
    sees each point. By random triples (Fischler and Bolles 1981), then robust least squares."""
    local = np.einsum("mji,mj->mi", pose[seen_by, :3, :3], points - pose[seen_by, :3, 3])
    below = np.flatnonzero(
        (local[:, 2] > 0) & (local[:, 1] > _DOWN * local[:, 2]) & (np.abs(local[:, 0]) < _ASIDE * local[:, 2])
    )
    below = below[:: max(len(below) // _MOST, 1)]
    if len(below) < _FEWEST:
        return None
    points, local = points[below], local[below]
    down = pose[:, :3, 1].mean(0)
    down /= np.linalg.norm(down)
    eye = pose[:, :3, 3].mean(0)
    corner = points[np.random.default_rng(0).integers(0, len(points), (_TRIED, 3))]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    length = np.linalg.norm(normal, axis=1)
    normal /= np.maximum(length, 1e-12)[:, None] * np.where(normal @ down < 0, -1.0, 1.0)[:, None]
    height = np.einsum("tk,tk->t", normal, corner[:, 0] - eye)
    way = pose[-1, :3, 3] - pose[0, :3, 3]
    climb = np.abs(normal @ way) / max(float(np.linalg.norm(way)), 1e-12)
    good = np.flatnonzero((length > 1e-12) & (normal @ down > np.cos(_LEAN)) & (height > 0) & (climb < _CLIMB))
    if not len(good):
        return None
    normal, height = normal[good], height[good]
    away = np.abs((points - eye) @ normal.T - height)
    count = (away < _BAND * height).sum(0)
    best = int(count.argmax())
    if count[best] < max(_FEWEST, _LEAST_SHARE * len(points)):
        return None
    return _fitted(points, down, eye, normal[best], float(height[best]))


def _fitted(points: Array, down: Array, eye: Array, normal: Array, height: float) -> RoadPlane | None:
    """The plane near points (m, 3) by robust weights, from a first one."""
    on = eye + height * normal
    for _ in range(_ROUNDS):
        weight = (1 + ((points - on) @ normal / (_SPREAD * height)) ** 2) ** -2
        on = (points * weight[:, None]).sum(0) / weight.sum()
        spread = (points - on) * np.sqrt(weight)[:, None]
        normal = np.linalg.eigh(spread.T @ spread)[1][:, 0]
        normal = normal * (1.0 if normal @ down > 0 else -1.0)
        height = float((on - eye) @ normal)
        if height <= 0 or normal @ down < np.cos(_LEAN):
            return None
    return RoadPlane(normal, on, height)


def _corners(drive: SeenDrive, number: Numbers) -> tuple[Array, Numbers]:
    """Triangulated corners (m, 3) that frames see, and the frame number (m,) of each."""
    table = drive.opened.tracks
    if table is None:
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    frame = table["frame_index"].to_numpy()
    mine = np.flatnonzero((frame >= number[0]) & (frame <= number[-1]))
    xyz = np.stack([table[axis].to_numpy()[mine] for axis in "xyz"], -1)
    return xyz.astype(np.float64), frame[mine].astype(np.int64)


def _dense(drive: SeenDrive, number: Numbers) -> tuple[Array, Numbers]:
    """Dense points (m, 3) of frames, and the frame number (m,) of each."""
    table = drive.opened.points(columns=["x", "y", "z", "frame_index"], frames=(int(number[0]), int(number[-1]) + 1))
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
    return xyz.astype(np.float64), table["frame_index"].to_numpy().astype(np.int64)
