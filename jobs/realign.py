"""Repeat all stages after the network, in seconds: python -m jobs.realign --output URI --drive ID [settings].

Needs the predictions that `jobs.reconstruct --keep-predictions` kept. Settings that are not given are those with which
the drive was made.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

from jobs.command import run_command, settings_from
from jobs.reconstruct import summary
from pipeline import storage
from pipeline.backend import BackendConfig
from pipeline.common.progress import Reporter
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show
from pipeline.georeference import PositionsConfig
from pipeline.publish import PublishConfig
from pipeline.realign import realign
from pipeline.staged_drive import read_staged_drive


@dataclass(frozen=True)
class RealignConfig:
    """Which drive to join and publish again, and how."""

    output: str = field(metadata=POSITIONAL)
    """Where the drive was published with --keep-predictions: a path or URI."""
    drive: str = field(metadata=POSITIONAL)
    """Name of the drive there."""
    to: str | None = None
    """Another output for the new result, a path or URI: the old one stays, and jobs.report --compare shows both. None:
    the new result replaces the old one."""
    refine: bool = True
    """Adjust cameras and depth again to the tracks that were kept (bundle adjustment) before chunks are joined."""
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    backend: BackendConfig = field(default_factory=BackendConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_command(lambda: _realign(arguments))


def _realign(arguments: list[str] | None) -> None:
    asked = settings_from(RealignConfig, arguments, prog="jobs.realign")
    output = storage.absolute(asked.output)
    _, config = read_staged_drive(output, asked.drive)
    stored = replace(
        asked, refine=config.refine, positions=config.positions, backend=config.backend, publish=config.publish
    )
    asked = settings_from(RealignConfig, arguments, prog="jobs.realign", default=stored)
    config = replace(
        config, refine=asked.refine, positions=asked.positions, backend=asked.backend, publish=asked.publish
    )
    with Reporter() as reporter:
        result = realign(output, asked.drive, config, reporter, to=asked.to)
    show(summary(result, reporter.seconds))


if __name__ == "__main__":
    sys.exit(main())
