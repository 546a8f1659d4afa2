"""Exponential and logarithm of rotations (Rodrigues' formula), for many at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


def exp(turns: Array) -> Array:
    """Rotation vectors (n, 3), radians -> matrices (n, 3, 3)."""
    return np.asarray(Rotation.from_rotvec(turns).as_matrix()).reshape(-1, 3, 3)


def log(rotations: Array) -> Array:
    """Matrices (n, 3, 3) -> rotation vectors (n, 3), radians."""
    return np.asarray(Rotation.from_matrix(rotations).as_rotvec()).reshape(-1, 3)
