"""Measures the length of a metre in each chunk of a rig, from motions that two of its cameras measured.

It replaces the camera's height above the road. A length that is the same in all chunks relates their scales to each
other, and this length is also known in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.outline import Outline
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Array

LEAST_M = 0.1  # metres: shorter motions do not determine the scale
_FEWEST = 6  # motions that a drive needs
_FLOOR = 0.005  # least deviation of a half chunk's log length
_LIMIT = 8.0  # deviations: a motion comes from many points, so it is wrong less often than a road is
_SPREAD = 0.02  # least deviation of one motion's log length, that of the measurement


@dataclass(frozen=True, eq=False)
class StereoMotions:
    """Motions of the reference camera in metres. instant (m,) rising, following (m,): numbers of the drive's instants
    at which each begins and ends; this_from_next (m, 4, 4)."""

    instant: NDArray[np.int64]
    following: NDArray[np.int64]
    this_from_next: Array

    @cached_property
    def steps(self) -> dict[tuple[int, int], Array]:
        """Each motion (4, 4) by the two instants between which it was measured."""
        pairs = zip(self.instant.tolist(), self.following.tolist(), strict=True)
        return dict(zip(pairs, self.this_from_next, strict=True))


def metres_of(motions: StereoMotions, outlines: Sequence[Outline], span: float) -> Heights | None:
    """The length of a metre in chunk units, one row for each half chunk, in the form of heights above the road. None
    where there are too few motions, or the car hardly moved. span: frames that rates of drift refer to.

    Each motion gives the log ratio of its length in the chunk to its measured length. A half chunk's log length is the
    mean of these, after they are limited to two deviations from their median. The deviation of one motion is estimated
    from all motions, around the medians of their half chunks.
    """
    way = np.linalg.norm(motions.this_from_next[:, :3, 3], axis=1)
    halves: list[tuple[int, int, float, Array]] = []
    for number, outline in enumerate(outlines):
        place = {int(frame): row for row, frame in enumerate(outline.frame_index)}
        ratios: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
        for begin, end, metres in zip(motions.instant.tolist(), motions.following.tolist(), way.tolist(), strict=True):
            a, b = place.get(begin), place.get(end)
            if a is None or b is None or metres < LEAST_M or not (outline.ok[a] and outline.ok[b]):
                continue
            units = float(np.linalg.norm(outline.chunk_from_camera[b, :3, 3] - outline.chunk_from_camera[a, :3, 3]))
            along = float(outline.offset[a] + outline.offset[b]) / 2
            if units > 0:
                ratios[int(along > 0)].append((np.log(units / metres), along))
        for half, found in ratios.items():
            if found:
                logs, offsets = np.array(found).T
                halves.append((number, half, float(offsets.mean()) / span, logs))
    if sum(len(logs) for *_, logs in halves) < _FEWEST:
        return None
    away = np.concatenate([logs - np.median(logs) for *_, logs in halves if len(logs) > 1] or [np.zeros(1)])
    spread = max(1.4826 * float(np.median(np.abs(away))), _SPREAD)
    rows = []
    for number, half, along, logs in halves:
        middle = float(np.median(logs))
        mean = middle + float(np.clip(logs - middle, -2 * spread, 2 * spread).mean())
        rows.append((number, half, along, mean, float(np.hypot(spread / len(logs) ** 0.5, _FLOOR))))
    table = np.array(rows, np.float64)
    chunk, half = table[:, :2].astype(np.int64).T
    return Heights(chunk, half, table[:, 2], table[:, 3], table[:, 4], _LIMIT)
