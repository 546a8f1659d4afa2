"""A group: a thread that takes waves of drives and passes each wave through the network in one start of its ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import DriveError, PipelineError
from pipeline.finish import staged_drive
from pipeline.fleet.plan.drive_plan import PlannedDrive, ranks_needed
from pipeline.fleet.schedule.active_drive import ActiveDrive
from pipeline.fleet.schedule.run_context import RunContext
from pipeline.forward.events import Answer, Dropped, Event, GroupLost, Notice, Outcome, Progress, RankUp, Staged, Waits
from pipeline.forward.group import GroupError, GroupSettings
from pipeline.ingest.frames import DriveTask

_HOPELESS_STARTS = 3  # starts in a row in which no drive was begun


@dataclass(frozen=True)
class Loaded:
    """A drive of a wave, and what the network needs to know about it."""

    active: ActiveDrive
    task: DriveTask

    @property
    def drive_id(self) -> str:
        """Name of the drive."""
        return self.active.planned.drive_id


class Stopped(BaseException):
    """The run was stopped. Ends a group in this process between two chunks. It is no Exception, so that no handler of
    errors catches it."""


class Group:
    """One of the run's groups. `work` returns when no drives are left."""

    def __init__(self, number: int, run: RunContext) -> None:
        self.number, self.run = number, run
        self.config, self.lifecycle, self.runtime, self.size = run.config, run.lifecycle, run.runtime, run.size
        self._nodes: dict[int, str] = {}
        self._dropped: dict[str, Dropped] = {}
        self._wave: dict[str, Loaded] = {}
        self._begun = 0  # drives begun in this start
        self._hopeless = 0
        self._ranks = 1
        self._last = ""  # of the wave
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._following: Future[list[Loaded]] | None = None

    def work(self) -> None:
        """Process wave after wave. Raises GroupError where the group failed to start several times in a row."""
        try:
            while loaded := self._next_wave():
                self._run(loaded)
        finally:  # without waiting: a request for a wave that is still pending returns when the queue ends
            self._ahead.shutdown(wait=False, cancel_futures=True)

    def _next_wave(self) -> list[Loaded]:
        """The wave that was loaded ahead, else one loaded now. Empty: there are no more drives."""
        following, self._following = self._following or self._ahead.submit(self._load_wave), None
        return following.result()

    def _load_wave(self) -> list[Loaded]:
        while wave := self.run.queue.take_wave():
            loaded = [one for one in self.run.loaders.map(self._load, wave) if one is not None]
            if loaded:
                return loaded
        return []

    def _load(self, planned: PlannedDrive) -> Loaded | None:
        if self.lifecycle.stopping or (active := self.lifecycle.claim(planned)) is None:
            return None
        begun = time.monotonic()
        try:
            if planned.todo == "trouble":
                planned = self.run.planner.plan(planned.ref)
                if not self.lifecycle.planned_now(active, planned):
                    return None
            task, identity = self.runtime.load(planned, self.run.planner)
        except ValueError as error:
            known = error if isinstance(error, PipelineError) else DriveError(str(error))
            self.lifecycle.failed(planned, known, "find")
        except Exception as error:
            self.lifecycle.failed(planned, error, "find")
        else:
            self.lifecycle.loaded(active, identity, len(task.chunks), time.monotonic() - begun)
            return Loaded(active, task)
        return None

    def _run(self, loaded: Sequence[Loaded]) -> None:
        self._wave = {one.drive_id: one for one in loaded}
        self._nodes, self._dropped, self._begun = {}, {}, 0
        self._last = loaded[-1].drive_id
        costs = (one.active.planned.costs for one in loaded)
        needed = max((ranks_needed(cost, self.size.rank_bytes) for cost in costs if cost), default=1)
        workers = self.config.workers or min(needed, self.run.slots.total)
        self._ranks = workers
        settings = GroupSettings(
            workers, self.size.in_process, self.size.gpus > 0, self.config.fleet.barrier_timeout_s, retries_after_loss=0
        )
        failure: GroupError | None = None
        tasks = [one.task for one in loaded]
        try:
            with self.run.slots.hold(workers):
                self.runtime.run_wave(self.config, self.lifecycle.output, tasks, settings, self._on_event, self._permit)
        except Stopped:
            pass
        except GroupError as error:
            failure = error
            if error.drive_id is not None:
                self._blame(error.drive_id)
        except Exception as error:  # in this process: the drive that was worked on is known
            for one in loaded:
                if self._has(one.drive_id) and self.lifecycle.ledger.row(one.drive_id).state == "running":
                    self.lifecycle.failed(one.active.planned, error, "forward")
        self._fail_dropped()
        if self.lifecycle.stopping:
            return
        for one in loaded:
            if self._has(one.drive_id) and self.lifecycle.ledger.row(one.drive_id).state != "staged":
                self.lifecycle.not_begun(one.active)
        self._hopeless = self._hopeless + 1 if failure is not None and not self._begun else 0
        if failure is not None and self._hopeless >= _HOPELESS_STARTS:
            raise failure

    def _permit(self, drive_id: str) -> Answer | None:
        self._fail_dropped()
        answer: Answer | None = "skip"
        if self._has(drive_id):
            answer = self.lifecycle.permit(
                drive_id,
                self.number,
                self._ranks if self.size.gpus else 0,
                full=self.run.finisher.is_full,
                draining=self._is_draining(),
            )
        self._begun += answer == "go"
        if drive_id == self._last and answer in ("go", "skip") and self._following is None:
            # load the next wave while the group works on its last drive; earlier loading makes groups end unevenly
            self._following = self._ahead.submit(self._load_wave)
        return answer

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Progress):
            if self._has(event.drive_id):
                self.lifecycle.phase(event.drive_id, event.phase)
        elif isinstance(event, RankUp):
            self._nodes[event.rank] = event.node_id
        elif isinstance(event, Dropped):
            known = self._dropped.get(event.drive_id)
            if known is None or (event.primary and not known.primary):
                self._dropped[event.drive_id] = event
        elif isinstance(event, GroupLost):
            self._fail_dropped()
            if event.drive_id is not None:
                self._blame(event.drive_id)
        elif isinstance(event, Staged):
            self._staged(event)
        elif isinstance(event, Waits | Notice):
            self.lifecycle.reporter.say(f"group {self.number}: {event.said}")
        if self.lifecycle.stopping and self.size.in_process:
            raise Stopped

    def _has(self, drive_id: str) -> bool:
        """Whether the drive still belongs to this wave. A drive that was put back may already be in the next wave, or
        in another group."""
        return drive_id in self._wave and self.lifecycle.holds(self._wave[drive_id].active)

    def _staged(self, event: Staged) -> None:
        if not self._has(event.drive_id):
            return
        planned = self.lifecycle.staged(event.drive_id, len(event.loops))
        if planned is None:
            return
        outcome = Outcome(event.drive_id, event.attempt, None, event.loops)
        staged = staged_drive(self._wave[event.drive_id].task, outcome, self.config, self.lifecycle.noted)
        self.run.finisher.submit(lambda: self.lifecycle.finish(planned, staged, self.runtime.finish))

    def _fail_dropped(self) -> None:
        """Report the drives that all ranks gave up, with the reason of the rank on which the error occurred."""
        dropped, self._dropped = self._dropped, {}
        for drive_id, event in dropped.items():
            if not self._has(drive_id):
                continue
            planned = self._wave[drive_id].active.planned
            self.lifecycle.failed(planned, DriveError(event.reason, retryable=not event.lasting), "forward")

    def _blame(self, drive_id: str) -> None:
        """A process of the group died during this drive: decide whether the drive or the node was the cause."""
        if not self._has(drive_id):
            return
        alive, draining = self.runtime.nodes()
        # when a drained node reaches its deadline, Ray Train ends the group before the node is gone
        if any(node not in alive or node in draining for node in self._nodes.values()):
            self.lifecycle.lost_node(drive_id)
        else:
            self.lifecycle.crashed(drive_id)

    def _is_draining(self) -> bool:
        """Whether a node of this group will shut down soon. Then the next drive begins elsewhere."""
        if not self._nodes:
            return False
        _, draining = self.runtime.nodes()
        return any(node in draining for node in self._nodes.values())
