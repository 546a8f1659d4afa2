"""Tells Ray that this machine goes away soon, and waits until it is idle: python -m jobs.drain --seconds 100.

Run it on the machine itself when its notice comes (a spot machine, a pod that is moved; cluster/*.yaml do, as preStop).
Runs over many drives finish the drive that is in work here and begin the next one elsewhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from jobs.command import run_command, settings_from
from pipeline.common.ray_session import drain_this_node, ray_for_one_job, start_ray


@dataclass(frozen=True)
class DrainConfig:
    """How long there is."""

    seconds: float = 100.0
    """Until this machine goes, whatever is still done on it."""
    address: str = "auto"
    """Ray cluster that this machine belongs to; by default that of its Ray processes."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the option."""
        if not self.seconds > 0:
            raise ValueError(f"--seconds must be above zero, not {self.seconds}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_command(lambda: _drain(settings_from(DrainConfig, arguments, prog="jobs.drain")))


def _drain(config: DrainConfig) -> None:
    with ray_for_one_job():
        start_ray(config.address)
        idle = drain_this_node(config.seconds)
    print("this machine has nothing to do any more" if idle else f"still at work after {config.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
