"""Measures the camera's height above the road in each frame, in the units of its depth. It holds the scale of a drive.

A camera on a car keeps its height, so this height relates the scales of all chunks to each other. The road is the plane
that contains most pixels of the lower part of the image. Its normal depends on how the camera is mounted: it is the
same for all frames of a chunk, and nearly the same for all chunks. Frames that see no such plane (a car ahead, a wall,
no road) are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chunk import Chunk
from pipeline.backend.sim3 import Array

_DOWN = 0.1  # least tangent below the horizon of a road pixel; nearer to it, depth determines the height badly
_ASIDE = 0.7  # largest tangent to either side of a road pixel
_BAND = 0.06  # log height by which pixels of the road may differ from their mean
_LEAST_SHARE = 0.3  # of the candidate pixels that must lie in the plane
_LEAST_PIXELS = 12
_LEAST_FRAMES = 4  # in half a chunk
_LEAN = 0.35  # largest angle between the normal and the camera's y axis, radians
_PITCHES = np.array([0.0, -0.05, 0.05, -0.1, 0.1, -0.15, 0.15, -0.2, 0.2])  # of the camera, radians; tried at the start
_TRIED_FRAMES = 10
_ROUNDS, _MORE_ROUNDS = 5, 2  # of fitting the normal: for the first chunk, and from the normal of the chunk before
_ALIKE = 6.0  # neighbouring frames have similar errors: so many frames count as one measurement
_APART = 1e4  # added between rows so that one search serves all; logs of heights are far smaller
_FLOOR = 0.01  # least deviation of a log height: the shape of the street, which more frames do not average out


@dataclass(frozen=True, eq=False)
class Road:
    """The road in one chunk of S frames. log_height (S,): of the camera above it, chunk units, NaN where no road is
    seen; slope (S, 3): its derivative by the normal; normal (3,): unit vector in the camera's axes, downwards."""

    log_height: Array
    slope: Array
    normal: Array

    def turned(self, normal: Array) -> Array:
        """(S,) log heights for another normal that is near this road's."""
        return np.asarray(self.log_height + self.slope @ (normal - self.normal))


@dataclass(frozen=True, eq=False)
class Heights:
    """Heights above the road, one for each of m half chunks.

    chunk (m,): its number; half (m,): 0 before, 1 behind the reference frame; along (m,): mean offset from it, in
    spans; log_height (m,): chunk units; deviation (m,): of it; limit: deviations beyond which a row loses weight.
    """

    chunk: NDArray[np.int64]
    half: NDArray[np.int64]
    along: Array
    log_height: Array
    deviation: Array
    limit: float = 2.0

    def __len__(self) -> int:
        return len(self.chunk)

    @staticmethod
    def of(roads: Sequence[Road], offsets: Sequence[Array], span: float) -> Heights:
        """From every chunk's road and its frames' offsets (S,) from the reference; the drive has one normal."""
        seen = [road.normal for road in roads if np.isfinite(road.log_height).any()]
        rows: list[tuple[int, int, float, float, float]] = []
        if seen:
            normal = np.median(seen, axis=0)
            normal /= np.linalg.norm(normal)
            for number, (road, offset) in enumerate(zip(roads, offsets, strict=True)):
                heights = road.turned(normal)
                for half in (0, 1):
                    mine = np.isfinite(heights) & ((offset > 0) == bool(half))
                    if mine.sum() < _LEAST_FRAMES:
                        continue
                    centre = float(np.median(heights[mine]))
                    spread = 1.4826 * float(np.median(np.abs(heights[mine] - centre)))
                    near = np.abs(heights - centre) < 3 * max(spread, 1e-3)
                    mine &= near
                    rows.append(
                        (
                            number,
                            half,
                            float(offset[mine].mean()) / span,
                            float(heights[mine].mean()),
                            float(np.hypot(spread / np.sqrt(max(mine.sum() / _ALIKE, 1.0)), _FLOOR)),
                        )
                    )
        table = np.array(rows, np.float64).reshape(-1, 5)
        return Heights(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), *table[:, 2:].T)


def measure_road(chunk: Chunk, before: Road | None = None) -> Road:
    """Fit the road's plane in a chunk. before: the road in the chunk before, from whose normal the fit starts."""
    count = len(chunk.frame_index)
    heights, slope = np.full(count, np.nan), np.zeros((count, 3))
    x, y = chunk.rays[..., 0], chunk.rays[..., 1]
    candidate = (y > _DOWN) & (np.abs(x) < _ASIDE) & (chunk.confidence > 0)
    usable = np.flatnonzero(candidate.sum(1) >= _LEAST_PIXELS)
    first = before is None or not np.isfinite(before.log_height).any()
    normal = _likeliest_normal(chunk, candidate, usable) if before is None or first else before.normal.copy()
    rays, depth, candidate = chunk.rays[usable], chunk.depth[usable], candidate[usable]
    rounds = _ROUNDS if first else _MORE_ROUNDS
    for number in range(rounds + 1):
        band = _BAND * (1 + 2 * max(0, rounds - 2 - number) / _ROUNDS)
        heights[:] = np.nan
        below, logs = _log_heights(rays, depth, candidate, normal)
        centre, share = _modes(logs, band)
        seen = (np.isfinite(logs).sum(1) >= _LEAST_PIXELS) & (share >= _LEAST_SHARE)
        inside = (np.abs(logs - centre[:, None]) < band) & seen[:, None]
        heights[usable[seen]] = centre[seen]
        over = np.where(inside, 1 / np.where(inside, below, 1.0), 0.0) / np.maximum(inside.sum(1), 1)[:, None]
        slope[usable[seen]] = np.einsum("sp,spi->si", over, rays)[seen]
        scaled = rays[inside] * (depth / np.exp(centre)[:, None])[inside][:, None]
        if number == rounds or not len(scaled):
            break
        tilted = np.linalg.solve(scaled.T @ scaled + np.eye(3) * 1e-9, scaled.sum(0))
        tilted /= np.linalg.norm(tilted)
        if np.arccos(np.clip(tilted[1], -1, 1)) > _LEAN:
            heights[:] = np.nan
            break
        normal[:] = tilted
    return Road(heights, slope, normal)


def _likeliest_normal(chunk: Chunk, candidate: NDArray[np.bool_], usable: NDArray[np.int64]) -> Array:
    """(3,): the normal for that pitch of the camera, of a few, with which most pixels lie in one plane."""
    best, answer = -1.0, np.array([0.0, 1.0, 0.0])
    some = usable[:: max(1, len(usable) // _TRIED_FRAMES)]
    for pitch in _PITCHES:
        normal = np.array([0.0, np.cos(pitch), np.sin(pitch)])
        _, logs = _log_heights(chunk.rays[some], chunk.depth[some], candidate[some], normal)
        count = np.isfinite(logs).sum(1)
        # share of all candidates: a steep normal has few pixels below its horizon, which could agree by chance
        won = _modes(logs, _BAND / 2)[1] * count / np.maximum(candidate[some].sum(1), 1)
        share = float(won[count >= _LEAST_PIXELS].sum())
        if share > best:
            best, answer = share, normal
    return answer


def _log_heights(rays: Array, depth: Array, candidate: NDArray[np.bool_], normal: Array) -> tuple[Array, Array]:
    """For pixels (s, p): the part of their rays along the normal, and the log of the camera's height above the plane
    through the pixel, inf where the pixel is not a candidate."""
    below = rays @ normal
    mine = candidate & (below > _DOWN / 2)
    return below, np.log(np.where(mine, depth * below, np.inf))


def _modes(values: Array, band: float) -> tuple[Array, Array]:
    """The mode of each row of values (s, p): the mean (s,) of the most values that lie within `band` of a centre, and
    their share of the row's finite values (s,)."""
    rows, columns = values.shape
    if not rows or not columns:
        return np.zeros(rows), np.zeros(rows)
    ordered = np.sort(values, axis=1)
    finite = np.isfinite(ordered)
    known = np.where(finite, ordered, 0.0)
    # one search for all rows: a different constant is added to each, so that their ranges do not overlap
    apart = np.arange(rows)[:, None] * _APART
    line = np.where(finite, known, _APART / 2) + apart
    behind = np.searchsorted(line.ravel(), (known + apart + 2 * band).ravel(), side="right").reshape(rows, columns)
    count = np.where(finite, behind - np.arange(rows)[:, None] * columns - np.arange(columns), 0)
    best = np.argmax(count, axis=1)
    most = count[np.arange(rows), best]
    place = np.arange(columns)
    chosen = (place >= best[:, None]) & (place < (best + most)[:, None])
    centre = (known * chosen).sum(1) / np.maximum(most, 1)
    inside = (np.abs(known - centre[:, None]) < band) & finite
    centre = np.where(inside.any(1), (known * inside).sum(1) / np.maximum(inside.sum(1), 1), centre)
    share = ((np.abs(known - centre[:, None]) < band) & finite).sum(1) / np.maximum(finite.sum(1), 1)
    return centre, share
