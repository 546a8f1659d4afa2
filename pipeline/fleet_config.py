"""Settings of a run over many drives that have nothing to do with the numbers of its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.common.settings import NEVER, setting


@dataclass(frozen=True)
class FleetConfig:
    """How many drives are run side by side, how often each is tried, how long a claim on one lasts."""

    max_attempts: int = setting(3, expert=True, identity=NEVER)
    """A drive on which a process died this often is quarantined; one that a store, disk or memory failed is given up
    until the next run."""
    max_lost_nodes: int = setting(10, expert=True, identity=NEVER)
    """A drive that lost its node this often in a run is given up until the next run."""
    retry_after_s: float = setting(5.0, expert=True, identity=NEVER)
    """Seconds before a drive that a store, disk or memory failed is tried again; doubled with each attempt."""
    wave_drives: int = setting(20, expert=True, identity=NEVER)
    """Most drives that a group takes on in one start; fewer towards the end, so that groups end together."""
    wave_frames: ClassVar[int] = 20_000
    """Most frames of a wave of more than one drive: bounds what the driver holds of it."""
    scan_threads: int = setting(16, expert=True, identity=NEVER)
    """Drives that are listed, and their headers read, at a time by the driver, and by each of scan_processes."""
    scan_processes: int | None = setting(None, expert=True, identity=NEVER)
    """Processes of the cluster that list drives and read headers instead of the driver, where there are hundreds and
    more; by default one for four CPUs, from two to eight. 0: the driver alone."""
    finishing: int = setting(4, expert=True, identity=NEVER)
    """Drives that are joined and published at a time, beside the groups; when twice as many wait, groups wait."""
    lease_s: float = setting(120.0, expert=True, identity=NEVER)
    """A run that did not renew its claim on a drive for so long has lost it to whoever comes next."""
    barrier_timeout_s: float = setting(1800.0, expert=True, identity=NEVER)
    """A group whose ranks wait for one of them for so long is started again. Must exceed a rank's longest phase."""

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
