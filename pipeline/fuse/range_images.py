"""Range images of cameras: how far a drive saw in each direction. Each camera's image is made once, whichever tiles and
drives it is compared with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter

from pipeline.publish.cameras import Cameras

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]

PointsOf = Callable[[int], tuple[Floats, Numbers]]
"""Points (n, 3) of a drive around one of its cameras, by row, and the frame (n,) that saw each one."""

OWN_FRAMES = 4
"""Instants before and after a camera's own whose points it saw at about the same time."""
_CELL = np.radians(1.0)  # side of a cell of a camera's range image
_MOST_CELLS = 720  # of a side: a pinhole of more than 160 degrees would have thousands of narrow ones
_LEVELS = 4  # a near point covers up to 2^3 cells a side
_SHARE, _CUBES = 0.05, 2.0  # a surface is behind a point if it is farther by this share of the range plus so many cubes
_FILLED = 5  # of the nine cells around a direction must contain points, else the camera does not count there
_MARGIN = 1.05  # a pinhole camera's picture is widened by this factor when points are chosen to be projected
_HELD = 512  # images of a drive that are kept, 40 kB each for an opening of 90 degrees


class RangeImages:
    """The range images of a drive's cameras.

    points_of: see PointsOf; cube: side of the cubes of which the drive keeps one point each; reach: largest distance
    to a point that is compared; of_rig: number of cameras, whose frames alternate.
    """

    def __init__(self, cameras: Cameras, points_of: PointsOf, cube: float, reach: float, of_rig: int = 1) -> None:
        self._cameras, self._points_of, self._cube, self._reach = cameras, points_of, cube, reach
        self._around = OWN_FRAMES * of_rig
        self._made: OrderedDict[tuple[int, bool], RangeImage] = OrderedDict()

    def of(self, camera: int, own: bool = False) -> RangeImage:
        """The image of a camera. own: of the points only that its frame and those about it saw."""
        key = (camera, own)
        if key not in self._made:
            xyz, frame = self._points_of(camera)
            if own:
                xyz = xyz[np.abs(frame - int(self._cameras.frame_index[camera])) <= self._around]
            cube = 2 * self._cube if own else self._cube
            self._made[key] = RangeImage(self._cameras, camera, xyz, cube, self._reach)
            while len(self._made) > _HELD:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]


class RangeImage:
    """Range image of a camera, with cells of one degree, of points (n, 3). Each point is as wide as a cube seen from
    the camera."""

    def __init__(self, cameras: Cameras, camera: int, xyz: Floats, cube: float, reach: float) -> None:
        self._cameras, self._camera, self._cube, self._reach = cameras, camera, cube, reach
        self._eye = cameras.world_from_camera[camera, :3, 3]
        wide = float(cameras.sizes[camera].max())
        self._side = max(float(cameras.intrinsics[camera, 0]) * _CELL, wide / _MOST_CELLS, 1.0)
        size = np.ceil(cameras.sizes[camera][::-1] / self._side).astype(np.int64)
        whole = 2 ** (_LEVELS - 1)
        self._shape = tuple(int(n) for n in -(-size // whole) * whole)
        _, cell, away = self._cells(xyz, 2 * reach)
        level = np.clip(np.ceil(np.log2(np.maximum(cube / (_CELL * away), 1.0))), 0, _LEVELS - 1).astype(np.int64)
        own = np.full(self._shape, np.inf)
        for n in range(_LEVELS):
            coarse = np.full((self._shape[0] >> n, self._shape[1] >> n), np.inf)
            at = cell[level == n] >> n
            np.minimum.at(coarse, (at[:, 0], at[:, 1]), away[level == n])
            np.minimum(own, coarse.repeat(1 << n, 0).repeat(1 << n, 1), out=own)
        nearest = minimum_filter(own, 3, mode="nearest")
        filled = uniform_filter(np.isfinite(own).astype(np.float64), 3, mode="constant")
        nearest[filled < (_FILLED - 0.5) / 9] = 0.0  # too few points there: the camera looks through nothing
        self._own, self._nearest = own.astype(np.float32), nearest.astype(np.float32)

    def _cells(self, xyz: Floats, reach: float) -> tuple[Numbers, Numbers, Array]:
        """Indices (m,) of the points that are within reach and in the picture; row and column (m, 2) of each one, and
        its range (m,)."""
        rows = self._before(xyz, reach)
        there = xyz[rows].astype(np.float64)
        off = there - self._eye
        away = np.sqrt(np.einsum("ni,ni->n", off, off))
        pixel, _ = self._cameras.project(self._camera, there)
        row, column = np.floor(pixel[:, 1] / self._side), np.floor(pixel[:, 0] / self._side)
        # Axis by axis: reductions along an axis of two take several times as long. NaN is not in the picture.
        good = (row >= 0) & (row < self._shape[0]) & (column >= 0) & (column < self._shape[1])
        good &= (away < reach) & (away > 0)
        cell = np.stack([row[good], column[good]], -1).astype(np.int64)
        return rows[good], cell, away[good]

    def _before(self, xyz: Floats, reach: float) -> Numbers:
        """Indices of the points that may be in the picture, quickly and with a margin: projection takes longer."""
        pose = self._cameras.world_from_camera[self._camera]
        local = (xyz - self._eye.astype(np.float32)) @ pose[:3, :3].astype(np.float32)
        x, y, z = local.T
        if self._cameras.model_of(self._camera) is not None:
            return np.flatnonzero((local**2).sum(1) < np.float32((_MARGIN * reach) ** 2))
        fx, fy, cx, cy = self._cameras.intrinsics[self._camera]
        width, height = self._side * self._shape[1], self._side * self._shape[0]
        across, down = (np.float32(_MARGIN * max(c, s - c) / f) for c, s, f in ((cx, width, fx), (cy, height, fy)))
        near = np.flatnonzero((z > 0) & (z < np.float32(_MARGIN * reach)))
        x, y, z = x[near], y[near], z[near]
        return near[(np.abs(x) < across * z) & (np.abs(y) < down * z)]

    def look(self, xyz: Floats) -> tuple[Mask, Mask]:
        """Whether (n,) the camera looks through each point (n, 3), and whether (n,) it saw a surface there."""
        rows, cell, away = self._cells(xyz, self._reach)
        slack = _SHARE * away + _CUBES * self._cube
        nearest, own = (grid[cell[:, 0], cell[:, 1]] for grid in (self._nearest, self._own))
        through, met = np.zeros(len(xyz), bool), np.zeros(len(xyz), bool)
        through[rows], met[rows] = nearest > away + slack, np.abs(own - away) < slack
        return through, met
