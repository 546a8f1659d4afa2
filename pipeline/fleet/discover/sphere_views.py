"""Drives that look several ways: one of each view of their equirectangular frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive


def each_view(drives: Iterable[DriveRef | RefusedDrive], views: Sequence[str]) -> Iterator[DriveRef | RefusedDrive]:
    """Each drive once for every view (front, left ...), named ID-front, ID-left ...; as they are where there are no
    views. What was refused stays so."""
    for drive in drives:
        if isinstance(drive, RefusedDrive) or not views:
            yield drive
            continue
        for view in views:
            yield replace(drive, drive_id=f"{drive.drive_id}-{view}", view=view)
