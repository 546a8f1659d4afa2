"""The frames that two chunks have both placed, as rows of the pose graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.drift import MOST_UNLIKE
from pipeline.backend.overlap import Overlap
from pipeline.backend.sim3 import Array


@dataclass(frozen=True, eq=False)
class PoseResiduals:
    """n frames, each placed by two chunks.

    first, second, pair (n,): numbers of the chunks and of their overlap; pose_first, pose_second (n, 4, 4):
    chunk_from_camera; along_first, along_second (n,): offset from the chunk's reference frame, in spans; moment_first,
    moment_second (n, 3): Chunk.moment, in spans times chunk units; log_ratio (n,): log of the first chunk's depth over
    the second's; deviation (n, 7): of rotation (radians), position, log depth; in overlaps those of rotation and
    position are relative to the usual ones of the drive; unit (n,): world units per chunk unit at the start (geometric
    mean of the two chunks).

    Positions are compared in chunk units times `unit`. In world units, the solution could reduce its residuals by
    making the world smaller.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    pair: NDArray[np.int64]
    pose_first: Array
    pose_second: Array
    along_first: Array
    along_second: Array
    moment_first: Array
    moment_second: Array
    log_ratio: Array
    deviation: Array
    unit: Array

    @staticmethod
    def of(overlaps: Sequence[Overlap], span: float, scale: Array) -> PoseResiduals:
        """Rows of overlaps. Their noise is to be measured by the residuals: deviations of rotation and position are 1
        where the chunks do not know them, else a factor on that noise. scale (K,) gives the unit."""
        count = np.array([len(o) for o in overlaps])
        sigma = np.concatenate([o.log_ratio_sigma for o in overlaps])
        deviation = np.ones((len(sigma), 7))
        deviation[:, :6] = np.repeat(_relative_deviation(overlaps, scale), 3, axis=1)
        deviation[:, 6] = sigma
        return PoseResiduals(
            np.repeat([o.first for o in overlaps], count),
            np.repeat([o.second for o in overlaps], count),
            np.repeat(np.arange(len(overlaps)), count),
            np.concatenate([o.first_from_camera for o in overlaps]),
            np.concatenate([o.second_from_camera for o in overlaps]),
            np.concatenate([o.first_offset for o in overlaps]) / span,
            np.concatenate([o.second_offset for o in overlaps]) / span,
            np.concatenate([o.first_moment for o in overlaps]) / span,
            np.concatenate([o.second_moment for o in overlaps]) / span,
            np.concatenate([o.log_ratio for o in overlaps]),
            deviation,
            np.repeat([np.sqrt(scale[o.first] * scale[o.second]) for o in overlaps], count),
        )

    def __len__(self) -> int:
        return len(self.first)


def _relative_deviation(overlaps: Sequence[Overlap], scale: Array) -> Array:
    """Factors (n, 2) from the usual deviation of rotation and position in the drive's overlaps to that of each row, by
    Chunk.pose_deviation of both chunks; 1 where it is unknown. scale (K,): of the chunks."""
    variance = np.concatenate(
        [
            (one.first_deviation * (1.0, scale[one.first])) ** 2
            + (one.second_deviation * (1.0, scale[one.second])) ** 2
            for one in overlaps
        ]
    )
    known = np.isfinite(variance).all(1) & (variance > 0).all(1)
    factor = np.ones_like(variance)
    if known.any():
        factor[known] = np.sqrt(variance[known] / np.median(variance[known], axis=0))
    return np.clip(factor, 1 / MOST_UNLIKE, MOST_UNLIKE)
