"""Runs of jobs.reconstruct in this process or in a new one, and the files that they leave in the output."""

import hashlib
import os
import sys
from pathlib import Path

from jobs import reconstruct
from pipeline.fleet.records.ledger import read_run

ROOT = Path(__file__).resolve().parents[2]
# only the main path, and further tries without waiting
PLAIN = ("--no-stops", "--no-turns", "--no-loops", "--fleet.retry-after-s", "0")


def run(*arguments):
    """Run in this process; returns the exit code."""
    return reconstruct.main([str(a) for a in arguments])


def results(output):
    """Drive -> file -> hash of every published file except the manifest, which contains times."""
    return {
        manifest.parent.name: {
            str(path.relative_to(manifest.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in manifest.parent.rglob("*.parquet")
        }
        for manifest in sorted(Path(output).glob("*/manifest.json"))
    }


def states(output):
    """Drive -> its state in the newest run."""
    return {drive_id: row.state for drive_id, row in read_run(str(output)).rows.items()}


def left_over(output):
    """Files of a run in progress that still exist."""
    return [p for name in ("_staging", "_leases") for p in Path(output).glob(f"{name}/**/*") if p.is_file()]


def command(*arguments):
    """The command that runs the job in a new process."""
    return [sys.executable, "-m", "jobs.reconstruct", *(str(a) for a in arguments)]


def environment(**more):
    """The environment of such a process: the code of this checkout, and no Ray cluster except the given one."""
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**own, "PYTHONPATH": str(ROOT), **more}
