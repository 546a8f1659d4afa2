"""What a run would do and cost: `jobs.reconstruct --plan`. It reads only headers; the plan is printed and stored.

The frames a second come from earlier runs on this output with the same network, else from stored figures
(`figures.json`, each with the machine on which it was measured).
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import start_ray
from pipeline.common.run_id import new_run_id
from pipeline.common.sizes import size_text
from pipeline.config import RunConfig
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan.cpu_budget import CpuBudget
from pipeline.fleet.plan.drive_plan import Costs, PlannedDrive, ranks_needed, selected
from pipeline.fleet.plan.parallel_planner import plan_drives
from pipeline.fleet.records.failure_records import Failures
from pipeline.fleet.records.ledger import list_runs, read_run
from pipeline.fleet.run import make_planner
from pipeline.fleet.schedule.group_size import GroupSize

PLANS_FOLDER = "_plans"
FIGURES = Path(__file__).with_name("figures.json")
_RUNS_LOOKED_AT = 3
_SHOWN = 20


@dataclass(frozen=True)
class Rate:
    """Frames a second of one rank, and the source of this figure."""

    frames_per_s: float
    source: str


@dataclass(frozen=True)
class FleetPlan:
    """drives: number of drives by what has to be done. Bytes are sums over the drives to do; state_bytes_largest: of
    the most demanding drive."""

    drives: dict[str, int]
    frames: int
    chunks: int
    rank_hours: float | None
    rate: Rate | None
    state_bytes_largest: int
    scratch_bytes: int
    output_bytes: int
    input_bytes: int
    requests: int
    too_large: dict[str, str]
    bad: dict[str, str]
    notes: dict[str, str]
    input_notes: tuple[str, ...]
    uri: str
    text: str = ""


def fleet_plan(
    config: RunConfig, refs: Iterable[DriveRef | RefusedDrive], reporter: Reporter, noted: Sequence[str] = ()
) -> FleetPlan:
    """Plan all drives and store the plan as <output>/_plans/<time>.json.

    noted: notes on parts of the input that are not used; it grows while `refs` is read. Raises the same errors as a
    run: StorageError, CheckpointError, ValueError.
    """
    output = storage.absolute(config.output)
    failures = Failures(output)
    planner = make_planner(config, output, failures)
    config = planner.config
    start_ray(config.address, config.all_ranks)  # GroupSize asks Ray for the machines
    size = GroupSize.of(config)
    found = _found(config, plan_drives(planner, selected(refs, config, failures), config.fleet), reporter)
    rate = measured_rate(config, output) or stored_rate(config, size)
    uri = storage.join(output, PLANS_FOLDER, f"{new_run_id()}.json")
    plan = _summed(found, config, size, rate, tuple(noted), uri)
    result = replace(plan, text=_text(plan, config, size))
    stored = {**asdict(result), "rows": [_row(planned, costs) for planned, costs in found.todo]}
    storage.write_bytes_atomically(uri, storage.redacted(json.dumps(stored, indent=1)).encode())
    return result


@dataclass(frozen=True)
class _Found:
    """counts: drives by what has to be done; todo: the drives that would be done, longest first, with their costs; bad:
    drive -> why it cannot be read; notes: drive -> what is worth knowing of it."""

    counts: dict[str, int]
    todo: list[tuple[PlannedDrive, Costs]]
    bad: dict[str, str]
    notes: dict[str, str]


def _found(config: RunConfig, plans: Iterable[PlannedDrive], reporter: Reporter) -> _Found:
    counts: Counter[str] = Counter()
    todo: list[tuple[PlannedDrive, Costs]] = []
    bad: dict[str, str] = {}
    notes: dict[str, str] = {}
    for planned in plans:
        counts[planned.todo] += 1
        reporter.advance("plan", 1, None, "drives")
        if planned.notes:
            notes[planned.drive_id] = "; ".join(planned.notes)
        if planned.todo == "do":
            assert planned.costs is not None
            todo.append((planned, planned.costs))
        elif planned.todo in ("bad", "trouble"):
            bad[planned.drive_id] = planned.reason or ""
    todo.sort(key=lambda one: -one[0].frames)
    if config.limit is not None and len(todo) > config.limit:
        counts["beyond --limit"] = len(todo) - config.limit
        todo = todo[: config.limit]
        counts["do"] = config.limit
    return _Found(dict(counts), todo, bad, notes)


def _summed(
    found: _Found, config: RunConfig, size: GroupSize, rate: Rate | None, noted: tuple[str, ...], uri: str
) -> FleetPlan:
    """The plan's figures over all drives that would be done."""
    costs = [cost for _, cost in found.todo]
    frames = sum(cost.frames for cost in costs)
    staging = sorted((cost.staging_bytes for cost in costs), reverse=True)
    # drives that are staged at the same time: those in groups, those waiting for the finisher, those in its tasks
    at_a_time = size.groups * 2 + 3 * config.fleet.finishing
    reasons = {planned.drive_id: what_does_not_fit(cost, size) for planned, cost in found.todo}
    return FleetPlan(
        drives=found.counts,
        frames=frames,
        chunks=sum(cost.chunks for cost in costs),
        rank_hours=frames / rate.frames_per_s / 3600 if rate else None,
        rate=rate,
        state_bytes_largest=max((cost.state_bytes for cost in costs), default=0),
        scratch_bytes=sum(staging[:at_a_time]),
        output_bytes=sum(cost.output_bytes for cost in costs),
        input_bytes=sum(cost.input_bytes for cost in costs),
        requests=sum(cost.requests for cost in costs),
        too_large={drive_id: reason for drive_id, reason in reasons.items() if reason},
        bad=found.bad,
        notes=found.notes,
        input_notes=noted,
        uri=uri,
    )


def _row(planned: PlannedDrive, costs: Costs) -> dict[str, object]:
    """The stored row of a drive."""
    uri = storage.redacted(planned.ref.uri)
    return {"drive_id": planned.drive_id, "uri": uri, "replaces": planned.replaces, **asdict(costs)}


def what_does_not_fit(costs: Costs, size: GroupSize) -> str | None:
    """Why a drive's waiting chunk states do not fit in memory, and what would help; None where they fit. States that do
    not fit wait on disk."""
    needed = ranks_needed(costs, size.rank_bytes)
    has = size.gpus // size.groups if size.gpus else size.workers
    if needed <= max(has, 1):
        return None
    if needed > costs.chunks:
        holds = f"a rank may hold {size_text(size.rank_bytes)} (--host-memory)"
        return f"one chunk waits with {size_text(costs.state_bytes_chunk)}, {holds}"
    return (
        f"{costs.chunks} chunks wait with {size_text(costs.state_bytes)}: {needed} ranks of "
        f"{size_text(size.rank_bytes)} are needed, a group has {max(has, 1)}: the rest waits on disk "
        f"(--scratch), slower; --workers {needed} avoids it"
    )


def measured_rate(config: RunConfig, output: str) -> Rate | None:
    """Frames a second of a rank in the newest runs on this output with the same network and precision; None without."""
    for run_id in reversed(list_runs(output)[-_RUNS_LOOKED_AT:]):
        run = read_run(output, run_id)
        same = all(
            run.info.settings.get(name) == value
            for name, value in (("preset", config.preset), ("precision", config.precision), ("weights", config.weights))
        )
        rates = [row.frames_per_s / max(run.info.workers, 1) for row in run.in_state("published") if row.frames_per_s]
        if same and rates:
            return Rate(statistics.median(rates), f"run {run_id} on this output, median of {len(rates)} drives")
    return None


def stored_rate(config: RunConfig, size: GroupSize) -> Rate | None:
    """The stored figure of this network on a GPU or a CPU; None where none was measured."""
    device = "gpu" if size.gpus else "cpu"
    for figure in json.loads(FIGURES.read_text()):
        if (figure["network"], figure["device"]) == (_network_name(config), device):
            return Rate(figure["frames_per_s"], f"{figure['measured']} ({figure['machine']})")
    return None


def _network_name(config: RunConfig) -> str:
    return config.network.preset or "scal3r"


def _text(plan: FleetPlan, config: RunConfig, size: GroupSize) -> str:
    counts = plan.drives
    shown = ", ".join(f"{counts[name]} {said}" for name, said in _SAID.items() if counts.get(name))
    rate = plan.rate
    unit = "GPU" if size.gpus else "CPU rank"
    hours = (
        f"{plan.rank_hours:.2f} {unit} hours, {plan.rank_hours / (size.groups * size.workers):.2f} h of "
        f"{size.said} ({rate.frames_per_s:.2f} frames/s: {rate.source})"
        if rate and plan.rank_hours is not None
        else f"unknown: no figure for this network on this device; one drive on this output gives one ({size.said})"
    )
    budget = CpuBudget.of(config, rate.frames_per_s) if rate else None
    cores = size.cpus / (size.groups * size.workers)
    lines = [
        f"drives    {shown or 'none'}",
        f"to do     {plan.frames:,} frames in {plan.chunks:,} chunks, {size_text(plan.input_bytes)} of input",
        f"time      {hours}",
        *([f"CPUs      {budget.said(unit, cores)}"] if budget else []),
        f"memory    {size_text(plan.state_bytes_largest)} of waiting states for the largest drive; "
        f"a rank may hold {size_text(size.rank_bytes)}",
        f"scratch   {size_text(plan.scratch_bytes)} staged on the output's store at a time, at most",
        f"output    {size_text(plan.output_bytes)} at most",
        f"requests  {plan.requests:,} to the stores",
    ]
    for title, found in (
        ("not in memory", plan.too_large),
        ("cannot be read", plan.bad),
        ("note", plan.notes),
    ):
        for drive_id, reason in list(found.items())[:_SHOWN]:
            lines.append(f"{title}: drive {drive_id}: {reason}")
        if len(found) > _SHOWN:
            lines.append(f"{title}: and {len(found) - _SHOWN} more, all in the stored plan")
    return "\n".join([*lines, f"stored    {storage.redacted(plan.uri)}"])


_SAID = {
    "do": "to do",
    "published": "done",
    "failed": "failed before",
    "quarantined": "quarantined before",
    "bad": "cannot be read",
    "trouble": "whose store does not answer",
    "beyond --limit": "beyond --limit",
}
