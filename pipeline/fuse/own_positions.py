"""Compares where a city has drives with what they know themselves: their own positions on Earth, their own metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.common.geodesy import ecef_from_enu_rotation, ecef_from_geodetic
from pipeline.fuse.area import Origin
from pipeline.fuse.published_drives import FusibleDrive
from pipeline.fuse.solve import City

_AWAY_M = 15.0  # metres: receivers in streets are some metres off, for minutes
_SCALE = 1.05  # a drive on Earth has metres of its own


def from_origin(
    place: NDArray[np.float64], own: Origin, origin: Origin
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places (n, 3) in metres east, north, up from `own` as metres from `origin`, and the rotation (3, 3) of the axes.
    own, origin: latitude, longitude (degrees), altitude (metres)."""
    turn = ecef_from_enu_rotation(origin[0], origin[1]).T @ ecef_from_enu_rotation(own[0], own[1])
    shift = ecef_from_enu_rotation(origin[0], origin[1]).T @ (ecef_from_geodetic(*own) - ecef_from_geodetic(*origin))
    return place @ turn.T + shift, turn


def contradicted(drives: Sequence[FusibleDrive], city: City) -> list[str]:
    """A note for each drive that is on Earth in the city, but by more than 15 m or 5 % of scale elsewhere than its own
    positions have it: then they contradict its links or the positions of other drives. The same for a drive whose own
    metres differ by 5 % from those of the city."""
    notes = []
    for drive, fused in zip(drives, city.drives, strict=True):
        own = drive.opened.origin
        if own is None or city.origin is None or not fused.on_earth:
            metres = fused.on_earth or drives[fused.component].opened.manifest.metric is not None
            scale = float(np.exp(np.log(fused.depth_scale).mean()))
            if metres and drive.opened.manifest.metric is not None and max(scale, 1 / scale) > _SCALE:
                notes.append(
                    f"drive {drive.drive_id}: a metre of its own is {scale:.2f} m of the city, which "
                    f"{'positions' if fused.on_earth else drives[fused.component].drive_id} made; one of them is wrong"
                )
            continue
        place, _ = from_origin(drive.joined.world_from_camera[:, :3, 3], own, city.origin)
        away = float(np.median(np.linalg.norm((fused.city_from_camera[:, :3, 3] - place)[:, :2], axis=1)))
        scale = float(np.exp(np.log(fused.depth_scale).mean()))
        if away > _AWAY_M or max(scale, 1 / scale) > _SCALE:
            notes.append(
                f"drive {drive.drive_id}: the city has it {away:,.0f} m from its own positions, at {scale:.2f} of its "
                "own scale: they contradict its links or the positions of other drives; one of them is wrong"
            )
    return notes
