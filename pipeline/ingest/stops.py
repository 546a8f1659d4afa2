"""Finds the frames in which the car stands, and the best places for the overlaps of chunks. Pure NumPy on thumbnails.

While a car waits at a traffic light all frames are equal, and depth from a chunk of them is arbitrary. `still_frames`
proposes such frames; tracks of near things decide (`scan`). `kept_frames` chooses the frames for chunks.
`shift_borders` moves the overlaps of chunks out of sharp turns, where consecutive frames share little of the scene.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.common.settings import ALWAYS, setting

FloatArray = NDArray[np.float32]

_BLOCK = 4  # pixels a side of the blocks that are compared
_DARK = 10.0  # grey values added before the logarithm: reduces the noise of dark parts
_TEXTURE = 0.05  # least mean log gradient of a block that can show motion; sky and plain walls have less
_FEWEST_BLOCKS = 0.1  # share of blocks with texture below which a picture shows no motion
_CHECK_EVERY, _MOST_CHECKED = 8, 64  # frames of a run in which near things are looked at
_REMEMBERED = 100  # kept frames for which a stop is remembered while something hides the view
_SEARCH = 0.25  # largest turn between two frames that is searched, in picture widths
_AROUND = 3  # frames before and after a border whose turning counts for it
_NEARNESS = 4  # exponent of a block's weight, by its height: 0 at the top (far, sky), 1 at the bottom (the road ahead)
_FAR = 0.6  # upper part of a picture in which objects are mostly far


@dataclass(frozen=True)
class StopConfig:
    """When a frame counts as standing still."""

    motion: float = setting(0.15, expert=True, identity=ALWAYS)
    """Apparent motion since the last moving frame below which a frame is still, in pixels of a picture 64 wide."""
    quiet_share: float = setting(0.3, expert=True, identity=ALWAYS)
    """Share of the textured parts of a picture, and of the near ones, that must move less than that. The rest may be
    passing traffic."""
    min_frames: int = setting(5, expert=True, identity=ALWAYS)
    """Least number of consecutive still frames that are left out. Shorter runs cost little and may be slow motion."""
    keep_every: int = setting(100, expert=True, identity=ALWAYS)
    """During a stop, one frame of this many is kept all the same."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if not self.motion > 0:
            raise ValueError(f"motion must be above 0, got {self.motion}")
        if not 0 < self.quiet_share <= 1:
            raise ValueError(f"quiet_share must be above 0 and at most 1, got {self.quiet_share}")
        for name in ("min_frames", "keep_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TurnConfig:
    """How far the ends of chunks move out of turns."""

    reach: float = setting(0.25, expert=True, identity=ALWAYS)
    """Most frames by which a chunk may end early, as a share of the frames that it adds to the chunk before."""
    price: ClassVar[float] = 0.25
    """Turning around the ends of chunks, in picture widths, that an additional chunk must save."""

    FORMER_SETTINGS: ClassVar = ("price",)

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if not 0 <= self.reach <= 1:
            raise ValueError(f"reach must be between 0 and 1, got {self.reach}")


@dataclass(frozen=True)
class _Picture:
    """Log brightness (h, w) and the mean gradient of each block."""

    log: FloatArray
    texture: FloatArray


def still_frames(thumbnails: NDArray[np.uint8], config: StopConfig) -> NDArray[np.bool_]:
    """Grey thumbnails (N, h, w) uint8 in time order, about 32 x 64 -> (N,) True where the car stands still.

    A frame is compared with the last one that was not still, not with its neighbour, so that slow motion adds up.
    Motion is the change of brightness divided by its gradient, in pixels, independent of contrast. The median change is
    subtracted, so that a change of exposure has no effect. A lorry that hides the view counts as motion; when it has
    passed, the stop continues. Pictures without texture (bad frames, a dark tunnel) are never still. Raises ValueError
    for wrong shapes.
    """
    _check(thumbnails)
    count, _, width = thumbnails.shape
    still = np.zeros(count, np.bool_)
    if count == 0:
        return still
    limit = config.motion * width / 64
    last = _picture(thumbnails[0])
    stop: _Picture | None = None  # the view at the last stop, before something hid it
    run, kept_since = 0, 0
    for frame in range(1, count):
        now = _picture(thumbnails[frame])
        if _motion(last, now, config.quiet_share) < limit:
            still[frame] = True
            run += 1
            if run >= config.min_frames:
                stop, kept_since = last, 0
            continue
        if stop is not None and kept_since < _REMEMBERED and _motion(stop, now, config.quiet_share) < limit:
            still[frame] = True
            last, run = stop, config.min_frames
            continue
        last, run, kept_since = now, 0, kept_since + 1
    return without_short_runs(still, config.min_frames)


def _check(thumbnails: NDArray[np.uint8]) -> None:
    if thumbnails.ndim != 3 or thumbnails.dtype != np.uint8 or min(thumbnails.shape[1:]) < 2 * _BLOCK:
        raise ValueError(
            f"expected grey thumbnails (N, h, w) of uint8, at least {2 * _BLOCK} pixels a side, "
            f"got {thumbnails.dtype} {thumbnails.shape}"
        )


def _picture(thumbnail: NDArray[np.uint8]) -> _Picture:
    log = np.log(thumbnail.astype(np.float32) + _DARK)
    down, across = np.gradient(log)
    return _Picture(log, _block_means(np.abs(down) + np.abs(across)))


def _block_means(values: FloatArray) -> FloatArray:
    rows, cols = values.shape[0] // _BLOCK, values.shape[1] // _BLOCK
    whole = values[: rows * _BLOCK, : cols * _BLOCK]
    return np.asarray(whole.reshape(rows, _BLOCK, cols, _BLOCK).mean((1, 3)), np.float32)


def _motion(before: _Picture, now: _Picture, quiet_share: float) -> float:
    """Apparent motion in pixels that `quiet_share` of the textured blocks stay below: the larger value of all blocks
    with equal weights and with more weight on near ones. Infinite if few blocks have texture. Far objects hardly move
    while a car drives, and a bonnet not at all, so neither shows that the car stands.
    """
    textured = before.texture >= _TEXTURE
    if textured.mean() < _FEWEST_BLOCKS:
        return float("inf")
    change = now.log - before.log
    blocks = _block_means(np.abs(change - np.median(change)))
    moved = blocks[textured] / before.texture[textured]
    rows = len(textured)
    nearness = ((np.arange(rows) + 0.5) / rows) ** _NEARNESS
    near = np.broadcast_to(nearness[:, None], textured.shape)[textured]
    return max(float(np.quantile(moved, quiet_share)), _weighted_quantile(moved, near, quiet_share))


def _weighted_quantile(values: FloatArray, weights: NDArray[np.float64], share: float) -> float:
    """The value below which `share` of the weight lies."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(below, share * below[-1])), len(values) - 1)])


def still_runs(still: NDArray[np.bool_]) -> list[range]:
    """The runs of consecutive frames that are True in (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still.astype(np.int8), [0]])))
    return [range(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def without_short_runs(still: NDArray[np.bool_], shortest: int) -> NDArray[np.bool_]:
    """`still` (N,) with runs of fewer than `shortest` frames set to False."""
    long = still.copy()
    for run in still_runs(still):
        if len(run) < shortest:
            long[run.start : run.stop] = False
    return long


def frames_to_check(run: range) -> tuple[int, ...]:
    """The frames of a run by which it is checked whether the car stands: both ends, and one of eight between, at most
    64."""
    count = min(2 + len(run) // _CHECK_EVERY, _MOST_CHECKED)
    return tuple(int(frame) for frame in np.unique(np.linspace(run.start, run.stop - 1, count).round()))


def standing_frames(checked: Sequence[int], stands: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The frames of a run in which the car stands. checked (n,): see `frames_to_check`; stands (n - 1,): whether it
    stands from each of them to the next."""
    frames = [
        np.arange(first, last + 1) for (first, last), ok in zip(itertools.pairwise(checked), stands, strict=True) if ok
    ]
    return np.unique(np.concatenate(frames)) if frames else np.zeros(0, np.int64)


def kept_frames(still: NDArray[np.bool_], keep_every: int = 100) -> tuple[int, ...]:
    """Numbers of the frames for chunks: all moving ones, the first, the last, and one of `keep_every` during a stop.

    Raises ValueError for keep_every below 1.
    """
    if keep_every < 1:
        raise ValueError(f"keep_every must be at least 1, got {keep_every}")
    kept: list[int] = []
    for frame, standing in enumerate(still):
        if not standing or not kept or frame - kept[-1] >= keep_every or frame == len(still) - 1:
            kept.append(frame)
    return tuple(kept)


def turning(thumbnails: NDArray[np.uint8]) -> FloatArray:
    """How far the view turned since the frame before, (N,) in picture widths, positive to the right; the first is 0.

    It is the shift that best aligns the columns of the upper parts of two pictures. Raises ValueError for wrong shapes.
    """
    _check(thumbnails)
    count, height, width = thumbnails.shape
    turned = np.zeros(count, np.float32)
    far = thumbnails[:, : max(round(height * _FAR), 1)].astype(np.float32)
    columns = np.log(far + _DARK).mean(1)
    reach = max(round(_SEARCH * width), 1)
    for frame in range(1, count):
        before, now = columns[frame - 1], columns[frame]
        unlike = np.empty(2 * reach + 1)
        for shift in range(-reach, reach + 1):  # turning right moves the picture to the left
            difference = before[max(shift, 0) : width + min(shift, 0)] - now[max(-shift, 0) : width + min(-shift, 0)]
            unlike[shift + reach] = difference.var()  # the variance ignores a change of exposure
        best = int(unlike.argmin())
        turned[frame] = (best - reach + _between(unlike, best)) / width
    return turned


def _between(values: NDArray[np.float64], lowest: int) -> float:
    """Offset of the minimum of the parabola through the lowest value and its neighbours, at most half a sample."""
    if not 0 < lowest < len(values) - 1:
        return 0.0
    left, middle, right = values[lowest - 1 : lowest + 2]
    bend = left - 2 * middle + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend > 1e-12 else 0.0


def _turning_around(turned: FloatArray) -> NDArray[np.float64]:
    """(N + 1,) how much the car turns within three frames before and after each border between two frames."""
    summed = np.concatenate([[0.0], np.cumsum(np.abs(turned), dtype=np.float64)])
    border, half = np.arange(len(summed)), _AROUND
    return np.asarray(summed[np.minimum(border + half, len(turned))] - summed[np.maximum(border - half, 0)])


def shift_borders(
    chunks: Sequence[range], turned: FloatArray, overlap: int, reach: int, price: float = 0.25
) -> tuple[range, ...]:
    """The same frames in chunks that begin and end where the car turns little, within `reach`.

    Every chunk but the last may end up to `reach` frames early; the next begins `overlap` frames before that end, so
    that overlaps keep their length and no chunk grows. Of all such divisions the one with the least turning around the
    ends and beginnings of chunks is chosen (dynamic programming); an additional chunk must save `price` of turning.

    Args:
        chunks: as `plan_chunks` makes them, with this overlap.
        turned: (N,) as from `turning`, one value for each frame in chunks.
        reach: 0 returns the chunks unchanged; at most chunk size - overlap - 1 is used.
        price: turning, in picture widths, that an additional chunk must save.

    Raises:
        ValueError: no chunks, or values that do not fit together.
    """
    if not chunks or chunks[0].start != 0 or chunks[-1].stop != len(turned):
        raise ValueError(f"chunks must cover the {len(turned)} frames whose turning is given, got {list(chunks)[-1:]}")
    if reach < 0 or overlap < 0 or not price > 0:
        raise ValueError(f"reach {reach} and overlap {overlap} must not be negative, price {price} above 0")
    size = max(len(chunk) for chunk in chunks)
    if len(chunks) == 1:
        return tuple(chunks)
    if any(before.stop - after.start != overlap for before, after in itertools.pairwise(chunks)):
        raise ValueError(f"chunks must overlap by {overlap} frames each, got {list(chunks)[:3]} ...")
    shortest = max(size - reach, overlap + 1)
    count = len(turned)
    around = _turning_around(turned)
    # best[e]: least cost of chunks up to frame e, including the beginning of the next chunk
    best = np.full(count, np.inf)
    origin = np.full(count, -1)
    finish, finish_from = np.inf, -1
    for end in range(count):
        cost, start = (0.0, 0) if end == 0 else (best[end], end - overlap)
        if not np.isfinite(cost):
            continue
        if count - start <= size:
            if cost < finish:
                finish, finish_from = cost, end
            continue
        for stop in range(start + shortest, start + size + 1):
            through = cost + price + around[stop] + around[stop - overlap]
            if through < best[stop] - 1e-12:
                best[stop], origin[stop] = through, end
    ends = [count]
    while finish_from > 0:
        ends.append(finish_from)
        finish_from = int(origin[finish_from])
    ends.reverse()
    starts = [0, *(end - overlap for end in ends[:-1])]
    return tuple(range(start, stop) for start, stop in zip(starts, ends, strict=True))
