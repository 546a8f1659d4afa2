"""Show the state of a run over many drives: python -m jobs.status --output URI [--watch].

It reads only the ledger of the run in the output, and what jobs.fuse says of itself there. It needs no cluster, and
works during the run and after it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from jobs.command import run_job
from pipeline import storage
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show, visible
from pipeline.errors import PipelineError, StorageError
from pipeline.fleet.records.ledger import RunState, list_runs, read_run
from pipeline.fleet.status.run_report import render_run_report
from pipeline.fleet.status.summary import had_nothing_to_do, status_text, summarise
from pipeline.fuse.progress import FuseRun, read_fuse_run

_RUNS_LOOKED_AT = 20  # earlier runs: most runs of a schedule have nothing to do


@dataclass(frozen=True)
class StatusConfig:
    """Which run to look at, and how."""

    output: str = field(metadata=POSITIONAL)
    """Where the results go: the --output of the run; a path or URI."""
    run: str | None = None
    """Name of the run; by default the newest."""
    runs: bool = False
    """List all runs of the output, a line each."""
    watch: bool = False
    """Show the state again and again until the run has ended."""
    every: float = 5.0
    """Seconds between two updates."""
    failures: int = 20
    """How many failed drives to show."""
    report: str | None = None
    """Write the run as an HTML file to this local path."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the option."""
        if not self.every >= 1:
            raise ValueError(f"--every must be at least 1 second, not {self.every}")
        if self.failures < 0:
            raise ValueError(f"--failures must not be negative, not {self.failures}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(StatusConfig, _status, arguments, prog="jobs.status")


def _status(config: StatusConfig) -> None:
    if config.runs:
        names = list_runs(storage.absolute(config.output))
        show("\n".join(_line(read_run(config.output, name)) for name in names) or "no runs yet")
        return
    fuse = read_fuse_run(config.output, time.time()) if config.run is None else None
    if fuse is not None:
        _show_fuse(config, fuse)
        if config.report is None and not list_runs(storage.absolute(config.output)):
            return  # drives that came here by other ways
    run = _watch(config) if config.watch else read_run(config.output, config.run)
    before = _worked_before(config.output, run) if had_nothing_to_do(run) else None
    show(status_text(run, config.failures, time.time(), before))
    if config.report is not None:
        Path(storage.absolute(config.report)).write_text(render_run_report(run))
        show(f"  written  {config.report}")


def _show_fuse(config: StatusConfig, fuse: FuseRun) -> None:
    """The line of a fuse run; with --watch again whenever it differs, until the run has ended."""
    said = ""
    while True:
        line = fuse.line(time.time())
        if line != said:
            show(line)
        said = line
        if not config.watch or fuse.state != "running":
            return
        time.sleep(config.every)
        try:
            fuse = read_fuse_run(config.output, time.time()) or fuse
        except StorageError as error:
            show(f"(waiting: {error})", sys.stderr)


def _worked_before(output: str, run: RunState) -> RunState | None:
    """The newest run before this one that did something, among the last few."""
    names = [name for name in list_runs(storage.absolute(output)) if name < run.info.run_id]
    for name in reversed(names[-_RUNS_LOOKED_AT:]):
        with contextlib.suppress(PipelineError):  # a run with a damaged ledger is left out
            earlier = read_run(output, name)
            if not had_nothing_to_do(earlier):
                return earlier
    return None


def _watch(config: StatusConfig) -> RunState:
    """Show the state until the run has ended. Raises StorageError where the store does not answer the first request;
    later it is asked again."""
    run = read_run(config.output, config.run)
    said = ""
    while run.info.state == "running":
        if sys.stdout.isatty():
            print("\033[H\033[2J" + visible(status_text(run, config.failures, time.time()), keep="\n"), flush=True)
        else:
            line = _line(run)
            if line != said:
                show(line)
            said = line
        time.sleep(config.every)
        try:
            run = read_run(config.output, run.info.run_id)
        except StorageError as error:
            show(f"(waiting: {error})", sys.stderr)
    return run


def _line(run: RunState) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items() if count)
    total = summarise(run)
    return f"{run.info.run_id}  {run.info.state:<11} {total.drives} drives: {counts}; {total.frames:,} frames made"


if __name__ == "__main__":
    sys.exit(main())
