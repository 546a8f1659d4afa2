"""A selection of a drive's points by box, frames, confidence and distance; declared once for readers and exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import schema

BoxLike = Sequence[Sequence[float]]
"""Lowest and highest corner, ((x, y, z), (x, y, z)) in the world frame; points on its faces are inside."""

AXES = ("x", "y", "z")
Limits = dict[str, tuple[float, float]]
"""Column -> lowest and highest selected value, both included."""


@dataclass(frozen=True)
class Selection:
    """The wanted part of a drive; by default all of it. Raises ValueError for a selection that can only be empty."""

    frames: tuple[int, int] | None = None
    """Frames A to B, B not among them: points seen in them, and their poses."""
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Points in a box: its lowest and its highest corner, x y z of the world frame (world units)."""
    min_confidence: float | None = None
    """Points with at least this depth confidence (1 is the lowest there is)."""
    voxel: float | None = None
    """One point, the most confident, in each cube of this side (world units)."""
    far: float | None = None
    """Leave out points further from their camera than this many times the drive's median distance whose confidence is
    below the drive's median: mostly sky."""

    sky: bool = False
    """Points of the class sky, too: too far, or without parallax."""
    ego: bool = False
    """Points of the class ego, too: the car's own parts, as its bonnet."""

    def __post_init__(self) -> None:
        if self.frames is not None and not (len(self.frames) == 2 and 0 <= self.frames[0] < self.frames[1]):
            raise ValueError(f"frames are first and one past the last, as 0 100, got {self.frames!r}")
        if self.min_confidence is not None and not np.isfinite(self.min_confidence):
            raise ValueError(f"min_confidence must be a finite number, got {self.min_confidence}")
        for name, value in (("voxel", self.voxel), ("far", self.far)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above zero, got {value}")
        self.limits()

    @property
    def left_out(self) -> tuple[int, ...]:
        """Classes of points that are not selected."""
        return tuple(kind for kind, wanted in ((schema.SKY, self.sky), (schema.EGO, self.ego)) if not wanted)

    def limits(self) -> Limits:
        """The part of the selection that column statistics can decide."""
        limits: Limits = {}
        if self.box is not None:
            corners = _corners(self.box)
            limits |= {axis: (float(corners[0, i]), float(corners[1, i])) for i, axis in enumerate(AXES)}
        if self.min_confidence is not None:
            limits["confidence"] = (float(self.min_confidence), float("inf"))
        if self.frames is not None:
            limits["frame_index"] = (self.frames[0], self.frames[1] - 1)
        return limits


def _corners(box: BoxLike) -> np.ndarray:
    try:
        corners = np.asarray(box, np.float64)
    except (TypeError, ValueError):
        corners = np.zeros(0)
    if corners.shape != (2, 3) or not (corners[0] <= corners[1]).all():
        raise ValueError(f"a box is its lowest and its highest corner, ((x, y, z), (x, y, z)), got {box!r}")
    return corners
