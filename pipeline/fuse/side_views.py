"""Views to the sides of a street, in which drives in opposite directions see the same picture of a facade.

Forward cameras in opposite directions look at a facade from two sides, often more than 100 degrees apart. A picture is
resampled as a virtual camera sees it that looks across the street: both drives then see facades parallel to the street
from the front, and differ by size and place only. A camera that turns needs no depth, so the view is exact.

Street axes: x right, y down, z along the street. A point on the side `side` (1 right, -1 left) has the coordinates
u = z / |x| (along the street, in units of its distance from the camera's path) and v = y / |x|.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.fuse.published_drives import SeenDrive
from pipeline.fuse.two_drives import Look, depth_at, root_sift

Array = NDArray[np.float64]

RIGHT, LEFT = 1, -1
_LARGEST_U = 3.0  # farther ahead (18 degrees off the street's direction) a facade has too few pixels
_SMALLEST_U = -1.5  # a camera to the side also looks back
_LEAST_ASIDE = 25.0  # degrees off the street's direction that a picture must reach
_HIGH = 1.0  # largest |v|: 45 degrees up and down
_FINEST = 320.0  # most pixels of a view a unit of u and v
_AROUND = 5  # frames before and after, between which the path shows the street's direction
_EDGE = 4  # pixels beside the border of a view without features
_LARGEST = 1500  # most features of a view
_CONTRAST = 0.02  # least contrast of a feature; SIFT's usual 0.04 leaves few on facades in shadow


@dataclass(frozen=True, eq=False)
class SideView:
    """A view to one side. picture (h, w): grey; inside (h, w): where the camera saw something; source (h, w, 2): pixel
    of the camera's picture that each pixel shows, centre of the first pixel at 0.5."""

    picture: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    source: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BothSides:
    """Features of a frame in its views to the right and to the left, and street_from_camera (3, 3). Their pixels and
    rays are those of the camera's own picture."""

    right: Look
    left: Look
    street_from_camera: Array


def street_axes(world_from_camera: Array, place: int) -> Array:
    """street_from_camera (3, 3): the street's axes at frame `place` of a camera's path (N, 4, 4). z is the direction of
    the path, x is level as the camera is. A camera that stands has its own axes."""
    low, high = max(place - _AROUND, 0), min(place + _AROUND, len(world_from_camera) - 1)
    way = world_from_camera[high, :3, 3] - world_from_camera[low, :3, 3]
    length = float(np.linalg.norm(way))
    if length < 1e-9:
        return np.eye(3)
    along = world_from_camera[place, :3, :3].T @ (way / length)
    right = np.cross([0.0, 1.0, 0.0], along)
    size = float(np.linalg.norm(right))
    if size < 0.1:  # a camera that looks up or down
        return np.eye(3)
    right /= size
    return np.stack([right, np.cross(along, right), along])


def axes_of(drive: SeenDrive, place: int) -> Array:
    """`street_axes` at frame `place` of a drive, by the path of the camera that took it."""
    own = np.flatnonzero(drive.rig.camera == drive.rig.camera[place])
    return street_axes(drive.opened.cameras.world_from_camera[own], int(np.searchsorted(own, place)))


def nearest_u(shape: tuple[int, int], intrinsics: Array, street_from_camera: Array, side: int) -> float | None:
    """The smallest u that a pinhole picture of `shape` (h, w) shows on a side; None if it does not reach 25 degrees
    off the street's direction there."""
    high, wide = shape
    ring = np.concatenate(
        [np.stack([np.full(9, x), np.linspace(0, high, 9)], 1) for x in (0.0, float(wide))]
        + [np.stack([np.linspace(0, wide, 9), np.full(9, y)], 1) for y in (0.0, float(high))]
    )
    ray = np.concatenate([(ring - intrinsics[2:]) / intrinsics[:2], np.ones((len(ring), 1))], 1)
    x, y, z = street_from_camera @ ray.T
    level = (side * x > 1e-6) & (np.abs(y) <= _HIGH * side * x)
    if not level.any():
        return None
    least = max(float((z[level] / (side * x[level])).min()), _SMALLEST_U)
    return least if least <= 1 / np.tan(np.radians(_LEAST_ASIDE)) else None


def side_view(grey: NDArray[np.uint8], intrinsics: Array, street_from_camera: Array, side: int) -> SideView | None:
    """The view of a pinhole picture (h, w), intrinsics (4,): fx fy cx cy, to a side; None where it shows too little of
    it. Facades are not mirrored: on the right side u grows to the left."""
    least = nearest_u((grey.shape[0], grey.shape[1]), intrinsics, street_from_camera, side)
    if least is None:
        return None
    fine = min(float(intrinsics[0]) / max(least, 1.0), _FINEST)
    across = (np.arange(int((_LARGEST_U - least) * fine)) + 0.5) / fine
    u, v = np.meshgrid(
        _LARGEST_U - across if side == RIGHT else least + across,
        (np.arange(int(2 * _HIGH * fine)) + 0.5) / fine - _HIGH,
    )
    ray = np.stack([np.full_like(u, side), v, u], -1) @ street_from_camera
    front = ray[..., 2] > 1e-6
    source = ray[..., :2] / np.where(front, ray[..., 2], 1.0)[..., None] * intrinsics[:2] + intrinsics[2:]
    inside = front & (source >= 0.5).all(-1) & (source <= np.array(grey.shape[::-1]) - 0.5).all(-1)
    at = np.where(inside[..., None], source, 0.5).astype(np.float32)
    picture = cv2.remap(grey, at - np.float32(0.5), None, cv2.INTER_CUBIC)
    return SideView(np.asarray(picture, np.uint8), inside, at)


def look_aside(
    grey: NDArray[np.uint8], intrinsics: Array, street_from_camera: Array, points: Array | None = None
) -> BothSides:
    """Features of a grey pinhole picture (h, w) in its views to both sides. Their depths are those of `points` (m, 3)
    in the camera's axes, drive units; None: no depths are needed, they are NaN."""
    sides = [_features(grey, intrinsics, street_from_camera, side, points) for side in (RIGHT, LEFT)]
    return BothSides(sides[0], sides[1], street_from_camera)


def _features(
    grey: NDArray[np.uint8], intrinsics: Array, street_from_camera: Array, side: int, points: Array | None
) -> Look:
    width, focal = grey.shape[1], float(intrinsics[0])
    view = side_view(grey, intrinsics, street_from_camera, side)
    none = np.zeros((0, 2))
    nothing = Look(width, none, np.zeros((0, 3)), np.zeros((0, 128), np.float32), np.zeros(0), focal)
    if view is None or not view.inside.any():
        return nothing
    make = cv2.SIFT_create  # type: ignore[attr-defined]  # OpenCV's stubs lack it
    sift = make(nfeatures=_LARGEST, contrastThreshold=_CONTRAST)
    mask = cv2.erode(view.inside.astype(np.uint8), np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8), borderValue=0)
    found: dict[tuple[tuple[float, float], int], cv2.KeyPoint] = {}
    for one in sift.detect(view.picture, mask * 255):
        # Both drives see a facade upright: without turns of their own, features of a facade differ more.
        one.angle = 0.0
        found.setdefault((one.pt, one.octave), one)
    if not found:
        return nothing
    kept, descriptor = sift.compute(view.picture, list(found.values()))
    at = np.array([one.pt for one in kept], np.float32)
    pixel = np.asarray(cv2.remap(view.source, at[:, None], None, cv2.INTER_LINEAR)[:, 0], np.float64)
    ray = np.concatenate([(pixel - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixel), 1))], 1)
    depth = np.full(len(pixel), np.nan) if points is None else depth_at(pixel, points, intrinsics)
    return Look(width, pixel, ray, root_sift(descriptor), depth, focal)
