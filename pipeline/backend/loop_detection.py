"""Finds places seen twice: one descriptor per frame, from the encoder's own tokens -> pairs of frames for loop chunks.

Scal3R finds loops with a retrieval network (method section "Loops"). Here the patch tokens that the encoder computes
anyway are pooled (`pool_tokens`), whitened by the statistics of the drive (`whiten`) and compared (`find_revisits`).
When a car passes a place again, similar pairs of frames form a line along which both passes advance; two facades that
only look alike give a single similar pair. The score of a pair is therefore averaged along the best path through it
(as in SeqSLAM, Milford and Wyeth, ICRA 2012, but the path may bend: the passes may differ in speed, and the car may
stop). A wrong candidate only costs the prediction of its loop chunk: the pose graph rejects it.
"""

from __future__ import annotations

import functools
import importlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.settings import ALWAYS, setting

FloatArray = NDArray[np.float32]

_CHANNELS = 128  # wider tokens are projected to as many channels at random: 8 KB per frame for any network
_GEM_POWER = 3.0  # exponent of the generalised mean (Radenovic et al., arXiv 1711.02512)
_SAMPLE = 1024  # frames from which the drive's statistics are computed
_LOOKAHEAD = 5.0  # in units of `sequence`: how far ahead a path is followed; frames beyond would weigh exp(-5)


@dataclass(frozen=True)
class LoopConfig:
    """When two frames count as one place. Frames are counted as the network gets them: after stride, without stops."""

    threshold: float = setting(0.42, expert=True, identity=ALWAYS)
    """Least similarity of a candidate, -1 to 1, averaged along its path. (0.85 is the usual figure for single pairs
    of SALAD descriptors; whitened descriptors of different places are near 0, which makes this one as strict.)"""
    top: int = setting(5, expert=True, identity=ALWAYS)
    """Most candidates of one frame."""
    min_gap: int = setting(60, expert=True, identity=ALWAYS)
    """Least number of frames that look like another place between the two, so that a stop is not a revisit."""
    suppression: int = setting(25, expert=True, identity=ALWAYS)
    """If both frames of two candidates are nearer to each other than this, only the more similar candidate is kept."""
    sequence: int = setting(10, expert=True, identity=ALWAYS)
    """Frames before and after over which similarity is averaged (the length in which a weight falls by 1/e)."""
    components: ClassVar[int] = 96
    """Most dimensions of a whitened descriptor."""
    window: int = setting(20, expert=True, identity=ALWAYS)
    """Frames of each of the two windows that are predicted jointly as a loop chunk."""
    detector: str | None = setting(None, expert=True, identity=ALWAYS)
    """Your own detector as module:name. It is called with these settings and returns an object with the methods of
    pipeline.backend.loop_detection.Detector. Every worker imports it. By default the encoder's tokens are compared."""

    FORMER_SETTINGS: ClassVar = ("components",)  # a constant now; older results name it

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        for name in ("top", "min_gap", "suppression", "sequence", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.detector is not None and not all(self.detector.partition(":")):
            raise ValueError(f"--loop.detector must be module:name, got {self.detector!r}")


@dataclass(frozen=True, order=True)
class LoopCandidate:
    """Frame `second` seems to show the place of frame `first`; `similarity` (-1 to 1) is averaged along their path."""

    first: int
    second: int
    similarity: float

    def __post_init__(self) -> None:
        """Raises ValueError for frames out of order."""
        if not 0 <= self.first < self.second:
            raise ValueError(f"a loop joins a frame to a later one, got {self.first} and {self.second}")


class Detector(Protocol):
    """The interface of a loop detector, built in or your own (`--loop.detector`). Your own may describe frames with
    another network and then call `find_revisits`. For equal inputs it must return equal results in every process."""

    def describe(self, tokens: FloatArray, grid: tuple[int, int], images: NDArray[np.uint8]) -> FloatArray:
        """The encoder's patch tokens (S, rows * cols, d) of single frames, and these frames (S, H, W, 3) as the network
        sees them -> descriptors (S, D)."""
        ...

    def candidates(self, descriptors: FloatArray, usable: NDArray[np.bool_] | None = None) -> tuple[LoopCandidate, ...]:
        """Descriptors (N, D), one row per frame in time order -> pairs; `usable` (N,) is False for bad frames."""
        ...


@dataclass(frozen=True)
class TokenDetector:
    """The built-in detector: pooled tokens, whitened by the statistics of the drive."""

    config: LoopConfig = field(default_factory=LoopConfig)

    def describe(self, tokens: FloatArray, grid: tuple[int, int], images: NDArray[np.uint8]) -> FloatArray:
        """See `Detector`. Pools the tokens; the images are not used."""
        return pool_tokens(tokens, grid)

    def candidates(self, descriptors: FloatArray, usable: NDArray[np.bool_] | None = None) -> tuple[LoopCandidate, ...]:
        """See `Detector`. Raises ValueError if the descriptors are not an array (N, D) of finite numbers."""
        return find_revisits(whiten(descriptors, self.config.components, usable), self.config)


def open_detector(config: LoopConfig) -> Detector:
    """The detector that the settings name, else the built-in one. Raises ValueError if it cannot be imported."""
    if config.detector is None:
        return TokenDetector(config)
    module, _, name = config.detector.partition(":")
    try:
        detector: Detector = getattr(importlib.import_module(module), name)(config)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--loop.detector {config.detector}: {error}; is it installed on every machine?") from error
    return detector


def pool_tokens(tokens: FloatArray, grid: tuple[int, int], cells: tuple[int, int] = (2, 4)) -> FloatArray:
    """Patch tokens (S, rows * cols, d) of an encoder -> one descriptor a frame (S, D) float32.

    Tokens are normalised (which removes brightness and contrast), projected to 128 channels if wider, split by sign and
    pooled by a generalised mean in each cell of a grid over the image, `cells` = (rows, columns) at most, so that the
    descriptor keeps where in the image something is. D = 2 * min(d, 128) * number of cells. Raises ValueError for
    shapes that do not fit.
    """
    rows, cols = grid
    if tokens.ndim != 3 or tokens.shape[1] != rows * cols:
        raise ValueError(f"expected tokens (S, {rows} * {cols}, d), got shape {tokens.shape}")
    count, _, width = tokens.shape
    x = np.asarray(tokens, np.float32)
    x = x - x.mean(-1, keepdims=True)
    x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)
    if width > _CHANNELS:
        x = x @ _projection(width)
    powers = np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], -1) ** _GEM_POWER
    down, across = _cell_weights(rows, cells[0]), _cell_weights(cols, cells[1])
    powers = powers.reshape(count, rows, cols, powers.shape[-1])
    means = np.einsum("ar,bc,srcd->sabd", down, across, powers, optimize=True)
    return np.asarray(means ** (1 / _GEM_POWER), np.float32).reshape(count, -1)


@functools.lru_cache(maxsize=4)
def _projection(width: int) -> FloatArray:
    """A fixed random projection (width, 128) that nearly preserves angles (Johnson and Lindenstrauss)."""
    scale = 1 / np.sqrt(width)
    return np.asarray(np.random.default_rng(width).normal(0, scale, (width, _CHANNELS)), np.float32)


def _cell_weights(patches: int, cells: int) -> FloatArray:
    """(cells, patches): the weight of each patch in the mean of a cell. A patch on a border belongs to both cells."""
    cells = min(cells, patches)
    borders = np.linspace(0, patches, cells + 1)
    patch = np.arange(patches)
    low, high = np.maximum(patch, borders[:-1, None]), np.minimum(patch + 1, borders[1:, None])
    inside = np.maximum(high - low, 0)
    return np.asarray(inside / inside.sum(1, keepdims=True), np.float32)


def whiten(descriptors: FloatArray, components: int, usable: NDArray[np.bool_] | None = None) -> FloatArray:
    """Descriptors (N, D) -> unit rows (N, K): signed square root, principal components, each of variance 1.

    Whitening removes what all streets of the drive have in common. K is at most `components` and at most a quarter of
    the usable frames (with more components, noise would weigh as much as places); it is 0 if all frames are alike. Rows
    of unusable frames are zero, so that they resemble no other frame. Raises ValueError for bad shapes or numbers.
    """
    if descriptors.ndim != 2:
        raise ValueError(f"expected descriptors (N, D), got shape {descriptors.shape}")
    count = len(descriptors)
    good = np.flatnonzero(np.ones(count, bool) if usable is None else np.asarray(usable, bool).reshape(count))
    if not np.isfinite(descriptors[good]).all():
        raise ValueError("descriptors must be finite numbers; mark bad frames as not usable")
    sample = _rooted(descriptors[good[:: -(-len(good) // _SAMPLE) or 1]])
    kept = min(components, len(good) // 4, descriptors.shape[1])
    if kept < 1:
        return np.zeros((count, 0), np.float32)
    mean = sample.mean(0)
    basis = _principal_axes(sample - mean, kept)
    white = np.zeros((count, basis.shape[1]), np.float32)
    for start in range(0, len(good), _SAMPLE):  # in parts, so that no second copy of all descriptors is needed
        part = good[start : start + _SAMPLE]
        rows = (_rooted(descriptors[part]) - mean) @ basis
        white[part] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return white


def _rooted(values: FloatArray) -> FloatArray:
    """The square root of each magnitude, with the sign kept."""
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)), np.float32)


def _principal_axes(centred: FloatArray, kept: int) -> FloatArray:
    """(D, <= kept): projections of `centred` (n, D) on them have variance 1. Axes without variance are left out."""
    x = centred.astype(np.float64)
    tall = x.shape[0] > x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    real = values > 1e-9 * max(float(values[0]), 1e-12)
    values, vectors = values[real], vectors[:, real]
    axes = vectors if tall else x.T @ vectors / np.sqrt(values)
    return np.asarray(axes * np.sqrt(len(x) / values), np.float32)


def find_revisits(unit_rows: FloatArray, config: LoopConfig, block: int = 256) -> tuple[LoopCandidate, ...]:
    """Unit descriptors (N, K), one row per frame in time order -> candidates, the most similar first.

    Exact search over all pairs, `block` rows at a time. It needs about 4 * (block + 4 * sequence) * N floats of RAM.
    """
    found = [
        candidate
        for start, along, gap in _path_similarity(unit_rows, config, block)
        for candidate in _best_of_rows(start, along, gap, config)
    ]
    return suppress(found, config.suppression)


def _path_similarity(
    rows: FloatArray, config: LoopConfig, block: int
) -> Iterator[tuple[int, FloatArray, NDArray[np.int32]]]:
    """Yields, block by block: its first frame, similarity along paths (block, N), and how many frames between the two
    look different (block, N).

    The similarity of a pair is the mean of the best weighted path that ends there and the best that starts there.
    """
    count = len(rows)
    ahead = round(_LOOKAHEAD * config.sequence)
    decay = float(np.exp(-1 / config.sequence))
    before: FloatArray | None = None
    for start in range(0, count, block):
        stop, last = min(start + block, count), min(start + block + ahead, count)
        similar = rows[start:last] @ rows[:last].T
        size = stop - start
        forward = np.empty((size, last), np.float32)
        for k in range(size):
            forward[k] = similar[k] if before is None else _step(similar[k], before, decay, past=True)
            before = forward[k]
        # the next block has more columns: paths to these frames begin there
        before = np.concatenate([forward[-1], rows[stop - 1] @ rows[last : min(last + block, count)].T])
        onward = similar[-1]
        for k in range(last - start - 2, -1, -1):
            onward = _step(similar[k], onward, decay, past=False)
            if k < size:
                forward[k] += onward
        if size == last - start:  # no path continues from the last frame of the drive
            forward[-1] += similar[-1]
        forward *= 0.5
        yield start, forward, _frames_between(similar[:size], start, config.threshold / 2)


def _step(similar: FloatArray, reached: FloatArray, decay: float, past: bool) -> FloatArray:
    """One frame further along the best path, while the other pass advances by no frame, one or two."""
    best = reached.copy()
    if past:
        np.maximum(best[1:], reached[:-1], out=best[1:])
        np.maximum(best[2:], reached[:-2], out=best[2:])
    else:
        np.maximum(best[:-1], reached[1:], out=best[:-1])
        np.maximum(best[:-2], reached[2:], out=best[:-2])
    return np.asarray((1 - decay) * similar + decay * best, np.float32)


def _frames_between(similar: FloatArray, start: int, alike: float) -> NDArray[np.int32]:
    """For each row and column j: how many frames between j and the row's frame look unlike the row's frame."""
    size, width = similar.shape
    different = (similar < alike) & (np.arange(width) < start + np.arange(size)[:, None])
    until = np.cumsum(different, axis=1, dtype=np.int32)
    return until[:, -1:] - until


def _best_of_rows(start: int, along: FloatArray, gap: NDArray[np.int32], config: LoopConfig) -> Iterator[LoopCandidate]:
    """Up to `top` pairs of each row, no two within the suppression distance."""
    allowed = np.where(gap >= config.min_gap, along, -1.0)
    for k in np.flatnonzero(allowed.max(1) > config.threshold):
        row = allowed[k]
        for _ in range(config.top):
            j = int(row.argmax())
            if row[j] <= config.threshold:
                break
            yield LoopCandidate(j, start + int(k), float(row[j]))
            row[max(j - config.suppression + 1, 0) : j + config.suppression] = -1.0


def suppress(candidates: Sequence[LoopCandidate], distance: int) -> tuple[LoopCandidate, ...]:
    """The most similar first, without those whose frames are both nearer than `distance` to a more similar one's."""
    kept: list[LoopCandidate] = []
    near: dict[tuple[int, int], list[LoopCandidate]] = defaultdict(list)
    for one in sorted(candidates, key=lambda c: (-c.similarity, c.second, c.first)):
        row, column = one.second // distance, one.first // distance
        others = (
            other
            for r in (row - 1, row, row + 1)
            for c in (column - 1, column, column + 1)
            for other in near.get((r, c), ())
        )
        if all(max(abs(o.first - one.first), abs(o.second - one.second)) >= distance for o in others):
            kept.append(one)
            near[row, column].append(one)
    return tuple(kept)


def loop_windows(candidate: LoopCandidate, frame_count: int, window: int = 20) -> tuple[range, range]:
    """The frames around both ends of a loop, `window` each, that are predicted together as one chunk.

    Windows that would reach beyond the drive are shifted inside. Windows that would overlap are cut in the middle.
    Raises ValueError for a window below 1 or frames outside the drive.
    """
    if window < 1:
        raise ValueError(f"a window holds at least one frame, got {window}")
    if candidate.second >= frame_count:
        raise ValueError(f"frame {candidate.second} of a loop lies outside a drive of {frame_count} frames")

    def around(frame: int) -> range:
        start = max(min(frame - window // 2, frame_count - window), 0)
        return range(start, min(start + window, frame_count))

    earlier, later = around(candidate.first), around(candidate.second)
    if earlier.stop > later.start:
        middle = (candidate.first + candidate.second + 1) // 2
        border = min(max(middle, later.start), earlier.stop)
        earlier, later = range(earlier.start, border), range(border, later.stop)
    return earlier, later
