"""What runs that were killed left of drives that are published: nobody asks for those drives any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.forward.staging import STAGING_FOLDER
from pipeline.leases import Lease, Leases
from pipeline.reconstruct import clear_staging
from pipeline.storage import NotFoundError


def clear_leftovers(output: str, leases: Leases, is_published: Callable[[str], bool]) -> None:
    """Give back leases whose run is gone, and remove what was staged and not asked to be kept. One listing each; what
    the store does not allow is left to a later run."""
    with contextlib.suppress(DriveError):
        left = [*leases.drive_ids(), *_staged_drive_ids(output)]
        for drive_id in dict.fromkeys(left):
            if not is_published(drive_id):
                continue
            lease = leases.take(drive_id)
            if isinstance(lease, Lease):
                clear_staging(output, drive_id, lease.guard)
                leases.release(lease)


def _staged_drive_ids(output: str) -> list[str]:
    try:
        return storage.list_folders(storage.join(output, STAGING_FOLDER))
    except NotFoundError:
        return []
