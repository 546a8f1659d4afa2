"""Finds the sky in a chunk by parallax: pixels without the motion that the network's depth predicts.

A point at infinity moves in the picture only when the camera turns, not when it travels. A pixel counts as sky if other
frames of its chunk agree with infinity although the pixel's depth predicts a motion of some pixels, and if it is
connected to the upper rim of the picture by such pixels. Nothing below the horizon counts.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_COLUMNS = 112  # width of the compared pictures: larger ones are shrunk by a whole factor
_PARTNERS = (0.15, 0.4, 1.0)  # distances between two compared frames, in median depths
_MOVES = 1.5  # pixels: a picture is evidence where the depth predicts a larger motion
_DIFFERS = 2  # a pixel is sky if fewer than one in so many pictures with evidence disagrees with infinity
_STEEP = 0.2  # the horizon follows the direction of travel up to this slope (a tangent)
_SAME = 9.0  # two pictures of one thing differ by at most so many grey values
_CALM = 10.0  # grey values: without evidence, sky continues to a neighbour across a smaller step


class SkyFinder:
    """The sky in the frames of one chunk.

    rgb (S, h, w, 3): the network's pictures; depth (S, h, w): its prediction; intrinsics (S, 3, 3) in pixels of those
    pictures; world_from_camera (S, 4, 4) in units of the depth. Other frames are compared only with `good` (S,) ones.
    """

    def __init__(
        self,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.floating],
        intrinsics: NDArray[np.floating],
        world_from_camera: NDArray[np.floating],
        good: NDArray[np.bool_],
    ) -> None:
        self._size = depth.shape[1:]
        self._factor = max(1, self._size[1] // _COLUMNS)
        self._pictures = [_shrunk(picture, self._factor) for picture in rgb]
        self._depth = depth
        self._k = np.array([np.diag([1 / self._factor, 1 / self._factor, 1.0]) @ k for k in np.asarray(intrinsics)])
        self._poses = np.asarray(world_from_camera, np.float64)
        self._good = np.flatnonzero(good)

    def of(self, place: int) -> Mask:
        """(h, w): True where the frame at this place of the chunk shows sky."""
        return _grown(self._small(place), self._factor, self._size)

    def _small(self, place: int) -> Mask:
        rows, columns = self._pictures[place].shape[:2]
        depth = self._depth[place][self._factor // 2 :: self._factor, self._factor // 2 :: self._factor]
        depth = np.asarray(depth[:rows, :columns], np.float64)
        usable = np.isfinite(depth) & (depth > 0)
        if not usable.any():
            return np.zeros((rows, columns), bool)
        told, moved = np.zeros((2, rows, columns), np.int64)
        for partner in self._partners(place, float(np.median(depth[usable]))):
            evident, differs = self._compared(place, partner, np.where(usable, depth, np.inf))
            told += evident
            moved += evident & differs
        still = (told > 0) & (_DIFFERS * moved < told)
        above = np.arange(rows)[:, None] < self._horizon(place)
        return _from_above(still & above, (told > 0) & ~still | ~above, self._pictures[place])

    def _horizon(self, place: int) -> float:
        """The row of the picture towards which the camera travels; that of the principal point where it does not travel
        ahead."""
        k, pose = self._k[place], self._poses[place]
        ways = (self._poses[self._good, :3, 3] - pose[:3, 3]) @ pose[:3, :3]
        way = ways[np.argmax(np.linalg.norm(ways, axis=1))] if len(ways) else np.zeros(3)
        ahead = abs(way[2]) > np.linalg.norm(way[:2])
        slope = np.clip(way[1] / way[2], -_STEEP, _STEEP) if ahead else 0.0
        return float(k[1, 2] + k[1, 1] * slope)

    def _partners(self, place: int, middle: float) -> list[int]:
        """Places of the good frames whose distances from this one are nearest to `_PARTNERS`, each once."""
        others = self._good[self._good != place]
        way = np.linalg.norm(self._poses[others, :3, 3] - self._poses[place, :3, 3], axis=1)
        found: list[int] = []
        for share in _PARTNERS:
            for side in (others < place, others > place):
                there = np.flatnonzero(side & (way > share * middle / 2) & (way < share * middle * 2))
                if len(there):
                    found.append(int(others[there[np.argmin(np.abs(way[there] - share * middle))]]))
        return sorted(set(found))

    def _compared(self, place: int, partner: int, depth: NDArray[np.float64]) -> tuple[Mask, Mask]:
        """Two masks: where the partner's picture is evidence, and where it disagrees with infinity there."""
        rows, columns = depth.shape
        k, other = self._k[place], self._k[partner]
        across = (np.arange(columns) + 0.5 - k[0, 2]) / k[0, 0]
        down = (np.arange(rows) + 0.5 - k[1, 2]) / k[1, 1]
        rotation = self._poses[partner, :3, :3].T @ self._poses[place, :3, :3]
        shift = self._poses[partner, :3, :3].T @ (self._poses[place, :3, 3] - self._poses[partner, :3, 3])
        ray = np.empty((rows, columns, 3))
        ray[..., 0], ray[..., 1], ray[..., 2] = across, down[:, None], 1.0
        turned = ray @ (other @ rotation).T
        near = turned + (other @ shift) / depth[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            far_pixel = turned[..., :2] / turned[..., 2:]
            near_pixel = near[..., :2] / near[..., 2:]
            parallax = np.linalg.norm(near_pixel - far_pixel, axis=-1)
        inside = (turned[..., 2] > 0) & (far_pixel >= 0.5).all(-1) & (far_pixel <= (columns - 0.5, rows - 0.5)).all(-1)
        behind = near[..., 2] <= 0  # it would have passed by the partner's camera
        evident = inside & (behind | (parallax >= _MOVES))
        place_there = np.where(inside[..., None], far_pixel, 0.5).astype(np.float32) - np.float32(0.5)
        seen = cv2.remap(self._pictures[partner], place_there[..., 0], place_there[..., 1], cv2.INTER_LINEAR)
        return evident, np.abs(seen - self._pictures[place]).max(-1) > _SAME


def _shrunk(picture: NDArray[np.uint8], factor: int) -> Floats:
    """Means over blocks of factor x factor pixels, slightly blurred; incomplete blocks at the rims are left out."""
    rows, columns = picture.shape[0] // factor, picture.shape[1] // factor
    cut = picture[: rows * factor, : columns * factor].astype(np.float32)
    return np.asarray(cv2.blur(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), (3, 3)), np.float32)


def _from_above(still: Mask, moving: Mask, picture: Floats) -> Mask:
    """Pixels that are connected to the upper rim: still ones, and those without evidence that continue still ones
    without an edge between."""
    step = np.abs(np.diff(picture, axis=0, prepend=picture[:1])).max(-1)
    unknown = ~still & ~moving & (step < _CALM)
    labels, _ = ndimage.label(still | unknown)
    rim = np.unique(labels[0][still[0]])
    found = np.isin(labels, rim[rim > 0])
    # Pixels that are reached only through a gap of one or two pixels are no sky.
    return np.asarray(ndimage.binary_opening(np.pad(found, 2, mode="edge"), np.ones((3, 3), bool))[2:-2, 2:-2])


def _grown(small: Mask, factor: int, size: tuple[int, ...]) -> Mask:
    big = small.repeat(factor, axis=0).repeat(factor, axis=1)
    missing = (size[0] - big.shape[0], size[1] - big.shape[1])
    return np.pad(big, ((0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else big
