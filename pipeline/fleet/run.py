"""READ FIRST in this folder. A run over many drives: plan -> queue -> groups -> finisher; a ledger records every step.

One thread plans (listings, headers) and fills the queue while groups already work. Each group is a thread that takes a
wave of drives and passes them through the network (`group.py`). Staged drives go to the finisher, which joins and
publishes them in parallel. All decisions about a drive go through `DriveLifecycle`, so that it ends in one state.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from pipeline import storage
from pipeline.common.heap_trim import return_gaps
from pipeline.common.progress import Reporter
from pipeline.common.run_id import new_run_id
from pipeline.config import RunConfig
from pipeline.errors import PipelineError, StorageError
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.plan.drive_plan import PUBLISHED_ALREADY, PlannedDrive, Planner, selected
from pipeline.fleet.plan.parallel_planner import plan_drives
from pipeline.fleet.records.cleanup import clear_leftovers
from pipeline.fleet.records.failure_records import Failures
from pipeline.fleet.records.ledger import Ledger, RunInfo, RunState, run_uri
from pipeline.fleet.schedule.drive_lifecycle import DriveLifecycle
from pipeline.fleet.schedule.finisher import Finisher
from pipeline.fleet.schedule.group import Group
from pipeline.fleet.schedule.queue import DriveQueue
from pipeline.fleet.schedule.run_context import RunContext
from pipeline.fleet.schedule.runtime import DEFAULT_RUNTIME, Runtime
from pipeline.fleet.schedule.slots import Slots
from pipeline.fleet.status.run_metrics import metrics_of
from pipeline.fleet.status.run_report import REPORT_NAME, write_run_report
from pipeline.fleet.status.summary import retry_command
from pipeline.leases import Leases
from pipeline.prepare import resolve_settings
from pipeline.publish.manifest import plain_object

_LOADED_AT_A_TIME = 4  # least number of drives that are listed and scanned in parallel
_LOOK_EVERY_S = 0.2
_FINISH_AFTER_STOP_S, _THREADS_AFTER_STOP_S = 20.0, 2.0  # a stopped job has 30 s in our image
_SHOWN = 30


def make_planner(config: RunConfig, output: str, failures: Failures) -> Planner:
    """The planner of a run, with resolved settings. Raises CheckpointError, StorageError, ValueError."""
    model = config.network.config()
    config = resolve_settings(config, model)
    config.network.check()  # reports wrong weights once, not in every worker of a group
    return Planner(config, model, config.network.sha256(), output, failures)


def run_fleet(
    config: RunConfig,
    refs: Iterable[DriveRef | RefusedDrive],
    reporter: Reporter,
    runtime: Runtime = DEFAULT_RUNTIME,
    command: Sequence[str] = (),
    noted: Sequence[str] = (),
) -> RunState:
    """Reconstruct all drives that have no result yet. Returns the final state of the ledger.

    Args:
        config: settings of the run.
        refs: the drives, as discovery finds them.
        reporter: prints progress.
        runtime: Ray, the network and the store; benchmarks put simulations in its place.
        command: the words of the command line, for the ledger.
        noted: notes on parts of the input that are not used; it grows while `refs` is read.

    Raises StorageError where the output cannot be written, CheckpointError, ValueError. Errors of a single drive are in
    its row of the ledger.
    """
    output = storage.absolute(config.output)
    failures = Failures(output)
    planner = (runtime.planner or make_planner)(config, output, failures)
    config = planner.config
    runtime.ready(config)
    size = runtime.size(config)
    info = RunInfo(
        new_run_id(),
        input=storage.redacted(config.input or ""),
        command=tuple(map(storage.redacted, command)),
        settings=plain_object(asdict(config)),
        groups=size.groups,
        workers=size.workers,
        gpus=size.gpus,
    )
    reporter.say(f"run {info.run_id}: {size.said}; jobs.status --output {storage.redacted(output)} shows how far it is")
    claims = Leases(output, info.run_id, config.fleet.lease_s)
    ledger = Ledger(output, info, reporter.say)
    with storage.held_root(output, make=True), ledger, metrics_of(ledger), claims as leases:
        queue = DriveQueue(size.groups, config.fleet.wave_drives, config.fleet.wave_frames)
        finisher = Finisher(config.fleet.finishing)
        lifecycle = DriveLifecycle(config, output, ledger, leases, failures, queue, reporter, noted)
        slots = Slots(size.groups * size.workers)
        # one pool for all groups: when many begin at once, drives are loaded in the order of the requests
        loaders = ThreadPoolExecutor(max(size.groups, _LOADED_AT_A_TIME), thread_name_prefix="load")
        context = RunContext(config, planner, lifecycle, queue, finisher, size, runtime, slots, loaders)
        state, message = _Run(context).through(refs)
        ledger.update_run(state=state, message=message, ended_at=time.time(), report=REPORT_NAME, notes=tuple(noted))
        try:
            ledger.flush()
            write_run_report(output, RunState(ledger.info, dict(ledger.rows)))
        except StorageError as error:
            ledger.failed(error)
    return ledger.state()


class _Run:
    def __init__(self, context: RunContext) -> None:
        self.context, self.config, self.lifecycle = context, context.config, context.lifecycle
        self.queue, self.finisher = context.queue, context.finisher
        self.failure: str | None = None
        self.listing_failure: str | None = None

    def through(self, refs: Iterable[DriveRef | RefusedDrive]) -> tuple[str, str | None]:
        """Do the whole run. Returns its final state, and a message where something went wrong."""
        groups = [Group(number, self.context) for number in range(self.context.size.groups)]
        threads = [threading.Thread(target=self._plan, args=(refs,), name="plan", daemon=True)]
        threads += [
            threading.Thread(target=self._guarded, args=(group,), name=f"group-{group.number}", daemon=True)
            for group in groups
        ]
        with _stop_signals() as stop:
            for thread in threads:
                thread.start()
            try:
                while any(thread.is_alive() for thread in threads):
                    if stop.is_set() or self.failure:
                        break
                    for thread in threads:
                        thread.join(_LOOK_EVERY_S / len(threads))
                    return_gaps()  # names of many drives are allocated and freed, in the heaps of many threads
            except KeyboardInterrupt:
                stop.set()
            if stop.is_set() or self.failure:
                return self._stopped(threads)
            self.finisher.close(drop=False)
            self.context.loaders.shutdown()
        return "finished", self.listing_failure

    def _stopped(self, threads: list[threading.Thread]) -> tuple[str, str | None]:
        """Record at once which drives are not done, wait for drives that are being published, and drop the others."""
        self.lifecycle.stop()
        self.queue.stop()
        self.lifecycle.reporter.say(
            "stopping: drives that are being published are finished, the others are left for later"
        )
        closing = threading.Thread(target=lambda: self.finisher.close(drop=True), name="closing", daemon=True)
        closing.start()
        closing.join(_FINISH_AFTER_STOP_S)
        end = time.monotonic() + _THREADS_AFTER_STOP_S
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0.0))
        self.lifecycle.leave_rest()
        if self.failure:
            return "failed", self.failure
        return "interrupted", "stopped by a signal; the same command goes on with what is left"

    def _clear_leftovers(self) -> None:
        """Remove leases and staged files of published drives, which a killed run left."""
        rows, leases = self.lifecycle.ledger.rows, self.lifecycle.leases

        def is_published(drive_id: str) -> bool:
            row = rows.get(drive_id)
            return row is not None and row.reason == PUBLISHED_ALREADY

        clear_leftovers(self.lifecycle.output, leases, is_published, lambda: self.lifecycle.stopping)

    def _plan(self, refs: Iterable[DriveRef | RefusedDrive]) -> None:
        try:
            todo: list[PlannedDrive] = []  # only with --limit: the longest are known when all drives are planned
            try:
                wanted = selected(refs, self.config, self.lifecycle.failures)
                for planned in plan_drives(self.context.planner, wanted, self.config.fleet):
                    if self.lifecycle.stopping:
                        return
                    self.lifecycle.note_plan(planned)
                    if planned.todo not in ("do", "trouble"):
                        continue
                    if self.config.limit is None:
                        self.queue.add(planned)
                    else:
                        todo.append(planned)
            except PipelineError as error:
                self.listing_failure = f"not all drives could be listed: {error}"
                self.lifecycle.reporter.say(self.listing_failure)
            todo.sort(key=lambda planned: -planned.frames)
            for number, planned in enumerate(todo):
                if number < (self.config.limit or 0):
                    self.queue.add(planned)
                else:
                    self.lifecycle.skip(planned, f"beyond --limit {self.config.limit}")
            self.lifecycle.ledger.update_run(listed=self.listing_failure is None)
            self.queue.close()
            self._clear_leftovers()
        except BaseException as error:
            self.failure = f"planning failed: {type(error).__name__}: {error}"
            raise
        finally:
            self.queue.close()

    def _guarded(self, group: Group) -> None:
        try:
            group.work()
        except BaseException as error:
            self.failure = self.failure or f"group {group.number}: {error}"
            if not isinstance(error, PipelineError):
                raise


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM sets (a stopped job, a spot node that shuts down). It has the same effect as Ctrl-C."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def fleet_summary(state: RunState, output: str) -> str:
    """The summary at the end: counts, the failed drives with reasons, and the command that repeats only those."""
    counts = state.counts
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    spent = (state.info.ended_at or time.time()) - state.info.started_at
    lines = [f"run {state.info.run_id} {state.info.state}: {shown or 'no drives'}, {spent:.0f} s"]
    if state.info.listed and not any(counts[name] for name in counts if name != "skipped"):
        lines.append("  nothing to do")
    failed = state.in_state("failed", "quarantined")
    for row in failed[:_SHOWN]:
        lines.append(f"  {row.state} {row.drive_id} [{row.stage}]: {row.reason}")
    if len(failed) > _SHOWN:
        lines.append(f"  and {len(failed) - _SHOWN} more, all in the ledger")
    if state.info.message:
        lines.append(f"  {state.info.message}")
    if failed:
        lines.append(f"  again    {retry_command(state)}")
    lines.append(f"  ledger   {storage.redacted(run_uri(output, state.info.run_id))}")
    if state.info.report:
        lines.append(f"  report   {state.info.report}, beside it")
    return "\n".join(lines)
