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
# Distances ahead of a camera, in heights, at which it sees the road well: nearer there may be the bonnet; farther a
# pixel is longer than a cell.
_NEAREST, _FARTHEST = 2.2, 6.5
_STEP = 0.5  # heights between two pictures that are used
_MOST_PICTURES = 64
_AROUND = 10  # frames before and after, in which the road is found first; the next time in all pictures of the chart
_LONG_SIDE = 1280  # pixels: larger pictures are reduced
_FEWEST = 2  # pictures that must show a cell
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
    return drawn(pose[place], road, [(pose[n], pictures.intrinsics[n], grey) for n, grey in seen.items()])


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


def drawn(pose: Array, road: RoadPlane, pictures: Sequence[tuple[Array, Array, Picture]]) -> GroundChart:
    """The chart around a camera with `pose` (4, 4), of pictures: world_from_camera (4, 4), intrinsics (4,) fx fy cx cy
    in pixels, grey (h, w)."""
    down = road.normal
    ahead = pose[:3, 2] - down * (pose[:3, 2] @ down)
    ahead /= np.linalg.norm(ahead)
    right = np.cross(down, ahead)
    middle = pose[:3, 3] + ((road.point - pose[:3, 3]) @ down) * down
    unit = road.height * CELL
    high, wide = round(_LONG / CELL), round(_WIDE / CELL)
    column, row = np.meshgrid(np.arange(wide) + 0.5, np.arange(high) + 0.5)
    # World coordinates of a cell are linear in (column, row, 1), pixels of a picture are its image by a homography.
    corner = middle - right * unit * wide / 2 + ahead * unit * high / 2
    world = np.stack([right * unit, -ahead * unit, corner], 1)
    total, weight = np.zeros((high, wide), np.float32), np.zeros((high, wide), np.float32)
    count = np.zeros((high, wide), np.int32)
    for eye, (focal_x, focal_y, middle_x, middle_y), grey in pictures:
        camera = np.array([[focal_x, 0, middle_x], [0, focal_y, middle_y], [0, 0, 1.0]])
        image = camera @ eye[:3, :3].T @ (world - np.outer(eye[:3, 3], [0, 0, 1.0]))
        x, y, z = (line[0] * column + line[1] * row + line[2] for line in image)
        seen = (z > _NEAREST * road.height) & (z < _FARTHEST * road.height)
        depth = np.where(seen, z, road.height)
        x, y = x / depth, y / depth
        seen &= (x >= 0.5) & (y >= 0.5) & (x <= grey.shape[1] - 0.5) & (y <= grey.shape[0] - 0.5)
        source = [np.where(seen, one - 0.5, 0.0).astype(np.float32) for one in (x, y)]
        share = np.where(seen, (road.height / depth) ** 2, 0.0).astype(np.float32)
        total += share * cv2.remap(grey, source[0], source[1], cv2.INTER_LINEAR)
        weight += share
        count += seen
    inside = count >= _FEWEST
    picture = _even((total / np.maximum(weight, 1e-9)).astype(np.float32), inside)
    axes = pose[:3, :3].T @ np.stack([right, ahead, -down], 1)
    return GroundChart(picture, inside, axes, pose[:3, :3].T @ (middle - pose[:3, 3]), road.height)


def _even(picture: Picture, inside: NDArray[np.bool_]) -> Chart:
    """A picture (h, w) with the same brightness and contrast everywhere: other light changes both."""
    known = inside.astype(np.float32)

    def local(values: Picture) -> Picture:
        return np.asarray(cv2.GaussianBlur(values, (0, 0), _LOCAL), np.float32)

    share = np.maximum(local(known), 1e-3)
    away = ((picture - local(picture * known) / share) * known).astype(np.float32)
    spread = np.sqrt(np.maximum(local(away * away) / share, _FAINT**2))
    return np.asarray(np.round(128 + 50 * np.clip(away / spread, -_CLIPPED, _CLIPPED)), np.uint8)
