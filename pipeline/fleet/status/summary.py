"""Sums up a run's ledger: counts, rates, time left, reasons of failure by kind; for terminal and report."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.common.sizes import size_text
from pipeline.fleet.records.ledger import DriveRow, RunState, State

FAILED: tuple[State, ...] = ("failed", "quarantined")
_BEHIND_THE_NETWORK = ("refine", "join", "publish")  # stages that run on CPUs beside the groups
_BEHIND = 3  # so many drives may wait between network and result without a warning


@dataclass(frozen=True)
class Summary:
    """A run in numbers. seconds: by stage, summed over drives. left_s: estimated time left; None before drives ended.

    wall_s: from the run's start to its end, or to the last heartbeat. gpu_busy: gpu_seconds divided by those that the
    run had; None without GPUs. gpu_seconds: of all drives, including running ones so far.
    """

    drives: int
    counts: Mapping[State, int]
    frames: int
    points: int
    bytes: int
    gpu_seconds: float
    seconds: Mapping[str, float]
    wall_s: float
    frames_per_s: float
    left_s: float | None
    gpu_busy: float | None


def summarise(run: RunState) -> Summary:
    """Add a run up. Frames, points and bytes are those of drives published by this run."""
    published = run.in_state("published")
    seconds: dict[str, float] = defaultdict(float)
    for row in run.rows.values():
        for stage, spent in row.seconds.items():
            seconds[stage] += spent
    wall = max(0.0, (run.info.ended_at or run.info.updated_at) - run.info.started_at)
    frames = sum(row.frames for row in published)
    worked = [row for row in run.rows.values() if row.is_final and row.state != "skipped"]
    waiting = [row for row in run.rows.values() if not row.is_final]
    left = None
    if worked and waiting and wall > 0 and run.info.listed:
        left = wall * _size(waiting, worked) / max(_size(worked, worked), 1e-9)
    gpu_seconds = sum(row.gpu_seconds for row in run.rows.values()) + sum(
        row.gpus * max(run.info.updated_at - (row.started_at or run.info.updated_at), 0.0)
        for row in run.in_state("running")
    )
    return Summary(
        drives=len(run.rows),
        counts=run.counts,
        frames=frames,
        points=sum(row.points for row in published),
        bytes=sum(row.bytes for row in published),
        gpu_seconds=gpu_seconds,
        seconds=dict(seconds),
        wall_s=wall,
        frames_per_s=frames / wall if wall > 0 else 0.0,
        left_s=left,
        gpu_busy=min(1.0, gpu_seconds / (run.info.gpus * wall)) if run.info.gpus and wall > 0 else None,
    )


def _size(rows: Iterable[DriveRow], known: list[DriveRow]) -> float:
    """Work in frames. A drive with an unknown number of frames counts as the mean of the known ones."""
    sizes = [row.frames for row in known if row.frames]
    mean = sum(sizes) / len(sizes) if sizes else 1.0
    return sum(row.frames or mean for row in rows)


@dataclass(frozen=True)
class FailureKind:
    """Failures whose reasons differ only in names and numbers."""

    stage: str | None
    reason: str
    """The reason of the first such drive, unchanged."""
    drive_ids: tuple[str, ...]


def failure_kinds(run: RunState) -> list[FailureKind]:
    """Failures by kind, the most frequent first."""
    kinds: dict[tuple[str | None, str], list[DriveRow]] = defaultdict(list)
    for row in run.in_state(*FAILED):
        kinds[row.stage, _kind_of(row)].append(row)
    found = [
        FailureKind(stage, rows[0].reason or "no reason was given", tuple(row.drive_id for row in rows))
        for (stage, _), rows in kinds.items()
    ]
    return sorted(found, key=lambda kind: (-len(kind.drive_ids), kind.reason))


def _kind_of(row: DriveRow) -> str:
    text = row.reason or ""
    for name in (row.uri, row.drive_id):
        if name:
            text = text.replace(name, "~")
    return re.sub(r"\d+(\.\d+)?|'[^']*'|\S*/\S*", "#", text)


def skipped_kinds(run: RunState) -> dict[str, list[DriveRow]]:
    """Drives that the run skipped, by reason ("published already", "failed before" ...), the most frequent first."""
    kinds: dict[str, list[DriveRow]] = defaultdict(list)
    for row in run.in_state("skipped"):
        kinds[re.split(r"[,:(]", row.reason or "no reason was given")[0].strip()].append(row)
    return dict(sorted(kinds.items(), key=lambda kind: -len(kind[1])))


def had_nothing_to_do(run: RunState) -> bool:
    """Whether the run has ended and skipped every drive."""
    return run.info.state == "finished" and all(row.state == "skipped" for row in run.rows.values())


def retry_command(run: RunState) -> str:
    """The command that does exactly the failed drives again."""
    typed = [word for word in run.info.command if word not in ("--retry-failed", "--plan")]
    for place in [place for place, word in enumerate(typed) if re.fullmatch("--limit(=.*)?", word)][::-1]:
        del typed[place : place + (1 if "=" in typed[place] else 2)]  # a limit would leave out failed drives
    if typed:
        return f"{shlex.join(typed)} --retry-failed"
    return "the same command with --retry-failed"


def duration(seconds: float) -> str:
    """Seconds in readable units: 42 s, 3 min 20 s, 5 h 12 min, 2 d 3 h."""
    whole = round(seconds)
    for large, small, unit, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {unit} {rest} {part}" if rest else f"{whole // large} {unit}"
    return f"{whole} s"


def behind_text(run: RunState, total: Summary) -> str | None:
    """A line that names the stages after the network if they cannot keep up with it: more drives wait for them than are
    in the network. None if they keep up."""
    staged, running = len(run.in_state("staged")), len(run.in_state("running"))
    if staged < max(_BEHIND, running + 1):
        return None
    spent = {name: total.seconds[name] for name in _BEHIND_THE_NETWORK if total.seconds.get(name)}
    slowest = f", most of it {max(spent, key=lambda name: spent[name])}" if spent else ""
    return (
        f"{staged} drives are through the network and wait for the stages behind it ({', '.join(_BEHIND_THE_NETWORK)}"
        f"{slowest}), {running} are in it: add CPU nodes, or groups will wait"
    )


def status_text(run: RunState, failures: int = 10, now: float | None = None, before: RunState | None = None) -> str:
    """A run as text for a terminal: state, counts, rate, time left, failed drives with reasons, the command to retry.

    Skipped drives are counted by reason, so that a run with nothing to do still shows the state of the output.

    Args:
        failures: most drives of each kind to show.
        now: the current time, seconds since 1970; None: leave out the age of the heartbeat.
        before: the newest earlier run that did something.
    """
    info, total = run.info, summarise(run)
    ended = "" if now is None or info.state != "running" else f", last heard of {duration(now - info.updated_at)} ago"
    lines = [f"run {info.run_id}: {info.state}, {duration(total.wall_s)}{ended}"]
    if info.message:
        lines.append(f"  {info.message}")
    listed = "" if info.listed else " so far"
    counted = ", ".join(f"{count} {state}" for state, count in total.counts.items() if count)
    lines.append(f"  drives   {total.drives}{listed}: {counted or 'none'}")
    kinds = skipped_kinds(run)
    if kinds:
        lines.append("  skipped  " + ", ".join(f"{len(rows)} {kind}" for kind, rows in list(kinds.items())[:5]))
    if total.frames:
        lines.append(
            f"  made     {total.frames:,} frames ({total.frames_per_s:.1f}/s), {total.points:,} points, "
            f"{size_text(total.bytes)}"
        )
    if total.seconds:
        lines.append("  seconds  " + ", ".join(f"{name} {spent:,.0f}" for name, spent in total.seconds.items()))
    if total.gpu_seconds and info.gpus:
        busy = f", {total.gpu_busy:.0%} busy" if total.gpu_busy is not None else ""
        lines.append(f"  GPUs     {info.gpus}: {total.gpu_seconds / 3600:.2f} GPU hours{busy}")
    if total.left_s is not None and info.state == "running":
        lines.append(f"  left     about {duration(total.left_s)}")
    if info.state == "running" and (behind := behind_text(run, total)) is not None:
        lines.append(f"  behind   {behind}")
    for row in run.in_state("running", "staged")[:failures]:
        lines.append(f"  {row.state:<8} {row.drive_id}" + (f" (attempt {row.attempts})" if row.attempts > 1 else ""))
    # drives that failed in an earlier run and were skipped are shown too
    failed = run.in_state(*FAILED) + kinds.get("failed before", []) + kinds.get("quarantined before", [])
    for row in failed[:failures]:
        where = f" in {row.stage}" if row.stage else ""
        where += f", frame {row.frame}" if row.frame is not None else ""
        lines.append(f"  {row.state:<8} {row.drive_id}{where}: {row.reason}")
    if len(failed) > failures:
        lines.append(f"           and {len(failed) - failures} more (--failures {len(failed)} shows all)")
    if failed and info.state != "running":
        lines.append(f"  retry    {retry_command(run)}")
    if before is not None:
        counted = ", ".join(f"{count} {state}" for state, count in before.counts.items() if count)
        lines.append(f"  before   run {before.info.run_id} was the last to do something: {counted}; --run shows it")
    lines += [f"  note     {note}" for note in info.notes[:failures]]
    if info.report:
        lines.append(f"  report   _runs/{info.run_id}/{info.report} in the output")
    return "\n".join(lines)
