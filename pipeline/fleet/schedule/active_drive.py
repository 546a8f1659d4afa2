"""A drive that a group has taken from the queue."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from pipeline.errors import StorageError
from pipeline.fleet.plan.drive_plan import PlannedDrive
from pipeline.fleet.records.ledger import Ledger
from pipeline.leases import Lease, Leases
from pipeline.staged_drive import clear_staging


@dataclass
class ActiveDrive:
    """A drive that a group took from the queue. When it is taken again later, a new ActiveDrive is made.

    begun: when the network began with it (monotonic clock); None before and after. gpus: number of GPUs of the group.
    """

    planned: PlannedDrive
    lease: Lease
    begun: float | None = None
    gpus: int = 0
    phase: str = "waiting"

    def spend(self, ledger: Ledger) -> float:
        """Record the seconds that the drive occupied the group, whatever the outcome. Returns them."""
        assert self.begun is not None
        spent, self.begun = time.monotonic() - self.begun, None
        gpu_seconds = ledger.row(self.planned.drive_id).gpu_seconds + spent * self.gpus
        ledger.update(self.planned.drive_id, seconds={"forward": spent}, gpu_seconds=gpu_seconds)
        return spent

    def end_try(self, ledger: Ledger, output: str) -> None:
        """Record the time of a failed try and remove its staged files. Call it before row and lease change."""
        if self.begun is not None:
            self.spend(ledger)
        clear_staging(output, self.planned.drive_id, self.lease.guard)

    def clear_up(self, leases: Leases, output: str) -> None:
        """Remove the staged files of a drive that is given up, and release its lease."""
        with contextlib.suppress(StorageError):
            lease = leases.take(self.planned.drive_id) if self.lease.lost else self.lease
            if isinstance(lease, Lease):  # else another run works on it
                clear_staging(output, self.planned.drive_id, lease.guard)
                leases.release(lease)
