"""Reads the drives of an output that become a city, and says which are left out and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pipeline import storage
from pipeline.common.geodesy import ecef_from_geodetic
from pipeline.common.progress import Reporter
from pipeline.errors import DriveError
from pipeline.fuse.area import Origin, Outside, comes_into, shown_drives
from pipeline.fuse.config import FuseConfig
from pipeline.fuse.lost_drives import OF_ONE_DRIVE, left_out
from pipeline.fuse.published_drives import FusibleDrive, read_drive
from pipeline.publish import open_drive
from pipeline.publish.manifest import MANIFEST
from pipeline.storage.retry import patiently

LARGEST_CITY_M = 100_000.0
"""Largest distance in metres of a drive's origin from the city's. The frame `earth` has one direction of up, which is
0.9 degrees off so far away; and coordinates of points are float32, with steps of 8 mm there."""


def read_drives(
    output: str,
    config: FuseConfig,
    reporter: Reporter,
    origin: Origin | None = None,
    lost: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[list[FusibleDrive], tuple[str, ...]]:
    """The drives of an output, or those that config.drive names, and notes on those that are left out.

    origin: of the last version's frame on Earth; lost: by drive, the keys of results that were lost during this run,
    each with the reason. Raises DriveError where no drive is left, or one that config.drive names cannot be used;
    StorageError.
    """
    listed = config.drive or [one for one in storage.list_folders(output) if not one.startswith((".", "_"))]
    names = sorted(set(listed))
    outside = None if config.area is None else Outside(config.area)
    drives, notes = [], []
    for name in names:
        reporter.advance("read", 1, len(names), "drives")
        try:
            drive = patiently(partial(_usable, output, name, config, outside))
            if drive is None:
                continue
            if (why := (lost or {}).get(name, {}).get(drive.key)) is not None:
                raise DriveError(why)
            drives.append(drive)
        except OF_ONE_DRIVE as error:
            if config.drive:
                raise
            notes.append(left_out(name, error))
        except storage.RefusedError as error:
            if config.drive or not storage.is_local(output):  # on a disk each folder has permissions of its own
                raise
            notes.append(left_out(name, error))
    if outside is not None:
        if not drives:
            raise DriveError(f"no usable published drive in the area in {storage.redacted(output)}; {outside.nearest}")
        notes += outside.notes
    near, far = near_each_other(drives, origin)
    if far and config.drive:
        raise DriveError(far[0])
    notes += far
    if not near:
        why = f"the first of {len(notes):,}: {notes[0]}" if notes else "reconstruct one first"
        raise DriveError(f"no usable published drive in {storage.redacted(output)}; {why}")
    return near, tuple(notes)


def near_each_other(
    drives: Sequence[FusibleDrive], origin: Origin | None = None
) -> tuple[list[FusibleDrive], list[str]]:
    """The drives without those that are farther than LARGEST_CITY_M from the city's origin, and a note on these. Drives
    without positions stay.

    origin: latitude, longitude, altitude; None: the origin of the drive that most others are near to.
    """
    located = [n for n, drive in enumerate(drives) if drive.opened.origin is not None]
    places = [one for drive in drives if (one := drive.opened.origin) is not None]
    if not places:
        return list(drives), []
    earth = np.stack([ecef_from_geodetic(*one) for one in places])
    middle = earth[_most_central(earth)] if origin is None else ecef_from_geodetic(*origin)
    away = dict(zip(located, np.linalg.norm(earth - middle, axis=1).tolist(), strict=True))
    near = [drive for n, drive in enumerate(drives) if away.get(n, 0.0) <= LARGEST_CITY_M]
    far = {drives[n].drive_id: gap for n, gap in away.items() if gap > LARGEST_CITY_M}
    if not far:
        return near, []
    gap = f"{min(far.values()) / 1000:,.0f} km" + (" and more" if len(far) > 1 else "")
    return near, [
        f"left out: {shown_drives(sorted(far))}, whose positions are {gap} from the city's origin, at most "
        f"{LARGEST_CITY_M / 1000:.0f} are possible; fuse distant drives in an output of their own"
    ]


def _most_central(earth: np.ndarray) -> int:
    """The first of the places (n, 3) that most others are near to."""
    cells = np.unique(np.floor(earth / LARGEST_CITY_M), axis=0, return_index=True)[1]  # a few for thousands of drives
    near = [int((np.linalg.norm(earth - earth[n], axis=1) <= LARGEST_CITY_M).sum()) for n in sorted(cells)]
    return int(sorted(cells)[int(np.argmax(near))])


def _usable(output: str, name: str, config: FuseConfig, outside: Outside | None) -> FusibleDrive | None:
    """A drive of the output; None for one that is not finished, or outside the area, and for other folders."""
    if config.drive:
        storage.check_drive_id(name)
    if not storage.exists(storage.join(output, name, MANIFEST)):
        if config.drive:
            raise DriveError(f"no finished drive {name} in {storage.redacted(output)}")
        return None
    images = None if config.images_from is None else storage.join(storage.absolute(config.images_from), name)
    opened = open_drive(output, name, images_from=images)
    if outside is not None:
        origin = opened.origin
        if origin is None or not comes_into(outside.area, origin, opened.cameras.world_from_camera[:, :3, 3]):
            outside.add(name, origin)
            return None
    return read_drive(opened)
