"""A drive by its id and URI, before any of its files is read. Discovery makes it, queues hold it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DriveRef:
    """One drive to do. It is small, because the driver holds ten thousand of them.

    uri: as pipeline.ingest.drives.find_drive takes it. start, end: half-open range of its frames, before stride and
    fps; None: from the first, to the last. fps: use this many frames a second. tags: free words of a drive list.
    positions: the file of its positions, as --positions.file takes it. camera: its calibration, as --camera.file does.
    view: which way it looks, as --camera.views says it. rig: its cameras, as --rig takes it; none: one camera.
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
    view: str | None = None
    rig: str | None = None


@dataclass(frozen=True)
class RefusedDrive:
    """An entry of an input that cannot be a drive: a bad row of a drive list, an invalid name, an id that is taken.

    drive_id, uri: as found; unsafe as file names, may be empty. reason: one line that says where and why.
    """

    drive_id: str
    uri: str
    reason: str
