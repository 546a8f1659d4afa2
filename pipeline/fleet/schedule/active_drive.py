"""A drive while a group has it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.fleet.plan.drive_plan import PlannedDrive
from pipeline.fleet.records.ledger import Ledger
from pipeline.leases import Lease
from pipeline.reconstruct import clear_staging


@dataclass
class InHand:
    """A drive that a group took, once: what comes back to the queue and is taken again is in hand anew.

    begun: when the network began with it, by the monotonic clock; None before and after. gpus: of the group.
    """

    planned: PlannedDrive
    lease: Lease
    begun: float | None = None
    gpus: int = 0
    phase: str = "waiting"

    def spend(self, ledger: Ledger) -> float:
        """Book what the network's machines were taken for, whatever came of it. Returns seconds."""
        assert self.begun is not None
        spent, self.begun = time.monotonic() - self.begun, None
        gpu_seconds = ledger.row(self.planned.drive_id).gpu_seconds + spent * self.gpus
        ledger.update(self.planned.drive_id, seconds={"forward": spent}, gpu_seconds=gpu_seconds)
        return spent

    def end_try(self, ledger: Ledger, output: str) -> None:
        """Before the drive's row and lease say that this try at it came to nothing."""
        if self.begun is not None:
            self.spend(ledger)
        clear_staging(output, self.planned.drive_id, self.lease.guard)
