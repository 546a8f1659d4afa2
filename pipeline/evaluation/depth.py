"""Compares published depth with true depth.

A drive publishes points, not depth maps. But every point has the number of its frame, and its z in this frame's camera
is the depth that the network predicted for one pixel. So the points are projected back and compared at the pixel where
they fall. Pixels that the confidence filter removed (by default those with at most a quarter of the median confidence)
cannot be compared. The errors are therefore smaller than those of all pixels; `coverage` says how many pixels were
compared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.evaluation.metrics import FloatArray, IntArray
from pipeline.publish import Cameras, PublishedDrive
from pipeline.synthetic.read import TrueDrive

SOURCE = "published points projected into their frames (what passed the confidence filter)"
_COLUMNS = ("x", "y", "z", "frame_index")
_BLOCK_ROWS = 4_194_304  # points that are grouped by frame at a time, about a shard: 100 MB
_KEPT_FRAMES = 16  # true depth images kept in RAM
# If the network's image has half the size, its pixel centres lie between source pixels: then always the right and lower
# one is taken, so that rounding does not decide.
_NUDGE = 0.01
_BIN, _SPAN = 1e-4, 16.0  # histogram of log(true / predicted): bins of 0.01 %, from e^-16 to e^16


@dataclass(frozen=True)
class DepthErrors:
    """Errors of depth after one scale for the whole drive, the median of true over predicted depth.

    abs_rel: mean of |depth - truth| / truth; within_125: share of pixels whose error is less than a factor of 1.25;
    scale: metres per world unit; pixels: how many were compared, in `frames` of `frames_with_truth` frames; coverage:
    the share that they cover of the image area with true depth, None if the points do not show the network's grid (if
    they were thinned by voxels); source: where the depth comes from; max_depth: true depth beyond was left out
    (metres). Errors are exact to the 0.01 % of a histogram's bin.
    """

    abs_rel: float
    within_125: float
    scale: float
    pixels: int
    frames: int
    frames_with_truth: int
    coverage: float | None
    source: str
    max_depth: float | None


class Ratios:
    """A histogram of ratios true / predicted depth, from which all errors are computed."""

    def __init__(self) -> None:
        self._counts = np.zeros(round(2 * _SPAN / _BIN), np.int64)

    def add(self, ratios: NDArray[np.floating]) -> None:
        """Add ratios (n,), above zero and finite."""
        bins = np.floor((np.log(ratios) + _SPAN) / _BIN).astype(np.int64)
        self._counts += np.bincount(np.clip(bins, 0, len(self._counts) - 1), minlength=len(self._counts))

    def __len__(self) -> int:
        return int(self._counts.sum())

    def median(self) -> float:
        """The lower median. Raises ValueError without ratios."""
        if not len(self):
            raise ValueError("no depth to take a median of")
        place = np.searchsorted(self._counts.cumsum(), (len(self) + 1) // 2)
        return float(np.exp((place + 0.5) * _BIN - _SPAN))

    def errors(self, scale: float) -> tuple[float, float]:
        """Mean of |scale * predicted - true| / true, and the share within a factor of 1.25."""
        used = np.flatnonzero(self._counts)
        counts = self._counts[used]
        factor = scale / np.exp((used + 0.5) * _BIN - _SPAN)  # scaled prediction over truth
        within = np.maximum(factor, 1 / factor) < 1.25
        total = counts.sum()
        return float((counts * np.abs(factor - 1)).sum() / total), float(counts[within].sum() / total)


def evaluate_depth(
    drive: PublishedDrive,
    truth: TrueDrive,
    frames: tuple[IntArray, IntArray],
    *,
    max_depth: float | None = None,
) -> DepthErrors | None:
    """Depth errors over the matched frames: positions (n,) in the drive and (n,) in its truth. None if no point of
    these frames falls on true depth. True depth beyond max_depth metres is left out.

    Raises DriveError if the truth has no depth or one of its images cannot be read.
    """
    true_frame = dict(zip(frames[0].tolist(), frames[1].tolist(), strict=True))
    cameras = drive.cameras
    images = _DepthImages(truth, max_depth)
    ratios = Ratios()
    points: dict[int, int] = {}
    cells: list[float] = []
    for frame, xyz in _frames_of_points(drive):
        if frame not in true_frame:
            continue
        depth, u, v = _projected(cameras, frame, xyz)
        image = images.of(true_frame[frame])
        height, width = image.shape
        across, down = cameras.sizes[cameras.places(np.array([frame]))[0]].tolist()
        column = np.floor(u * (width / across) + _NUDGE).astype(np.int64)
        row = np.floor(v * (height / down) + _NUDGE).astype(np.int64)
        seen = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        seen[seen] = image[row[seen], column[seen]] > 0
        if not seen.any():
            continue
        ratios.add(image[row[seen], column[seen]] / depth[seen])
        points[frame] = points.get(frame, 0) + int(seen.sum())
        cells.append(grid_spacing(u) * grid_spacing(v) / (across * down))
    if not len(ratios):
        return None
    with_truth = {frame: images.share_known(number) for frame, number in true_frame.items()}
    area = sum(with_truth.values())  # in images
    cell = float(np.nanmedian(cells)) if np.isfinite(cells).any() else None
    scale = ratios.median()
    abs_rel, within = ratios.errors(scale)
    return DepthErrors(
        abs_rel=abs_rel,
        within_125=within,
        scale=scale,
        pixels=len(ratios),
        frames=len(points),
        frames_with_truth=sum(share > 0 for share in with_truth.values()),
        coverage=None if cell is None else min(1.0, len(ratios) * cell / area),
        source=SOURCE,
        max_depth=max_depth,
    )


def published_depth(drive: PublishedDrive, frames: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """z-depth (H, W) of these frames, world units: their published points, projected back onto the network's grid; 0
    where there is no point. Frames without points are left out."""
    cameras = drive.cameras
    images: dict[int, NDArray[np.float32]] = {}
    for frame, xyz in _frames_of_points(drive):
        if frame not in frames:
            continue
        depth, u, v = _projected(cameras, frame, xyz)
        across, down = cameras.sizes[cameras.places(np.array([frame]))[0]].tolist()
        if frame not in images:
            cell = np.nan_to_num(max(grid_spacing(u), grid_spacing(v)), nan=1.0)
            images[frame] = np.zeros((max(round(down / cell), 1), max(round(across / cell), 1)), np.float32)
        height, width = images[frame].shape
        column = np.clip((u * (width / across)).astype(np.int64), 0, width - 1)
        row = np.clip((v * (height / down)).astype(np.int64), 0, height - 1)
        images[frame][row, column] = depth
    return images


def grid_spacing(places: FloatArray) -> float:
    """Distance in pixels between the columns (or rows) of the grid on which the coordinates `places` (n,) lie; NaN if
    they show no grid. Points of one column differ by rounding only; columns differ by a pixel of the network's image.
    """
    gaps = np.diff(np.sort(places))
    between = np.flatnonzero(gaps > 0.25)  # network pixels are larger than this share of a source pixel
    groups = np.split(np.sort(places), between + 1)
    if len(groups) < 8 or len(places) < 4 * len(groups):
        return float("nan")
    centres = np.array([group.mean() for group in groups])
    return float(np.percentile(np.diff(centres), 10))


def _projected(cameras: Cameras, frame: int, xyz: NDArray[np.float32]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """World points (n, 3) -> z-depth (n,) in world units, and pixels u, v (n,) of the source image, -1 behind it."""
    pixels, depth = cameras.project(int(cameras.places(np.array([frame]))[0]), xyz)
    u, v = np.nan_to_num(pixels, nan=-1.0).T
    return depth, u, v


class _DepthImages:
    """True depth by frame, 0 where unknown or beyond the limit; the last few images are kept."""

    def __init__(self, truth: TrueDrive, max_depth: float | None) -> None:
        self._truth, self._max_depth = truth, max_depth
        self._recent: OrderedDict[int, NDArray[np.float32]] = OrderedDict()
        self._known: dict[int, float] = {}

    def of(self, frame: int) -> NDArray[np.float32]:
        """True depth (H, W) of a frame, metres."""
        if frame not in self._recent:
            depth = self._truth.depth(frame)
            if self._max_depth is not None:
                depth = np.where(depth <= self._max_depth, depth, np.float32(0))
            self._known[frame] = float((depth > 0).mean())
            self._recent[frame] = depth
            while len(self._recent) > _KEPT_FRAMES:
                self._recent.popitem(last=False)
        return self._recent[frame]

    def share_known(self, frame: int) -> float:
        """Share of the image that has true depth, 0 to 1."""
        if frame not in self._known:
            self.of(frame)
        return self._known[frame]


def _frames_of_points(drive: PublishedDrive) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yields frame numbers with points (n, 3) of these frames, about a shard at a time; a frame may occur several
    times.

    Points are sorted along a Morton curve, so those of a frame are spread over its shard. Grouped by shard, each true
    depth image is decoded once or twice, not for every row group.
    """
    for table in _blocks(drive.point_batches(columns=_COLUMNS)):
        frame = table["frame_index"].to_numpy()
        order = np.argsort(frame, kind="stable")
        xyz = np.stack([table[axis].to_numpy()[order] for axis in "xyz"], -1)
        numbers, start = np.unique(frame[order], return_index=True)
        for number, piece in zip(numbers.tolist(), np.split(xyz, start[1:]), strict=True):
            yield int(number), piece


def _blocks(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for batch in batches:
        waiting.append(batch)
        if sum(table.num_rows for table in waiting) >= _BLOCK_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
