"""A drive by name, before anything of it was read: what inputs are found as, and what queues hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriveRef:
    """One drive to do. Small on purpose: ten thousand of them wait in the driver.

    uri: what pipeline.ingest.drives.find_drive takes. start, end: half-open range of its frames, before stride and
    fps; None: from the first, to the last. fps: use this many frames a second. tags: free words of a manifest.
    positions: the file of its positions, as --positions.file takes it. camera: its calibration, as --camera.file does.
    drive_id is checked where the drive is found (pipeline.fleet.discover.discovery) and where it is read,
    so that a bad one fails that drive and no other.
    """

    drive_id: str
    uri: str
    start: int | None = None
    end: int | None = None
    fps: float | None = None
    tags: tuple[str, ...] = ()
    positions: str | None = None
    camera: str | None = None


@dataclass(frozen=True)
class RefusedDrive:
    """Something in an input that cannot be a drive: a bad row of a manifest, an odd name, an id that is taken.

    drive_id, uri: as found, not safe as names of anything; may be empty. reason: one line that says where and why.
    """

    drive_id: str
    uri: str
    reason: str
