"""Check that published drives are undamaged: python -m jobs.verify --output URI [--drive ID ...] [--quick].

Compares every drive with its manifest: names, sizes, hashes, schemas, rows, ranges and links between tables. Changes
nothing. Exit codes: 0 all drives are undamaged, 1 some are damaged, or there is no drive.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from jobs.command import EXIT_FAILED, run_job
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import cluster_address, ray_for_one_job, start_ray
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show
from pipeline.errors import DriveError
from pipeline.fleet.verify_output import FEW_DRIVES, published_ids, verify_drives
from pipeline.publish.verify import DriveCheck

_PROBLEMS_SHOWN = 5  # of a drive


@dataclass(frozen=True)
class VerifyConfig:
    """Which drives to check, and how thoroughly."""

    output: str = field(metadata=POSITIONAL)
    """Where drives were published: a path or URI."""
    drive: tuple[str, ...] = ()
    """Only these drives; by default all drives of the output."""
    quick: bool = False
    """Compare only names and sizes: one listing for each drive, no file is read."""
    json: str | None = None
    """Write all findings to this file; "-" prints them instead of the text."""
    address: str | None = None
    """Ray cluster that reads the drives; by default that of RAY_ADDRESS, else a local one for many drives."""


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(VerifyConfig, _verify, arguments, prog="jobs.verify")


def _verify(config: VerifyConfig) -> int:
    output = storage.absolute(config.output)
    names = [storage.check_drive_id(name) for name in config.drive] or published_ids(output)
    many = not config.quick and (len(names) > FEW_DRIVES or cluster_address(config.address) is not None)
    with Reporter() as reporter, ray_for_one_job():
        if many:
            start_ray(config.address)
        checks = verify_drives(
            output,
            names,
            quick=config.quick,
            in_cluster=many,
            told=lambda check: reporter.advance("verify", 1, len(names), "drives"),
        )
    missing = [name for name in config.drive if name not in {check.drive_id for check in checks}]
    if missing:
        raise DriveError(f"no published drive {missing[0]} in {storage.redacted(output)}; check --drive and --output")
    if not checks:
        raise DriveError(f"no published drive in {storage.redacted(output)}; reconstruct one first, or check --output")
    text = json.dumps(_values(output, config.quick, checks), indent=1) + "\n"
    if config.json == "-":
        sys.stdout.write(text)
    else:
        show(summary(output, config.quick, checks))
        if config.json is not None:
            storage.write_bytes_atomically(storage.absolute(config.json), text.encode())
    return 0 if all(check.is_whole for check in checks) else EXIT_FAILED


def summary(output: str, quick: bool, checks: Sequence[DriveCheck]) -> str:
    """The damaged drives by name, what is wrong with them, and how to repair them."""
    damaged = [check for check in checks if not check.is_whole]
    what = "names and sizes" if quick else "names, sizes, hashes, tables"
    lines = [
        f"{len(checks) - len(damaged)} of {len(checks)} drives in {storage.redacted(output)} are undamaged ({what}; "
        f"{sum(check.files for check in checks):,} files, {sum(check.bytes for check in checks):,} bytes)"
    ]
    for check in damaged:
        lines += [f"  {check.drive_id}  {problem.file}: {problem.what}" for problem in check.problems[:_PROBLEMS_SHOWN]]
        if len(check.problems) > _PROBLEMS_SHOWN:
            lines.append(f"  {check.drive_id}  and {len(check.problems) - _PROBLEMS_SHOWN} more (--json FILE has all)")
    if damaged:
        lines.append(
            "  repair   jobs.reconstruct with the same settings and --overwrite makes a drive again (of many drives, "
            f"with --only {damaged[0].drive_id}); so does jobs.realign where predictions were kept"
        )
    return "\n".join(lines)


def _values(output: str, quick: bool, checks: Sequence[DriveCheck]) -> dict[str, object]:
    return {
        "output": storage.redacted(output),
        "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "whole": sum(check.is_whole for check in checks),
        "damaged": sum(not check.is_whole for check in checks),
        "drives": [{**asdict(check), "whole": check.is_whole} for check in checks],
    }


if __name__ == "__main__":
    sys.exit(main())
