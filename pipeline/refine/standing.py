"""Whether a car stands, by corners of near objects, which are in the lower half of the picture.

From a car that stands, the road, kerbs and parked cars keep their places in the picture. Far objects and the car's own
bonnet also keep them while the car drives, and other traffic moves while it stands. So the lower half is divided into
cells, and the share of cells whose corners move decides. Before that, the motion of far corners (a camera that shakes
or rotates) is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.tracks import Picture, find_corners, follow

_LONG_SIDE = 640  # pixels: larger pictures give no better answer
_MOVED = 0.3  # pixels: a cell moves if the median motion of its corners is larger
_CELLS = (2, 4)  # rows and columns of cells in the lower half
_SHARE = 0.3  # the car drives if a larger share of the cells moves; its bonnet may fill the others
_IN_CELL = 6  # corners that a cell needs to be used
_FEWEST_CELLS = 3  # used cells without which a picture is not judged
_FEWEST = 12  # far corners that are needed to measure the camera's rotation from them alone
_USUAL_FOCAL = 0.7  # focal length over the picture's width
_ROUNDS, _NOISE = 5, 0.05  # of fitting the camera's rotation; noise of corners in pixels


def standing(pictures: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.bool_]:
    """Whether (n - 1,) the car stands from each of n grey pictures (h, w) to the next one.

    Each picture is compared with the one in which the car began to stand, so that slow motion accumulates. If near
    corners are still at the same place, the car has stood until this picture, also during pictures in between that
    cannot be judged (None, or a lorry hides the near objects). Where no picture shows that it stands, the answer is
    False.
    """
    stands: NDArray[np.bool_] = np.zeros(max(len(pictures) - 1, 0), np.bool_)
    begin: _Corners | None = None
    last, last_number = begin, 0
    for number, pixels in enumerate(pictures):
        if pixels is None:
            continue
        picture = Picture.of(pixels)
        if begin is not None and last is not None:
            moved = begin.moved(picture)
            if moved is None and last is not begin:  # for example, the light has changed since `begin`
                moved = last.moved(picture)
            if moved is None:
                continue
            if not moved:
                stands[last_number:number] = True
                last, last_number = _Corners.of(picture), number
                continue
        begin = last = _Corners.of(picture)
        last_number = number
    return stands


@dataclass(frozen=True)
class NearThings:
    """`standing` for the task that reads the pictures. long_side: pixels to which it reduces them."""

    long_side: int = _LONG_SIDE

    def standing(self, pictures: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.bool_]:
        """As the function `standing`, with OpenCV on one thread."""
        cv2.setNumThreads(1)
        return standing(pictures)


@dataclass(frozen=True, eq=False)
class _Corners:
    """A picture and its corners (n, 2)."""

    picture: Picture
    xy: NDArray[np.float64]

    @staticmethod
    def of(picture: Picture) -> _Corners:
        found = find_corners(picture.pixels, np.zeros((0, 2), np.float32))
        return _Corners(picture, picture.to_source(found))

    def moved(self, other: Picture) -> bool | None:
        """Whether near objects have moved in the other picture; None where too few corners are found there."""
        there, good = follow(self.picture, other, self.xy)
        here, motion = self.xy[good], (there - self.xy)[good]
        height, width = self.picture.pixels.shape
        far = here[:, 1] < height / 2
        used = far if far.sum() >= _FEWEST else np.ones_like(far)
        own = motion - _by_turning(here, motion, used, (width, height))
        rows, columns = _CELLS
        cell = np.clip((here / (width, height / 2) - (0, 1)) * (columns, rows), (0, -1), (columns - 1, rows - 1))
        number = (np.floor(cell) @ (1, columns)).astype(np.int64)
        number[far] = -1
        medians = [
            np.median(own[number == one], axis=0) for one in range(rows * columns) if (number == one).sum() >= _IN_CELL
        ]
        if len(medians) < _FEWEST_CELLS:
            return None
        return bool((np.linalg.norm(medians, axis=1) > _MOVED).mean() > _SHARE)


def _by_turning(
    here: NDArray[np.float64], motion: NDArray[np.float64], used: NDArray[np.bool_], size: tuple[int, int]
) -> NDArray[np.float64]:
    """The part (n, 2) of the motion (n, 2) of corners `here` (n, 2) that a small rotation of the camera explains.

    The rotation is fitted to the corners `used` (n,); size: (width, height) in pixels. The model is linear in the three
    angles (Longuet-Higgins and Prazdny 1980). Absolute errors are minimised, so that moving objects have little weight.
    The focal length is a usual one: for motions of a few tenths of a pixel it matters little.
    """
    focal = _USUAL_FOCAL * size[0]
    x, y = ((here - np.array(size) / 2) / focal).T
    across = np.stack([-x * y, 1 + x * x, -y], 1)
    down = np.stack([-(1 + y * y), x * y, x], 1)
    turns: NDArray[np.float64] = np.zeros(3)
    weight: NDArray[np.float64] = np.ones(int(used.sum()))
    rows = np.stack([across, down], 1)
    for _ in range(_ROUNDS):
        a = (rows[used] * weight[:, None, None]).reshape(-1, 3)
        turns = np.asarray(np.linalg.lstsq(a, (motion[used] * weight[:, None]).ravel(), rcond=None)[0])
        weight = 1 / np.sqrt(np.maximum(np.linalg.norm(motion[used] - rows[used] @ turns, axis=1), _NOISE))
    return np.asarray(rows @ turns)
