"""Corner tracks through consecutive pictures: Shi-Tomasi corners over a grid, followed by pyramidal Lucas-Kanade.

It needs only the pictures, not the network. A track is one point of the scene that two or more frames see. Corners are
those of Shi and Tomasi, "Good Features to Track" (1994). Bouguet's pyramidal Lucas-Kanade (2001) follows them forward
and backward. Points that contradict the epipolar geometry of two neighbouring pictures are dropped (MAGSAC++, Barath et
al. 2020). What remains is found again by the patch with which its track began (templates.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.templates import Templates

Grey = NDArray[np.uint8]
Floats = NDArray[np.float64]

LONG_SIDE = 1280  # pixels: larger pictures are reduced to it; KITTI's of 1,226 pixels keep their size
# Pictures whose long side has fewer pixels are not tracked. In them, the nearer of two surfaces in a patch pulls the
# corner by 0.03 to 0.05 pixels, always to the same side. On the rendered sample drive of 224 pixels this gives an error
# of 0.04 degrees of pitch a frame, which accumulates (ATE 0.41 -> 0.79 m), although the error of the rotation between
# two frames is a third of the network's.
LEAST_LONG_SIDE = 300
_CELLS = 200  # number of cells of the grid over which corners are spread
_IN_CELL = 3  # most live tracks in a cell
# Side in pixels of the patch that Lucas-Kanade and the templates compare, as a share of the picture's long side. A
# patch that covers much of the picture contains several depths, and its far parts shorten the measured motion: 21
# pixels shorten all motions by 7 % in pictures of 224 pixels and by 2 % in those of 336; 9 pixels by less than 0.5 %.
_PATCH_SHARE, _LEAST_PATCH, _LARGEST_PATCH = 1 / 110, 9, 21
_LEVELS = 4  # pyramid levels above the picture: motions of up to about 150 pixels
_RETURN = 0.5  # pixels: largest distance between a point and its position after following it forward and back
_EPIPOLAR = 1.0  # pixels: the largest noise scale that MAGSAC++ considers
_FEWEST = 20  # with fewer points the epipolar geometry of two pictures is not estimated
_STANDING = 0.7  # pixels: with a smaller median motion there is no epipolar geometry
_LEAST_CORNER = 1e-5  # smallest eigenvalue of a corner's gradient matrix, for grey values in [0, 1]
_BORDER = 4  # pixels at the picture's edge that have no corners


@dataclass(frozen=True, eq=False)
class Tracks:
    """Observations of points: n rows, sorted by track, then by frame.

    track (n,) int64: number of the track; frame (n,) int64: number of the frame among the drive's kept frames, from 0;
    xy (n, 2) float64: pixels of the source image, pixel centres at +0.5.
    """

    track: NDArray[np.int64]
    frame: NDArray[np.int64]
    xy: Floats

    def __len__(self) -> int:
        return len(self.track)

    @staticmethod
    def none() -> Tracks:
        """No observation."""
        return Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))

    @staticmethod
    def sorted(track: NDArray[np.int64], frame: NDArray[np.int64], xy: Floats) -> Tracks:
        """Tracks from rows in any order: track (n,), frame (n,), xy (n, 2)."""
        order = np.lexsort((frame, track))
        return Tracks(track[order], frame[order], xy[order])

    def select(self, rows: NDArray[np.bool_]) -> Tracks:
        """Only the rows that are True in `rows` (n,)."""
        return Tracks(self.track[rows], self.frame[rows], self.xy[rows])

    def at_least(self, frames: int) -> Tracks:
        """Only the tracks that at least so many frames see."""
        _, of, count = np.unique(self.track, return_inverse=True, return_counts=True)
        return self.select(count[of] >= frames)

    def between(self, first: int, second: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """The m tracks that both frames see: positions (m, 2) in frame `first` and in frame `second`, numbers (m,)."""
        a, b = self.frame == first, self.frame == second
        common, in_a, in_b = np.intersect1d(self.track[a], self.track[b], assume_unique=True, return_indices=True)
        return self.xy[a][in_a], self.xy[b][in_b], common


@dataclass(frozen=True, eq=False)
class Picture:
    """A grey picture at the size at which it is tracked. pixels (h, w); scale: source pixels per pixel in x and y."""

    pixels: Grey
    scale: tuple[float, float]

    @staticmethod
    def of(grey: Grey) -> Picture:
        """From the grey source image (h, w), reduced if its long side is longer than LONG_SIDE."""
        height, width = grey.shape
        factor = LONG_SIDE / max(height, width)
        if factor >= 1:
            return Picture(np.ascontiguousarray(grey), (1.0, 1.0))
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        reduced = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        return Picture(np.asarray(reduced, np.uint8), (width / size[0], height / size[1]))

    def to_source(self, points: NDArray[np.floating]) -> Floats:
        """Points (n, 2) in this picture as OpenCV counts (pixel centres at whole numbers) -> source pixels (n, 2),
        pixel centres at +0.5."""
        return (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * self.scale

    def from_source(self, xy: Floats) -> NDArray[np.float32]:
        """Source pixels (n, 2) -> points (n, 2) in this picture: the inverse of `to_source`."""
        return (xy / self.scale - 0.5).astype(np.float32)


@dataclass(frozen=True, eq=False)
class LiveTracks:
    """The n tracks that the last good picture of some pictures shows, which further pictures can go on with.

    frame, picture: the last good one; track (n,) int64: their numbers, which Tracks lacks if only this frame sees them;
    points (n, 2) float32: their places in this picture, pixel centres at whole numbers; templates: n.
    """

    frame: int
    picture: Picture
    track: NDArray[np.int64]
    points: NDArray[np.float32]
    templates: Templates

    @staticmethod
    def begun(frame: int, picture: Picture, track: NDArray[np.int64], xy: Floats) -> LiveTracks:
        """Tracks (n,) at source pixels xy (n, 2), whose templates begin in this picture."""
        points = picture.from_source(xy).reshape(-1, 2)
        return LiveTracks(frame, picture, track, points, Templates.of(picture.pixels, points, _side(picture.pixels)))

    def next(self, frame: int, picture: Picture, mask: NDArray[np.bool_] | None = None) -> LiveTracks:
        """Those that can be followed into the next good picture. mask: see `track_pictures`."""
        if not len(self.track):
            return LiveTracks(frame, picture, self.track, self.points, self.templates)
        points, good = _followed(self.picture.pixels, picture.pixels, self.points, mask)
        points, templates = self.templates.select(good).found(picture.pixels, points[good])
        return LiveTracks(frame, picture, self.track[good], points, templates)

    def joined(self, track: NDArray[np.int64], points: NDArray[np.float32]) -> LiveTracks:
        """With the tracks (m,) that begin in this picture at points (m, 2)."""
        fresh = Templates.of(self.picture.pixels, points, _side(self.picture.pixels))
        points = np.concatenate([self.points, points])
        track = np.concatenate([self.track, track])
        return LiveTracks(self.frame, self.picture, track, points, self.templates.joined(fresh))

    def select(self, rows: NDArray[np.bool_]) -> LiveTracks:
        """Only those that are True in `rows` (n,)."""
        templates = self.templates.select(rows)
        return LiveTracks(self.frame, self.picture, self.track[rows], self.points[rows], templates)

    @property
    def rows(self) -> Tracks:
        """Their observations in this picture."""
        return Tracks(self.track, np.full(len(self.track), self.frame), self.picture.to_source(self.points))


def track_pictures(
    pictures: Sequence[Picture | None], first_frame: int = 0, mask: NDArray[np.bool_] | None = None
) -> Tracks:
    """Tracks through consecutive pictures.

    Args:
        pictures: in time order, all of one size; picture i is frame first_frame + i. None where a frame could not be
            read: tracks continue across it.
        mask: (h, w) of the tracked picture, True where points may lie (False on the car's bonnet); None: everywhere.

    Returns:
        Tracks that at least two frames see, numbered from 0 in the order in which they begin.
    """
    return tracks_and_live(pictures, first_frame, mask)[0]


def tracks_and_live(
    pictures: Sequence[Picture | None], first_frame: int = 0, mask: NDArray[np.bool_] | None = None
) -> tuple[Tracks, LiveTracks | None]:
    """As `track_pictures`, with the tracks that the last good picture shows; None if no picture is good."""
    cv2.setRNGSeed(0)
    seen: list[Tracks] = []
    live: LiveTracks | None = None
    born = 0
    for frame, picture in enumerate(pictures, first_frame):
        if picture is None:
            continue
        if live is None:
            live = LiveTracks.begun(frame, picture, np.zeros(0, np.int64), np.zeros((0, 2)))
        else:
            live = live.next(frame, picture, mask)
        fresh = find_corners(picture.pixels, live.points, mask)
        live = live.joined(born + np.arange(len(fresh)), fresh)
        born += len(fresh)
        seen.append(live.rows)
    if not seen:
        return Tracks.none(), None
    return Tracks.sorted(*together(*seen)).at_least(2), live


def together(*parts: Tracks) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The rows of all parts: track (n,), frame (n,), xy (n, 2)."""
    return (
        np.concatenate([part.track for part in parts]),
        np.concatenate([part.frame for part in parts]),
        np.concatenate([part.xy for part in parts]),
    )


def follow(first: Picture, second: Picture, xy: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Follow points xy (n, 2), in source pixels of `first`, to `second`. Returns their source pixels there (n, 2), and
    which of them (n,) could be followed."""
    cv2.setRNGSeed(0)
    if not len(xy):
        return np.zeros((0, 2)), np.zeros(0, np.bool_)
    points, good = _followed(first.pixels, second.pixels, first.from_source(xy), None)
    return second.to_source(points), good


def follow_freely(first: Picture, second: Picture, xy: Floats, guess: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """As `follow`, but the search begins at `guess` (n, 2), in source pixels of `second`, and points are not tested
    against one epipolar geometry: the caller knows the geometry."""
    if not len(xy):
        return np.zeros((0, 2)), np.zeros(0, np.bool_)
    begin = second.from_source(guess)
    points, good = _found(first.pixels, second.pixels, first.from_source(xy), begin)
    return second.to_source(points), good


def find_corners(
    pixels: Grey, taken: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """New corners (n, 2): the strongest ones of each grid cell that has room beside the points `taken` (m, 2).

    pixels, mask (h, w); points are in pixels of this picture, pixel centres at whole numbers.
    """
    height, width = pixels.shape
    strength = cv2.cornerMinEigenVal(pixels, 3, ksize=3)
    peak = (strength == cv2.dilate(strength, np.ones((7, 7), np.uint8))) & (strength > _LEAST_CORNER)
    peak[:_BORDER], peak[-_BORDER:], peak[:, :_BORDER], peak[:, -_BORDER:] = False, False, False, False
    if mask is not None:
        peak &= mask
    cell = cell_side(pixels)
    across = int(width // cell) + 1
    count = np.bincount(_cells(taken, cell, across), minlength=across * (int(height // cell) + 1))
    if len(taken):
        occupied = np.zeros((height, width), np.uint8)
        inside = np.clip(np.rint(taken).astype(int), 0, [width - 1, height - 1])
        occupied[inside[:, 1], inside[:, 0]] = 1
        apart = 2 * room_of(pixels) + 1
        peak &= cv2.dilate(occupied, np.ones((apart, apart), np.uint8)) == 0
    y, x = np.divmod(np.flatnonzero(peak), width)
    points = np.stack([x, y], 1).astype(np.float32)
    home = _cells(points, cell, across)
    order = np.lexsort((x, y, -strength[y, x], home))
    home, points = home[order], points[order]
    rank = np.arange(len(home)) - np.searchsorted(home, home)  # the strongest corner of its cell is 0
    return points[rank + count[home] < _IN_CELL] if len(home) else points


def cell_side(pixels: Grey) -> float:
    """Side in pixels of a cell of the grid over which corners of a picture (h, w) are spread."""
    return max(float(np.sqrt(pixels.size / _CELLS)), 4.0)


def room_of(pixels: Grey) -> int:
    """Pixels in x and y within which no corner begins beside one that is there already."""
    return int(cell_side(pixels) / 5)


def _cells(points: NDArray[np.float32], cell: float, across: int) -> NDArray[np.int64]:
    place = np.maximum(points // cell, 0).astype(np.int64)
    return np.asarray(place[:, 1] * across + np.minimum(place[:, 0], across - 1))


def _followed(
    first: Grey, second: Grey, points: NDArray[np.float32], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Points (n, 2) in the next picture, and which (n,) are good: found, found again on the way back, inside the
    picture and the mask, and consistent with one epipolar geometry."""
    there, good = _found(first, second, points, None)
    height, width = second.shape
    if mask is not None:
        inside = np.clip(np.rint(there).astype(int), 0, [width - 1, height - 1])
        good &= mask[inside[:, 1], inside[:, 0]]
    moved = np.linalg.norm(there - points, axis=1)[good]
    if good.sum() >= _FEWEST and np.median(moved) > _STANDING:
        rigid = _rigid(points[good], there[good])
        if rigid.sum() >= _FEWEST:
            good[np.flatnonzero(good)[~rigid]] = False
    return there, good


def _found(
    first: Grey, second: Grey, points: NDArray[np.float32], guess: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Points (n, 2) in another picture, and which (n,) are good: found, found again on the way back, inside the
    picture. guess (n, 2): where the search begins; None: at the points."""
    height, width = second.shape
    side = _side(second)
    window = (side, side)
    flags = 0 if guess is None else cv2.OPTFLOW_USE_INITIAL_FLOW
    start = None if guess is None else guess.copy()
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        first, second, points, start, winSize=window, maxLevel=_LEVELS, flags=flags
    )
    there = there.reshape(-1, 2)
    good = (found.ravel() == 1) & (there >= _BORDER - 1).all(1)
    good &= (there[:, 0] <= width - _BORDER) & (there[:, 1] <= height - _BORDER)
    if good.any():  # each point is followed separately, so points that are already lost need not be followed back
        begun, start = points[good], None if guess is None else points[good]
        back, returned, _ = cv2.calcOpticalFlowPyrLK(
            second, first, there[good], start, winSize=window, maxLevel=_LEVELS, flags=flags
        )
        missed = np.linalg.norm(begun - back.reshape(-1, 2), axis=1)
        good[good] = (returned.ravel() == 1) & (missed < _RETURN)
    return there.astype(np.float32), good


def _side(pixels: Grey) -> int:
    """Side of a patch, an odd number of pixels."""
    side = 2 * round((_PATCH_SHARE * max(pixels.shape) - 1) / 2) + 1
    return int(np.clip(side, _LEAST_PATCH, _LARGEST_PATCH))


def _rigid(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,): which points (n, 2) of two pictures agree with one epipolar geometry; all False if OpenCV finds none."""
    try:
        _, inside = cv2.findFundamentalMat(first, second, cv2.USAC_MAGSAC, _EPIPOLAR, 0.999, 1000)
    except cv2.error:  # OpenCV fails an assertion where a sample has no model, on rare pairs of good pictures
        inside = None
    return np.zeros(len(first), np.bool_) if inside is None else np.asarray(inside.ravel() != 0)
