"""A drive that could be read when a run began and cannot any more: it is damaged, was removed, or was published again.

Only the tables of a drive are read when a run begins, its points much later. `lost_if_unreadable` marks errors of one
drive, so that the run goes on without it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipeline.errors import DriveError
from pipeline.fuse.published_drives import key_of
from pipeline.publish import PublishedDrive
from pipeline.storage import NotFoundError, UnreadableFileError

OF_ONE_DRIVE = (DriveError, NotFoundError, UnreadableFileError)
"""Errors in one drive's files; other errors of a store concern all drives."""


class LostDriveError(DriveError):
    """A file of one drive cannot be read. drive_id: its name; key: of the result, see `SeenDrive.key`."""

    def __init__(self, said: str, drive_id: str = "", key: str = "") -> None:
        super().__init__(said)  # the only argument: so it can be pickled, with the others beside it
        self.drive_id, self.key = drive_id, key


@contextlib.contextmanager
def lost_if_unreadable(opened: PublishedDrive) -> Iterator[None]:
    """Raises LostDriveError where a file of this drive cannot be read."""
    try:
        yield
    except LostDriveError:
        raise
    except OF_ONE_DRIVE as error:
        raise LostDriveError(" ".join(str(error).split()), opened.manifest.drive_id, key_of(opened)) from error


def left_out(drive_id: str, why: object) -> str:
    """The note on a drive that is left out; `why` may begin with its name, as errors do."""
    said = " ".join(str(why).split()).removeprefix(f"drive {drive_id}: ")
    return f"drive {drive_id} is left out: {said}"
