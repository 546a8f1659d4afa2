"""The road around a frame, seen from above: a chart of many pictures of a drive.

Forward cameras see the same road whatever direction they go, and its asphalt has a texture of its own. Each picture
shows the road ahead; pictures along some 30 m are resampled into one chart by the drive's own poses. The unit of a
chart is the camera's height above the road, so that charts of all drives have a similar scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.fuse.drive_pictures import DrivePictures
from pipeline.fuse.published_drives import SeenDrive
from pipeline.fuse.road_plane import RoadPlane, road_plane

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Picture = NDArray[np.float32]
Chart = NDArray[np.uint8]

CELL = 0.05
"""Side of a cell of a chart, in heights of the camera."""
_LONG, _WIDE = 14.0, 12.0  # size of a chart, in heights: along the frame's viewing direction, and across
_SHAPE = (round(_LONG / CELL), round(_WIDE / CELL))  # rows and columns
# Distances ahead of a camera, in heights, at which it sees the road well: nearer there may be the bonnet; farther a
# pixel is longer than a cell.
_NEAREST, _FARTHEST = 2.2, 6.5
_NEARER = 4.0  # power of the distance by which a picture's weight falls: a wrong plane moves what is far off
_STEP = 0.5  # heights between two pictures that are used
_MOST_PICTURES = 64
_AROUND = 10  # frames before and after, in which the road is found first; the next time in all pictures of the chart
_LONG_SIDE = 1280  # pixels: larger pictures are reduced
_FEWEST = 2  # pictures that must show a cell
# The plane by pictures: rounds; every so many cells in each direction; deviations of the plane by corners: height below
# the camera in heights, slopes; share of the differences by which one deviation makes them worse.
_ROUNDS, _EVERY, _STEPS, _PRIOR = 3, 3, np.array([0.01, 0.004, 0.004]), 0.005
_LOCAL = 12.0  # cells: deviation of the window in which brightness and contrast become the same
_FAINT = 1.0  # least contrast, grey levels
_CLIPPED = 2.5  # deviations at which brightness is cut, so that markings are no stronger than the asphalt


@dataclass(frozen=True, eq=False)
class GroundChart:
    """picture (h, w): the road from above, local brightness and contrast removed, the frame's viewing direction is up;
    inside (h, w): where pictures show it; camera_from_chart (3, 3) and origin (3,): the chart's axes right, ahead, up
    and its middle below the camera, in the camera's axes and drive units; height: of the camera, drive units."""

    picture: Chart
    inside: NDArray[np.bool_]
    camera_from_chart: Array
    origin: Array
    height: float

    def place(self, pixel: Array) -> Array:
        """Right and ahead (n, 2), in heights, of pixels (n, 2) of the chart, centre of the first one at 0."""
        high, wide = self.picture.shape
        return (pixel + 0.5 - np.array([wide, high]) / 2) * CELL * np.array([1.0, -1.0])


def ground_chart(drive: SeenDrive, place: int) -> GroundChart | str:
    """The chart around frame `place` of the drive's arrays, of pictures of the same camera; the reason, in words, why
    there is none."""
    where = f"drive {drive.drive_id}: frame {int(drive.frame_index[place])}"
    pose = drive.opened.cameras.world_from_camera
    own = np.flatnonzero(drive.rig.camera == drive.rig.camera[place])
    at = int(np.searchsorted(own, place))
    try:
        road = road_plane(drive, own[max(at - _AROUND, 0) : at + _AROUND + 1])
        chosen = own[:0] if road is None else own[_chosen(pose[own], at, road.height)]
        road = road_plane(drive, chosen) if len(chosen) else None
        if road is None:
            return f"{where}: the road is not seen well enough"
        pictures = DrivePictures(drive.opened, pose, drive.rig.count, _LONG_SIDE)
        seen = pictures.read(chosen.tolist())
    except PipelineError as error:
        return f"{where}: {' '.join(str(error).split())}"
    if len(seen) < _FEWEST:
        return f"{where}: its pictures cannot be read"
    shown = [Seen(pose[n], pictures.intrinsics[n], grey) for n, grey in seen.items()]
    return drawn(pose[place], plane_by_pictures(road, pose[place], shown), shown)


def _chosen(pose: Array, at: int, height: float) -> Numbers:
    """Indices of the poses (n, 4, 4) whose pictures show a part of the chart around pose `at`."""
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(pose[:, :3, 3], axis=0), axis=1))) / height
    way -= way[at]
    shows = (way > -_LONG / 2 - _FARTHEST) & (way < _LONG / 2 - _NEAREST)
    apart = np.diff(np.floor(way / _STEP), prepend=-np.inf) > 0
    some = np.flatnonzero(shows & apart)
    if len(some) > _MOST_PICTURES:
        some = some[np.linspace(0, len(some) - 1, _MOST_PICTURES).astype(np.int64)]
    return np.union1d(some, [at])


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture: world_from_camera (4, 4), intrinsics (4,): fx fy cx cy in pixels, grey (h, w)."""

    world_from_camera: Array
    intrinsics: Array
    grey: Picture


@dataclass(frozen=True, eq=False)
class Sheet:
    """The plane of a chart. world (3, 3): from (column, row, 1) of a cell to world coordinates; right, ahead, down
    (3,): its axes; middle (3,): below the camera; unit: drive units in a height."""

    world: Array
    right: Array
    ahead: Array
    down: Array
    middle: Array
    unit: float

    @staticmethod
    def on(road: RoadPlane, pose: Array) -> Sheet:
        """The sheet around a camera with `pose` (4, 4)."""
        down = road.normal
        ahead = pose[:3, 2] - down * (pose[:3, 2] @ down)
        ahead /= np.linalg.norm(ahead)
        right = np.cross(down, ahead)
        middle = pose[:3, 3] + ((road.point - pose[:3, 3]) @ down) * down
        size = road.height * CELL
        corner = middle - right * size * _SHAPE[1] / 2 + ahead * size * _SHAPE[0] / 2
        return Sheet(np.stack([right * size, -ahead * size, corner], 1), right, ahead, down, middle, road.height)

    def resampled(self, seen: Seen, column: Array, row: Array) -> tuple[Picture, Picture]:
        """A picture at cells (h, w), and their depths in heights, zero where it does not show them well."""
        focal_x, focal_y, middle_x, middle_y = seen.intrinsics
        camera = np.array([[focal_x, 0, middle_x], [0, focal_y, middle_y], [0, 0, 1.0]])
        eye = seen.world_from_camera
        # Pixels of cells in one plane are their image by a homography.
        image = camera @ eye[:3, :3].T @ (self.world - np.outer(eye[:3, 3], [0, 0, 1.0]))
        x, y, z = (line[0] * column + line[1] * row + line[2] for line in image)
        good = (z > _NEAREST * self.unit) & (z < _FARTHEST * self.unit)
        depth = np.where(good, z, self.unit)
        x, y = x / depth, y / depth
        high, wide = seen.grey.shape
        good &= (x >= 0.5) & (y >= 0.5) & (x <= wide - 0.5) & (y <= high - 0.5)
        source = [np.where(good, one - 0.5, 0.0).astype(np.float32) for one in (x, y)]
        grey = cv2.remap(seen.grey, source[0], source[1], cv2.INTER_LINEAR)
        return np.asarray(grey, np.float32), np.where(good, depth / self.unit, 0.0).astype(np.float32)


def cells(step: int = 1) -> tuple[Array, Array]:
    """Columns and rows (h, w) of the middles of every `step`-th cell."""
    column, row = np.meshgrid(np.arange(0, _SHAPE[1], step) + 0.5, np.arange(0, _SHAPE[0], step) + 0.5)
    return column, row


def drawn(pose: Array, road: RoadPlane, pictures: Sequence[Seen]) -> GroundChart:
    """The chart around a camera with `pose` (4, 4)."""
    sheet = Sheet.on(road, pose)
    total, weight = np.zeros(_SHAPE, np.float32), np.zeros(_SHAPE, np.float32)
    count = np.zeros(_SHAPE, np.int32)
    column, row = cells()
    for one in pictures:
        grey, depth = sheet.resampled(one, column, row)
        share = np.where(depth > 0, np.maximum(depth, 1.0) ** -_NEARER, 0.0).astype(np.float32)
        total += share * grey
        weight += share
        count += depth > 0
    inside = count >= _FEWEST
    picture = _even((total / np.maximum(weight, 1e-9)).astype(np.float32), inside)
    axes = pose[:3, :3].T @ np.stack([sheet.right, sheet.ahead, -sheet.down], 1)
    return GroundChart(picture, inside, axes, pose[:3, :3].T @ (sheet.middle - pose[:3, 3]), road.height)


def plane_by_pictures(road: RoadPlane, pose: Array, pictures: Sequence[Seen]) -> RoadPlane:
    """The plane with which pictures agree best, near `road`: corners of kerbs and tyres bias the plane of corners by
    half a percent of its height, which moves all that is seen ahead. Absolute differences of each picture from the mean
    of all are minimised over height and slopes at every third cell, by parabolas through three values of each."""
    column, row = cells(_EVERY)

    def cost(step: Array) -> float:
        grey, depth = _stack(Sheet.on(_moved(road, sheet, step * _STEPS), pose), pictures, column, row)
        known = depth > 0
        count = known.sum(0)
        known &= count >= _FEWEST
        if not known.any():
            return np.inf
        mean = np.where(known, grey, 0.0).sum(0) / np.maximum(count, 1)
        return float(np.abs(grey - mean)[known].mean()) * (1 + _PRIOR * float(step @ step))

    sheet = Sheet.on(road, pose)
    best, size = np.zeros(3), 1.0
    least = cost(best)
    for _ in range(_ROUNDS):
        for axis in np.eye(3):
            below, above = cost(best - size * axis), cost(best + size * axis)
            bend = below + above - 2 * least
            if not np.isfinite(bend):
                return road
            step = best + size * axis * (float(np.clip((below - above) / (2 * bend), -1, 1)) if bend > 0 else 0.0)
            for one, value in ((step, cost(step)), (best - size * axis, below), (best + size * axis, above)):
                if value < least:
                    best, least = one, value
        size *= 0.6
    return _moved(road, sheet, best * _STEPS)


def _stack(sheet: Sheet, pictures: Sequence[Seen], column: Array, row: Array) -> tuple[Picture, Picture]:
    both = [sheet.resampled(one, column, row) for one in pictures]
    return np.stack([grey for grey, _ in both]), np.stack([depth for _, depth in both])


def _moved(road: RoadPlane, sheet: Sheet, step: Array) -> RoadPlane:
    """The plane lowered by step[0] heights below the camera, with slopes step[1:] downwards, ahead and to the right."""
    normal = sheet.down - step[1] * sheet.ahead - step[2] * sheet.right
    normal /= np.linalg.norm(normal)
    point = sheet.middle + step[0] * sheet.unit * sheet.down
    return RoadPlane(normal, point, road.height)


def _even(picture: Picture, inside: NDArray[np.bool_]) -> Chart:
    """A picture (h, w) with the same brightness and contrast everywhere: other light changes both."""
    known = inside.astype(np.float32)

    def local(values: Picture) -> Picture:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), _LOCAL), np.float32)

    share = np.maximum(local(known), 1e-3)
    away = ((picture - local(picture * known) / share) * known).astype(np.float32)
    spread = np.sqrt(np.maximum(local(away * away) / share, _FAINT**2))
    return np.asarray(np.round(128 + 50 * np.clip(away / spread, -_CLIPPED, _CLIPPED)), np.uint8)
