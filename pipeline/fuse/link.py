"""A claim that two drives saw one place, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Link:
    """Where a frame of one drive stands beside a frame of another.

    first, second: numbers of the drives, not the same; first_frame, second_frame: places in the drives' arrays (not
    frame numbers); second_from_first: from the first frame's camera, in its drive's units, to the second frame's
    camera, in its drive's; covariance (7, 7): of turn (radians, about the second camera's axes), shift and log scale,
    in the second's units.

    Raises ValueError for a drive linked to itself, numbers below zero, a covariance that is none.
    """

    first: int
    first_frame: int
    second: int
    second_frame: int
    second_from_first: Sim3
    covariance: Array

    def __post_init__(self) -> None:
        if self.first == self.second:
            raise ValueError(f"a link joins two drives, not drive {self.first} to itself")
        if min(self.first, self.second, self.first_frame, self.second_frame) < 0:
            raise ValueError(f"numbers of drives and frames start at 0, got {self}")
        covariance = np.array(self.covariance, np.float64)
        if covariance.shape != (7, 7) or not np.isfinite(covariance).all():
            raise ValueError(f"a link's covariance is (7, 7) and finite, got shape {covariance.shape}")
        size = float(np.abs(covariance).max())
        if np.abs(covariance - covariance.T).max() > 1e-9 * size or not np.linalg.eigvalsh(covariance)[0] > 0:
            raise ValueError("a link's covariance is symmetric and positive definite, this one is not")
        covariance.flags.writeable = False
        object.__setattr__(self, "covariance", covariance)


@dataclass(frozen=True)
class LinkVerdict:
    """accepted; chi2: squared residual in its deviations (7 degrees of freedom); reason in words."""

    accepted: bool
    chi2: float
    reason: str
