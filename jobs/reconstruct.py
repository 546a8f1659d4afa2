"""Turn drives into poses and points: python -m jobs.reconstruct --input URI --output URI.

The input is one drive, a folder with many, or a drive list. Without arguments the command renders a small city drive
and reconstructs it, as a demonstration. Exit codes: 0 done, 1 something failed, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from jobs.command import EXIT_FAILED, EXIT_INTERRUPTED, run_job
from pipeline import reconstruct as stages
from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job
from pipeline.common.visible_text import show
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.finish import Reconstruction
from pipeline.fleet.discover.discovery import iter_drives
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.discover.sphere_views import each_view
from pipeline.fleet.dry_run import fleet_plan
from pipeline.fleet.run import fleet_summary, run_fleet
from pipeline.ingest.rig_drive import VIEWS
from pipeline.publish import is_published
from pipeline.realign import realign
from pipeline.schema import MADE_BY
from pipeline.staged_drive import read_staged_drive

_UNREFINED = "_unrefined"  # the output beside the sample's result in which it stands without refinement
_PNG_HEAD_BYTES = 4096  # the text that names this program stands before the pixels of a picture


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def action(config: RunConfig) -> int:
        noted: list[str] = []
        many = many_drives(config, noted)
        return _reconstruct(config, noted) if many is None else _reconstruct_many(config, many, arguments, noted)

    return run_job(RunConfig, action, arguments, prog="jobs.reconstruct")


def many_drives(config: RunConfig, noted: list[str]) -> Iterator[DriveRef | RefusedDrive] | None:
    """The drives of an input that holds many; None where it is a single drive and no option for many drives is given.
    Parts of the input that are not used are printed, and appended to `noted` as they are found."""

    def note(said: str) -> None:
        show(f"input: {said}", sys.stderr)  # the reporter is made later
        noted.append(said)

    views = () if config.rig == VIEWS else config.camera.view_names
    if config.input is None or config.drive_id is not None:
        if len(views) > 1:
            raise ValueError("--camera.views makes a drive of each view: leave out --drive-id, and give an --input")
        return None
    drives = iter_drives(config.input, config.output, note, config.join_clips, config.rig)
    found = each_view(drives, config.camera.view_names, config.rig)
    first = list(islice(found, 2))
    asked = config.plan or config.retry_failed or config.only or config.limit or views
    only = first[0] if len(first) == 1 else None
    if not asked and isinstance(only, DriveRef) and only.uri == storage.absolute(config.input):
        return None
    return chain(first, found)


def _reconstruct(config: RunConfig, noted: list[str]) -> int:
    with Reporter() as reporter:
        is_sample = config.input is None
        asked = config
        if is_sample:  # _unrefined uses its predictions again
            keep = config.keep_predictions or config.refine
            config = replace(config, input=_sample_drive(reporter), keep_predictions=keep)
        with ray_for_one_job():
            result = stages.reconstruct(config, reporter, noted)
            seconds = dict(reporter.seconds)
            before = _unrefined(result, asked, reporter) if is_sample and config.refine else None
    show(summary(result, seconds))
    if is_sample and config.input is not None:
        show(_against_truth(result, config.input, before))
        output = shlex.quote(storage.redacted(config.output))
        shown = f"--output {output} --drive {result.manifest.drive_id}"
        shown += f" --truth {shlex.quote(config.input)}"
        if before is not None:
            shown += f" --compare unrefined={shlex.quote(storage.redacted(storage.join(config.output, _UNREFINED)))}"
        show(f"  report   python -m jobs.report {shown} --serve")
    return 0


def _unrefined(result: Reconstruction, asked: RunConfig, reporter: Reporter) -> str | None:
    """URI of the sample's result without refinement, for comparison; None where there is none."""
    output, drive_id = storage.absolute(asked.output), result.manifest.drive_id
    beside = storage.join(output, _UNREFINED)
    if result.was_there:
        return storage.join(beside, drive_id) if is_published(beside, drive_id) else None
    reporter.say(f"drive {drive_id}: joined again without refinement, for comparison: {storage.redacted(beside)}")
    try:
        _, kept = read_staged_drive(output, drive_id)
        config = replace(kept, refine=False)
        return realign(output, drive_id, config, reporter, to=beside, keep=asked.keep_predictions).uri
    except PipelineError as error:  # the result itself is published
        reporter.say(f"no comparison: {error}")
        return None


def _reconstruct_many(
    config: RunConfig, drives: Iterator[DriveRef | RefusedDrive], arguments: list[str], noted: list[str]
) -> int:
    command = ["python", "-m", "jobs.reconstruct", *arguments]
    with Reporter() as reporter, ray_for_one_job():
        if config.plan:
            plan = fleet_plan(config, drives, reporter, noted)
            show(plan.text)
            _check_found(config, sum(plan.drives.values()))
            return EXIT_FAILED if plan.bad else 0
        state = run_fleet(config, drives, reporter, command=command, noted=noted)
    _check_found(config, len(state.rows))
    show(fleet_summary(state, storage.absolute(config.output)))
    if state.info.state == "interrupted":
        return EXIT_INTERRUPTED
    return EXIT_FAILED if state.info.message or state.in_state("failed", "quarantined") else 0


def _check_found(config: RunConfig, drives: int) -> None:
    """Raises ValueError where no drive matches --only: the pattern is probably misspelt."""
    if config.only and not drives:
        raise ValueError(f"no drive has a name or tag that matches --only {config.only}; --plan without it lists all")


def _sample_drive(reporter: Reporter) -> str:
    from pipeline.synthetic import sample_drive

    with reporter.timed("render"):
        uri = sample_drive(lambda done, total: reporter.advance("render", 1, total, "frames"))
    reporter.say(f"no --input: using the rendered sample drive {uri}")
    return uri


def _against_truth(result: Reconstruction, truth_uri: str, before: str | None) -> str:
    """The errors of the sample's result in words, and a picture of them, which is written beside the result. before:
    URI of the result without refinement."""
    from pipeline.evaluation import Comparison, compare, drive_picture, evaluate, open_estimate, open_truth

    def errors_of(uri: str) -> tuple[Comparison, str]:
        comparison = compare(open_estimate(uri), open_truth(truth_uri))
        errors = evaluate(comparison)
        ate, length = errors.trajectory.sim3.ate.rmse, errors.trajectory.path_length
        depth = "" if errors.depth is None else f", depth off by {errors.depth.abs_rel:.1%}"
        return comparison, f"ATE {ate:.2f} m ({ate / length:.1%} of {length:.0f} m){depth}"

    comparison, said = errors_of(result.uri)
    title = f"against the truth: {said}"
    said = title if before is None else f"{title}\n  unrefined, against the truth: {errors_of(before)[1]}"
    picture = f"{result.uri}.png"
    if storage.exists(picture) and MADE_BY.encode() not in storage.read_bytes(picture, _PNG_HEAD_BYTES):
        return f"  {said}\n  NOTE     no picture: {picture} was not made by this program and is kept"
    drive_picture(comparison, picture, title)
    return f"  {said}\n  picture  {picture}"


def summary(result: Reconstruction, seconds: dict[str, float]) -> str:
    """The result in a few lines."""
    counts = result.manifest.counts
    if result.was_there:
        return f"drive {result.manifest.drive_id} is published already, nothing to do: {result.uri}"
    still = f" ({counts.frames_still} of them stood still)" if counts.frames_still else ""
    unit = "units" if result.manifest.metric is None else "m"
    lines = [
        f"drive {result.manifest.drive_id}: done",
        f"  frames   {counts.frames} ({counts.frames_ok} ok, {counts.frames_filled} filled{still}, "
        f"{counts.frames_missing} missing)",
        f"  chunks   {counts.chunks}",
        f"  loops    {counts.loops_accepted} of {counts.loops} accepted",
        f"  path     {counts.path_length:.2f} {unit} long",
        f"  points   {counts.points:,}",
        "  seconds  " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()),
        f"  result   {result.uri}",
    ]
    place = result.manifest.place
    if place is not None:
        origin = place.origin
        lines.insert(
            5,
            f"  place    {origin.latitude:.6f}, {origin.longitude:.6f} ({place.source}: "
            f"{place.fixes_used} of {place.fixes} fixes used, clock offset {place.clock_offset_s or 0:.2f} s)",
        )
    for frame, reason in sorted(result.bad_frames.items())[:5]:
        lines.insert(2, f"           frame {frame}: {reason}")
    for note in result.notes[:5]:
        lines.append(f"  note     {note}")
    if result.verdict is not None:
        lines.append(f"  verdict  {result.verdict.level}")
        for finding in result.verdict.findings[:5]:
            lines.append(f"           {finding.level}: {finding.reason}")
    if not result.trained:
        lines.append("  NOTE     the network has random weights: these numbers mean nothing (give --weights)")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
