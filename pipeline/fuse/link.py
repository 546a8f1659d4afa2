"""Links: measured relative poses between frames of two drives that saw the same place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Link:
    """A relative pose between a frame of one drive and a frame of another drive.

    first, second: numbers of two different drives; first_frame, second_frame: indices of the drives' arrays (not frame
    numbers); second_from_first: from the first frame's camera, in units of its drive, to the second frame's camera, in
    units of its drive; covariance (7, 7): of rotation (radians), translation (both in the second camera's axes; units
    of the second drive) and log scale.

    Raises ValueError for a drive that is linked to itself, negative numbers, or an invalid covariance.
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
            raise ValueError(f"a link's covariance must be (7, 7) and finite, got shape {covariance.shape}")
        if not is_covariance(covariance):
            raise ValueError("a link's covariance must be symmetric and positive definite, this one is not")
        covariance.flags.writeable = False
        object.__setattr__(self, "covariance", covariance)


def is_covariance(matrix: Array) -> bool:
    """Whether a finite matrix (n, n) is symmetric and positive definite, whatever the units of its variables: a drive
    may have units of a millimetre or of a kilometre."""
    if not (np.diagonal(matrix) > 0).all():
        return False
    size = np.sqrt(np.diagonal(matrix))
    correlation = matrix / size[:, None] / size
    return bool(np.abs(correlation - correlation.T).max() <= 1e-9 and np.linalg.eigvalsh(correlation)[0] > 0)


@dataclass(frozen=True)
class LinkVerdict:
    """The verdict on a link. accepted: whether it is part of the solution; chi2: squared Mahalanobis distance (7
    degrees of freedom); reason: in words."""

    accepted: bool
    chi2: float
    reason: str
