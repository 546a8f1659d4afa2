"""Tell Ray that this machine will shut down soon, and wait until it is idle: python -m jobs.drain --seconds 100.

Run it on the machine itself when it gets its termination notice (a spot machine, an evicted pod; cluster/*.yaml call it
as preStop hook). Runs over many drives finish the drive in work on this machine and begin the next one elsewhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from jobs.command import run_job
from pipeline.common.ray_session import drain_this_node, ray_for_one_job, start_ray


@dataclass(frozen=True)
class DrainConfig:
    """How much time this machine has, and its cluster."""

    seconds: float = 100.0
    """Seconds until this machine shuts down."""
    address: str = "auto"
    """Ray cluster of this machine; by default that of the Ray processes running on it."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the option."""
        if not self.seconds > 0:
            raise ValueError(f"--seconds must be above zero, not {self.seconds}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(DrainConfig, _drain, arguments, prog="jobs.drain")


def _drain(config: DrainConfig) -> None:
    with ray_for_one_job():
        start_ray(config.address)
        idle = drain_this_node(config.seconds)
    print("this machine is idle" if idle else f"this machine still works after {config.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
