"""Fuse many drives into one city: python -m jobs.fuse --output URI [--area W S E N] [--network] [--plan].

It brings the published drives of an output into one frame and writes the city to <output>/_city/. With --network,
frames of two drives go through the network together. Exit codes: 0 done, 1 something failed, 130 interrupted.
"""

from __future__ import annotations

import sys

from jobs.command import run_job
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import cluster_address, ray_for_one_job, start_ray
from pipeline.common.visible_text import show
from pipeline.fleet.verify_output import FEW_DRIVES, published_ids
from pipeline.fuse import FuseConfig, Fused, run_fuse
from pipeline.fuse.tasks import Tasks


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(FuseConfig, _fuse, arguments, prog="jobs.fuse")


def _fuse(config: FuseConfig) -> None:
    many = not config.plan and (
        cluster_address(config.model.address) is not None
        or len(config.drive or published_ids(storage.absolute(config.output))) > FEW_DRIVES
    )
    with Reporter() as reporter, ray_for_one_job():
        if many:
            start_ray(config.model.address, config.model.ranks)
        fused = run_fuse(config, reporter, Tasks() if many else None)
    show(summary(config, fused, reporter.seconds))


def summary(config: FuseConfig, fused: Fused, seconds: dict[str, float]) -> str:
    """What was joined, what was not, and where the city is."""
    place = storage.redacted(storage.join(storage.absolute(config.output), "_city"))
    if config.plan:
        assert fused.plan is not None
        lines = [f"{fused.drives} drives, {fused.candidates} candidates; nothing was written", *fused.plan.lines()]
    else:
        assert fused.manifest is not None
        counts = fused.manifest.counts
        lines = [
            f"city {fused.manifest.version}: {fused.drives} drives in {len(fused.manifest.frames)} frames, "
            f"{fused.accepted} of {fused.links} links accepted ({fused.candidates} candidates)",
            f"  tiles    {counts['tiles']:,}, {fused.tiles_written:,} of them written; {counts['points']:,} points",
            f"  change   {counts['changes']:,} objects that only one of two drives has",
            f"  where    {place}/{fused.manifest.version}",
        ]
    lines += [f"  note     {note}" for note in fused.notes]
    lines.append("  seconds  " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
