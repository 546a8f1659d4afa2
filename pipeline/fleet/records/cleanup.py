"""Removes what killed runs left of drives that are published. Later runs skip these drives, so nothing else would."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipeline import publish, storage
from pipeline.errors import PipelineError
from pipeline.forward.staging import STAGING_FOLDER
from pipeline.leases import Lease, Leases
from pipeline.staged_drive import clear_staging, has_staged_drive
from pipeline.storage import NotFoundError

_AT_A_TIME = 16


def settle_published(output: str, leases: Leases, drive_id: str) -> None:
    """Finish publishing where a run was killed before the files had their documented names, unless another run has the
    drive."""
    with contextlib.suppress(PipelineError):
        lease = leases.take(drive_id)
        if isinstance(lease, Lease):
            publish.settle(output, drive_id, lease.guard)
            leases.release(lease)


def clear_leftovers(
    output: str, leases: Leases, is_published: Callable[[str], bool], stopping: Callable[[], bool]
) -> None:
    """Release leases of killed runs, and remove their staged predictions; predictions that a user wants to keep stay.

    It costs one listing of leases and one of staged drives, and one request for each drive with kept predictions, in
    parallel. Errors of the store are ignored.
    """

    def clear(drive_id: str) -> None:
        with contextlib.suppress(PipelineError):
            if stopping() or (drive_id not in leased and has_staged_drive(output, drive_id)):
                return
            lease = leases.take(drive_id)
            if isinstance(lease, Lease):
                clear_staging(output, drive_id, lease.guard)
                leases.release(lease)

    with contextlib.suppress(PipelineError):
        leased = set(leases.drive_ids())
        left = [drive_id for drive_id in leased | set(_staged_drive_ids(output)) if is_published(drive_id)]
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="leftovers") as pool:
            list(pool.map(clear, left))


def _staged_drive_ids(output: str) -> list[str]:
    try:
        return storage.list_folders(storage.join(output, STAGING_FOLDER))
    except NotFoundError:
        return []
