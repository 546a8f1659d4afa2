"""Placements: poses of a drive's frames in the city, and its points transformed by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.publish import PublishedDrive

Array = NDArray[np.float64]

_COLUMNS = ("x", "y", "z", "r", "g", "b", "confidence", "frame_index", "class")


@dataclass(frozen=True, eq=False)
class Placement:
    """Poses of a drive's frames in the city. frame: name of the coordinate frame; frame_index (N,): rising;
    city_from_camera (N, 4, 4); scale (N,): city units per unit of the drive, at each frame."""

    frame: str
    frame_index: NDArray[np.int64]
    city_from_camera: Array
    scale: Array

    def moved_from(self, other: Placement, cameras: int = 1) -> float:
        """Largest distance in city units by which a frame, or a point at 20 times the usual step from it, differs
        between the two placements of a drive of so many cameras; inf if they have different coordinate frames or other
        frames of the drive."""
        if self.frame != other.frame or not np.array_equal(self.frame_index, other.frame_index):
            return float("inf")
        place = self.city_from_camera[:, :3, 3]
        away = np.linalg.norm(place - other.city_from_camera[:, :3, 3], axis=1)
        turn = np.linalg.norm(self.city_from_camera[:, :3, :3] - other.city_from_camera[:, :3, :3], axis=(1, 2))
        turn = turn / np.sqrt(2) + np.abs(np.log(self.scale / other.scale))
        steps = np.linalg.norm(np.diff(place[::cameras], axis=0), axis=1)
        step = float(np.median(steps)) if len(steps) else 0.0
        return float((away + 20 * step * turn).max())


class PointMover:
    """Transforms the points of a published drive into the city, batch by batch, each with the frame that saw it. Raises
    ValueError if the placement is of other frames than the drive's."""

    def __init__(self, opened: PublishedDrive, placement: Placement) -> None:
        self.opened, self.placement = opened, placement
        own = opened.cameras.world_from_camera
        if not np.array_equal(opened.cameras.frame_index, placement.frame_index):
            raise ValueError(f"drive {opened.manifest.drive_id}: its frames differ from those of its placement")
        back = own[:, :3, :3].transpose(0, 2, 1)
        self.turn: Array = placement.scale[:, None, None] * (placement.city_from_camera[:, :3, :3] @ back)
        self.shift: Array = placement.city_from_camera[:, :3, 3] - np.einsum("nij,nj->ni", self.turn, own[:, :3, 3])

    def batches(self) -> Iterator[pa.Table]:
        """Tables with x y z (city, float32), r g b, confidence, frame_index, class, without sky. Raises DriveError
        (damaged points), StorageError."""
        for table in self.opened.point_batches(columns=_COLUMNS):
            at = self.opened.cameras.places(table["frame_index"].to_numpy())
            xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1).astype(np.float64)
            moved = np.einsum("nij,nj->ni", self.turn[at], xyz) + self.shift[at]
            with np.errstate(over="ignore"):  # what is infinite then is far from all tiles
                moved = moved.astype(np.float32)
            for n, axis in enumerate("xyz"):
                table = table.set_column(n, axis, pa.array(moved[:, n]))
            if (at < 0).any():
                table = table.filter(pa.array(at >= 0))
            yield table
