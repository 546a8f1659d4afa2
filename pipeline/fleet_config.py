"""Settings of a run over many drives. They do not change the numbers of its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.common.settings import NEVER, setting


@dataclass(frozen=True)
class FleetConfig:
    """How many drives are processed in parallel, how often each is tried, how long a lease lasts."""

    max_attempts: int = setting(3, expert=True, identity=NEVER)
    """A drive during which a process died this often is quarantined. One that failed this often because of a store, a
    disk or memory is given up until the next run."""
    max_lost_nodes: int = setting(10, expert=True, identity=NEVER)
    """A drive whose node was lost this often in a run is given up until the next run."""
    retry_after_s: float = setting(5.0, expert=True, identity=NEVER)
    """Seconds before a drive is tried again after a failure of a store, a disk or memory; doubled with each attempt."""
    wave_drives: int = setting(20, expert=True, identity=NEVER)
    """Most drives that a group takes in one start; fewer towards the end of the run, so that groups end together."""
    wave_frames: ClassVar[int] = 20_000
    """Most frames of a wave of more than one drive: bounds the driver's memory."""
    scan_threads: int = setting(16, expert=True, identity=NEVER)
    """Drives that the driver, and each of scan_processes, lists at a time (names and headers)."""
    scan_processes: int | None = setting(None, expert=True, identity=NEVER)
    """Processes of the cluster that list drives and read headers instead of the driver, where there are more than 200
    drives; by default one for every four CPUs, from two to eight. 0: only the driver."""
    finishing: int = setting(4, expert=True, identity=NEVER)
    """Drives that are joined and published at a time, beside the groups. When twice as many wait, groups wait too."""
    lease_s: float = setting(120.0, expert=True, identity=NEVER)
    """Seconds that a lease lasts. A run that does not renew the lease of a drive for this time loses the drive."""
    barrier_timeout_s: float = setting(1800.0, expert=True, identity=NEVER)
    """Seconds that ranks of a group wait for one of them before the group is started again. Must exceed the longest
    phase of a rank."""

    FORMER_SETTINGS: ClassVar = ("wave_frames",)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work."""
        for name in ("max_attempts", "max_lost_nodes", "wave_drives", "scan_threads", "finishing"):
            if getattr(self, name) < 1:
                raise ValueError(f"--fleet.{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.scan_processes is not None and self.scan_processes < 0:
            raise ValueError(f"--fleet.scan-processes must not be negative, not {self.scan_processes}")
        for name in ("lease_s", "barrier_timeout_s"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"--fleet.{name.replace('_', '-')} must be at least a second")
        if not self.retry_after_s >= 0:
            raise ValueError("--fleet.retry-after-s must not be negative")
