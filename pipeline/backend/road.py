"""The camera's height above the road in each frame's own depth: it holds the scale of a drive.

A camera on a car keeps its height, so the scales of chunks are not free to walk. The road is the plane in which most of
the lower picture lies; its normal is that of the camera's mounting, one for all frames of a chunk and nearly one for
all chunks. Frames that see no plane (cars ahead, a wall, no road at all) say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chunk import Chunk
from pipeline.backend.sim3 import Array

_DOWN = 0.1  # tangent below the horizon at which the road begins: beyond, depth tells little of height
_ASIDE = 0.7  # tangent to either side up to which a pixel may be road
_BAND = 0.06  # log height by which pixels of the road differ
_LEAST_SHARE = 0.3  # of the candidates that must lie in the plane
_LEAST_PIXELS = 12
_LEAST_FRAMES = 4  # in half a chunk
_LEAN = 0.35  # most that the normal may differ from the camera's own down, radians
_PITCHES = np.array([0.0, -0.05, 0.05, -0.1, 0.1, -0.15, 0.15, -0.2, 0.2])  # of the camera, radians: where to begin
_TRIED_FRAMES = 10
_ROUNDS, _MORE_ROUNDS = 5, 2  # of fitting the normal, from nothing and from the chunk before
_ALIKE = 6.0  # neighbouring frames err alike: so many count as one
_FLOOR = 0.01  # log height that a street's own shape leaves unknown, however many frames see it


@dataclass(frozen=True, eq=False)
class Road:
    """Heights of one chunk. log_height (S,), NaN where no road is seen; slope (S, 3): by the normal; normal (3,)."""

    log_height: Array
    slope: Array
    normal: Array

    def turned(self, normal: Array) -> Array:
        """(S,) log heights with another normal near the own one."""
        return np.asarray(self.log_height + self.slope @ (normal - self.normal))


@dataclass(frozen=True, eq=False)
class Heights:
    """Evidence of m half chunks: log of the height in chunk units, its deviation, at `along` spans from the reference.

    chunk, half (m,): which chunk, 0 before and 1 behind the reference frame.
    """

    chunk: NDArray[np.int64]
    half: NDArray[np.int64]
    along: Array
    log_height: Array
    deviation: Array

    def __len__(self) -> int:
        return len(self.chunk)

    @staticmethod
    def of(roads: Sequence[Road], offsets: Sequence[Array], span: float) -> Heights:
        """From every chunk's road and its frames' offsets from the reference, with the drive's one normal."""
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
    """Heights of a chunk's frames; the normal is looked for near that of the chunk before."""
    steps = len(chunk.frame_index)
    heights, slope = np.full(steps, np.nan), np.zeros((steps, 3))
    x, y = chunk.rays[..., 0], chunk.rays[..., 1]
    candidate = (y > _DOWN) & (np.abs(x) < _ASIDE) & (chunk.confidence > 0)
    usable = np.flatnonzero(candidate.sum(1) >= _LEAST_PIXELS)
    first = before is None or not np.isfinite(before.log_height).any()
    normal = _likeliest_normal(chunk, candidate, usable) if before is None or first else before.normal.copy()
    rounds = _ROUNDS if first else _MORE_ROUNDS
    for number in range(rounds + 1):
        band = _BAND * (1 + 2 * max(0, rounds - 2 - number) / _ROUNDS)
        matrix, right = np.eye(3) * 1e-9, np.zeros(3)
        heights[:] = np.nan
        for f in usable:
            rays, depth = chunk.rays[f, candidate[f]], chunk.depth[f, candidate[f]]
            below = rays @ normal
            mine = below > _DOWN / 2
            if mine.sum() < _LEAST_PIXELS:
                continue
            logs = np.log(depth[mine] * below[mine])
            centre, share = _mode(logs, band)
            if share < _LEAST_SHARE:
                continue
            inside = np.abs(logs - centre) < band
            heights[f] = centre
            slope[f] = (rays[mine][inside] / below[mine][inside][:, None]).mean(0)
            scaled = rays[mine][inside] * (depth[mine][inside] / np.exp(centre))[:, None]
            matrix += scaled.T @ scaled
            right += scaled.sum(0)
        if number == rounds or not right.any():
            break
        tilted = np.linalg.solve(matrix, right)
        tilted /= np.linalg.norm(tilted)
        if np.arccos(np.clip(tilted[1], -1, 1)) > _LEAN:
            heights[:] = np.nan
            break
        normal[:] = tilted
    return Road(heights, slope, normal)


def _likeliest_normal(chunk: Chunk, candidate: NDArray[np.bool_], usable: NDArray[np.int64]) -> Array:
    """(3,): of some pitches of the camera the one by which most pixels lie in one plane."""
    best, answer = -1.0, np.array([0.0, 1.0, 0.0])
    some = usable[:: max(1, len(usable) // _TRIED_FRAMES)]
    for pitch in _PITCHES:
        normal = np.array([0.0, np.cos(pitch), np.sin(pitch)])
        share = 0.0
        for f in some:
            below = chunk.rays[f, candidate[f]] @ normal
            mine = below > _DOWN / 2
            if mine.sum() >= _LEAST_PIXELS:
                logs = np.log(chunk.depth[f, candidate[f]][mine] * below[mine])
                share += _mode(logs, _BAND / 2)[1] * float(
                    mine.mean()
                )  # of all candidates, or a steep normal wins by few
        if share > best:
            best, answer = share, normal
    return answer


def _mode(values: Array, band: float) -> tuple[float, float]:
    """Where most values lie within `band` of each other: their mean, and their share of all."""
    ordered = np.sort(values)
    count = np.searchsorted(ordered, ordered + 2 * band, side="right") - np.arange(len(ordered))
    best = int(np.argmax(count))
    centre = float(ordered[best : best + count[best]].mean())
    inside = np.abs(ordered - centre) < band
    if inside.any():
        centre = float(ordered[inside].mean())
    return centre, float((np.abs(ordered - centre) < band).mean())
