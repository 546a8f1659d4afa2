"""The points of a drive that several frames see, with their pixels, for exports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.publish.exports.source import ExportSource, stacked

_FEWEST = 3  # a point must be seen by so many frames of the selection
_GREY = 128  # the colour of these points, whose own is not stored


@dataclass(frozen=True, eq=False)
class TrackedPoints:
    """P points, M observations sorted by point: xyz (P, 3), rgb (P, 3), error (P,) mean reprojection error in pixels;
    point (M,), place (M,) of the frame among the export's cameras, pixel (M, 2) of the image."""

    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    error: NDArray[np.float64]
    point: NDArray[np.int64]
    place: NDArray[np.int64]
    pixel: NDArray[np.float64]


def tracked_points(source: ExportSource) -> TrackedPoints | None:
    """The tracked points inside of the selection; None where there are none."""
    table = source.drive.tracks
    if table is None or not table.num_rows:
        return None
    cameras, selection = source.cameras, source.selection
    place = cameras.places(table["frame_index"].to_numpy())
    number = table["point_index"].to_numpy().astype(np.int64)
    xyz = np.asarray(stacked(table, "x", "y", "z"), np.float64)
    keep = place >= 0
    if selection.box is not None:
        low, high = np.asarray(selection.box, np.float64)
        keep &= ((xyz >= low) & (xyz <= high)).all(axis=1)
    keep[keep] &= np.bincount(number[keep], minlength=number.max() + 1)[number[keep]] >= _FEWEST
    if not keep.any():
        return None
    rays = np.column_stack([stacked(table, "u", "v")[keep], np.ones(int(keep.sum()))])
    place, xyz = place[keep], xyz[keep]
    pose = cameras.world_from_camera[place]
    pixel, _ = cameras.project(place, np.einsum("nij,nj->ni", pose[:, :3, :3], rays) + pose[:, :3, 3])
    projected, _ = cameras.project(place, xyz)
    _, first, point = np.unique(number[keep], return_index=True, return_inverse=True)
    off = np.linalg.norm(projected - pixel, axis=1)
    error = np.bincount(point, off) / np.bincount(point)
    rgb = np.full((len(first), 3), _GREY, np.uint8)
    return TrackedPoints(xyz[first], rgb, error, point, place, pixel)
