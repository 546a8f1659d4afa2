"""Drives that look several ways: one of each view of their equirectangular frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.ingest.rig_drive import VIEWS


def each_view(
    drives: Iterable[DriveRef | RefusedDrive], views: Sequence[str], rig: str | None = None
) -> Iterator[DriveRef | RefusedDrive]:
    """Each drive once for every view (front, left ...), named ID-front, ID-left ...; as they are where there are no
    views. What was refused stays so, and so does a drive whose views are a rig. rig: of drives that do not name one."""
    for drive in drives:
        if isinstance(drive, RefusedDrive) or not views or (drive.rig or rig) == VIEWS:
            yield drive
            continue
        for view in views:
            yield replace(drive, drive_id=f"{drive.drive_id}-{view}", view=view)
