"""Decides for all threads what happens to a drive: begun, tried again, given up, published.

`drive_states` lists the events and the states that they lead to. Every drive that was taken from the queue is put back
or marked done exactly once, and ends in one final state.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline import publish, storage
from pipeline.common.progress import Reporter
from pipeline.common.waits import say_wait
from pipeline.config import RunConfig
from pipeline.errors import LeaseLostError, PipelineError, StorageError
from pipeline.fleet.plan.drive_plan import TAKEN, PlannedDrive, drive_config
from pipeline.fleet.records.cleanup import settle_published
from pipeline.fleet.records.failure_records import Failure, Failures, FailureState, frame_of, in_one_line
from pipeline.fleet.records.ledger import DriveRow, Ledger
from pipeline.fleet.schedule.active_drive import ActiveDrive
from pipeline.fleet.schedule.drive_states import TRANSITIONS, DriveEvent, next_state
from pipeline.fleet.schedule.finisher import FinishDrive, Finished
from pipeline.fleet.schedule.queue import DriveQueue
from pipeline.fleet.status.fleet_progress import FleetProgress
from pipeline.forward.events import Answer
from pipeline.leases import HeldElsewhere, Leases
from pipeline.staged_drive import StagedDrive
from pipeline.storage.retry import doubling, is_retryable, wait_before_retry

_STOPPED = "the run was stopped before it was done"


class DriveLifecycle:
    """The state machine of all drives of a run. Safe across threads."""

    def __init__(
        self,
        config: RunConfig,
        output: str,
        ledger: Ledger,
        leases: Leases,
        failures: Failures,
        queue: DriveQueue,
        reporter: Reporter,
        noted: Sequence[str] = (),
    ) -> None:
        """noted: notes on parts of the input that are not used; it grows while discovery goes on."""
        self.config, self.output, self.ledger, self.leases = config, output, ledger, leases
        self.failures, self.queue, self.reporter = failures, queue, reporter
        self.noted = noted
        self.stopping = False
        self._active: dict[str, ActiveDrive] = {}
        self._troubles: Counter[str] = Counter()
        self._crashes: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self._elsewhere: set[str] = set()
        self._waits_s = doubling(config.fleet.retry_after_s, config.fleet.max_attempts)
        self._lock = threading.RLock()
        self._progress = FleetProgress(ledger, reporter)

    # -- before the network ---------------------------------------------------------------------------------

    def note_plan(self, planned: PlannedDrive) -> None:
        """A drive was planned: write its row, in a final state where nothing has to be done."""
        costs = planned.costs
        row = DriveRow(
            planned.drive_id,
            storage.redacted(planned.ref.uri),
            planned.ref.tags,
            identity=planned.identity,
            frames=planned.frames,
            chunks=costs.chunks if costs else 0,
        )
        self.ledger.add([row])
        for note in planned.notes:
            self.reporter.say(f"drive {planned.drive_id}: {note}")
        if planned.todo == "bad":
            self._fail(planned, planned.reason or "", planned.stage or "find", lasting=planned.stage != TAKEN)
        elif planned.todo == "do" and planned.reason:
            self.reporter.say(f"drive {planned.drive_id}: {planned.reason}")
        elif planned.todo not in ("do", "trouble"):
            self._forget_if_published(planned)
            if not planned.settled:
                settle_published(self.output, self.leases, planned.drive_id)
            self._move(planned.drive_id, "left alone", stage=planned.stage, reason=planned.why_left)

    def skip(self, planned: PlannedDrive, reason: str) -> None:
        """This run does not do the drive."""
        self._move(planned.drive_id, "left alone", reason=reason)

    def claim(self, planned: PlannedDrive) -> ActiveDrive | None:
        """Take the lease of a drive before any of its files is read. None: the drive was put back or is done."""
        drive_id = planned.drive_id
        try:
            lease = self.leases.take(drive_id)
            if isinstance(lease, HeldElsewhere):
                self._is_elsewhere(planned, lease)
                return None
            active = ActiveDrive(planned, lease)
            with self._lock:
                stopped = self.stopping
                if not stopped:
                    self._active[drive_id] = active
            if stopped:  # the run was stopped meanwhile: only this thread knows of the lease
                self.leases.release(lease)
                return None
            known = planned.identity is not None and not self.config.overwrite
            if known and publish.is_whole(self.output, drive_id, str(planned.identity)):
                self._let_go(drive_id, "left alone", reason="another run published it meanwhile")
                return None
        except PipelineError as error:
            self.failed(planned, error, "find")
            return None
        if lease.deaths >= self.config.fleet.max_attempts:
            reason = f"drive {drive_id}: {lease.deaths} runs in a row died while they worked on it"
            self.give_up(planned, reason, "forward", state="quarantined")
            return None
        return active

    def planned_now(self, active: ActiveDrive, planned: PlannedDrive) -> bool:
        """A drive whose store did not answer at first was planned when its turn came. False: nothing has to be done, or
        it was put back."""
        drive_id = planned.drive_id
        if planned.todo == "trouble":
            self.failed(planned, StorageError(planned.reason), planned.stage or "find")
        elif planned.todo == "bad":
            self.give_up(planned, planned.reason or "", planned.stage or "find")
        elif planned.todo != "do":
            self._forget_if_published(planned)
            if not planned.settled:
                with contextlib.suppress(PipelineError):
                    publish.settle(self.output, drive_id, active.lease.guard)
            self._let_go(drive_id, "left alone", stage=planned.stage, reason=planned.why_left)
        else:
            active.planned = planned
            self.ledger.update(drive_id, frames=planned.frames)
            return True
        return False

    def loaded(self, active: ActiveDrive, identity: str, chunks: int, seconds: float) -> None:
        """A drive was listed and scanned. identity: of the files as they are now."""
        active.planned = replace(active.planned, identity=identity)
        self.ledger.update(active.planned.drive_id, seconds={"find": seconds}, identity=identity, chunks=chunks)

    def permit(self, drive_id: str, group: int, gpus: int, *, full: bool, draining: bool) -> Answer | None:
        """Whether a group may begin a drive of its wave now; None: ask again later. gpus: of the group; full: too many
        drives wait for the finisher; draining: a node of the group will shut down."""
        if self.stopping or draining:
            return "stop"
        if full:
            return None
        with self._lock:
            active = self._active.get(drive_id)
        if active is None:
            return "skip"
        try:
            self.leases.work_on(active.lease)
        except LeaseLostError as error:
            if self.stopping:  # `stop` released the lease meanwhile
                return "stop"
            self._let_go(drive_id, "lost to another run", reason=str(error))
            return "skip"
        except StorageError as error:
            self.failed(active.planned, error, "forward")
            return "skip"
        active.begun, active.gpus = time.monotonic(), gpus
        attempts = self.ledger.row(drive_id).attempts + 1
        self._move(drive_id, "begun", attempts=attempts, group=group, gpus=gpus, reason=None, stage=None)
        return "go"

    # -- in the network -------------------------------------------------------------------------------------

    def phase(self, drive_id: str, phase: str) -> None:
        """The stage that a group has reached with a drive."""
        active = self._active.get(drive_id)
        if active is not None and active.phase != phase:
            active.phase = phase

    def holds(self, active: ActiveDrive) -> bool:
        """Whether the drive still belongs to the group that took it."""
        return self._active.get(active.planned.drive_id) is active

    def crashed(self, drive_id: str) -> None:
        """A process died while it worked on this drive, but its node is alive: try again alone, max_attempts times."""
        active = self._active.get(drive_id)
        if active is None:
            return
        self._crashes[drive_id] += 1
        count, most = self._crashes[drive_id], self.config.fleet.max_attempts
        reason = f"drive {drive_id}: the process that worked on it died ({active.phase}), {count} of {most} times"
        if count >= most:
            self.give_up(active.planned, reason, "forward", state="quarantined")
        else:
            self.reporter.say(f"{reason}; again, alone")
            self._again(active, reason, alone=True)

    def lost_node(self, drive_id: str) -> None:
        """The node that worked on this drive was lost: try again, up to max_lost_nodes times. It counts as no death."""
        active = self._active.get(drive_id)
        if active is None:
            return
        self._lost_nodes[drive_id] += 1
        reason = f"drive {drive_id}: the node that worked on it was lost ({active.phase})"
        if self._lost_nodes[drive_id] >= self.config.fleet.max_lost_nodes:
            self.give_up(active.planned, f"{reason}, {self._lost_nodes[drive_id]} times", "forward", lasting=False)
        else:
            self.reporter.say(f"{reason}; again")
            self._again(active, reason)

    def not_begun(self, active: ActiveDrive) -> None:
        """A group ended before it began this drive: put it back."""
        if self.holds(active):
            self._again(active, self.ledger.row(active.planned.drive_id).reason)

    def failed(self, planned: PlannedDrive, error: Exception, stage: str) -> None:
        """An error ended a try: try again later if it is retryable and tries are left, else give the drive up."""
        drive_id = planned.drive_id
        reason = str(error) if isinstance(error, PipelineError) else in_one_line(drive_id, error)
        self._troubles[drive_id] += is_retryable(error)
        count = self._troubles[drive_id]
        wait = wait_before_retry(error, count, self._waits_s)
        if wait is None:
            tried = f" (tried {count} times)" if is_retryable(error) else ""
            self.give_up(planned, reason + tried, stage, lasting=not is_retryable(error))
            return
        self.reporter.say(f"{reason}; again in {wait:.0f} s")
        active = self._active.get(drive_id)
        if active is not None:
            self._again(active, reason, after_s=wait)
        else:
            self._move(drive_id, "put back", reason=reason)
            self.queue.put_back(planned, after_s=wait)

    def give_up(
        self, planned: PlannedDrive, reason: str, stage: str, *, lasting: bool = True, state: FailureState = "failed"
    ) -> None:
        """End a drive that was taken without a result in this run. lasting: later runs skip it until it changes."""
        with self._lock:
            active = self._active.pop(planned.drive_id, None)
        if active is None and self.stopping:
            return  # left for later
        if active is not None:  # else this run never had its lease, and the staged files may belong to another run
            active.end_try(self.ledger, self.output)
        self._fail(planned, reason, stage, lasting=lasting, state=state, active=active)
        if active is not None:
            self.leases.release(active.lease)
        self.queue.done()

    # -- after the network ----------------------------------------------------------------------------------

    def staged(self, drive_id: str, loops: int) -> PlannedDrive | None:
        """All chunks are staged; None where this run no longer has the drive."""
        with self._lock:
            active = self._active.get(drive_id)
            if active is None or active.begun is None or self.stopping:
                return None
            active.phase = "staged"
        self.leases.rest(active.lease)
        spent = active.spend(self.ledger)
        self._move(drive_id, "staged", loops=loops, frames_per_s=active.planned.frames / max(spent, 1e-3))
        return active.planned

    def finish(self, planned: PlannedDrive, staged: StagedDrive, finish: FinishDrive) -> None:
        """Join and publish a staged drive; try again where the store failed. Never raises."""
        drive_id = planned.drive_id
        config = drive_config(self.config, planned.ref)
        for tries in itertools.count(1):
            try:
                active = self._active.get(drive_id)
                if active is None:
                    return  # left for later
                self.leases.keep(active.lease)
                finished = finish(staged, config, self.output, self.ledger.info.run_id)
            except LeaseLostError as error:
                self._let_go(drive_id, "lost to another run", reason=str(error))
            except StorageError as error:
                wait = wait_before_retry(error, tries, self._waits_s)
                if wait is not None and not self.stopping:
                    say_wait(f"the next try to publish drive {drive_id} ({error})", wait)
                    time.sleep(wait)
                    continue
                self.give_up(planned, f"{error} (tried {tries} times)", "publish", lasting=False)
            except PipelineError as error:
                self.give_up(planned, str(error), "join")
            except Exception as error:
                self.give_up(planned, in_one_line(drive_id, error), "join", lasting=False)
            else:
                self._published(planned, finished)
            return

    # -- the end --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin no more drives. Put running drives back at once and release their leases: this process may be killed
        seconds later, and that must not count as a death of a drive."""
        with self._lock:
            self.stopping = True
            drives = list(self._active.values())
        for active in drives:
            if active.phase != "staged":
                self._move(active.planned.drive_id, "run stopped", reason=_STOPPED)
        self.leases.give_back([active.lease for active in drives if active.phase != "staged"])
        self.leases.say_at_rest([active.lease for active in drives if active.phase == "staged"])
        self.ledger.update_run(state="interrupted")
        with contextlib.suppress(StorageError):
            self.ledger.flush()

    def leave_rest(self) -> None:
        """Put back the drives that will not be finished, and remove their staged files."""
        with self._lock:  # a thread that still works on one of them then finds that it no longer has it
            drives, self._active = dict(self._active), {}
        for drive_id in drives:
            self._move(drive_id, "run stopped", reason=_STOPPED)
        for active in drives.values():
            if active.phase == "waiting":
                continue  # nothing of it is staged
            active.clear_up(self.leases, self.output)

    def _move(self, drive_id: str, event: DriveEvent, **changes: object) -> DriveRow:
        """The row of a drive after an event. A final state does not change."""
        with self._lock:
            row = self.ledger.row(drive_id)
            if row.is_final:
                return row
            try:
                state = next_state(row.state, event)
            except ValueError as error:  # a bug of this program; it must not end a run over ten thousand drives
                self.reporter.say(f"drive {drive_id}: {error}; please report this")
                state = TRANSITIONS[event].after
            return self.ledger.update(drive_id, state=state, **changes)

    def _published(self, planned: PlannedDrive, finished: Finished) -> None:
        with contextlib.suppress(StorageError):
            self.failures.forget(planned.drive_id)
        self._let_go(planned.drive_id, "published", **vars(finished), reason=None, stage=None)

    def _let_go(self, drive_id: str, event: DriveEvent, **changes: object) -> None:
        """This event ends the drive in this run: change its row, release its lease, mark it done."""
        with self._lock:
            active = self._active.pop(drive_id, None)
        if active is None:
            return  # left for later
        self._move(drive_id, event, **changes)
        self.leases.release(active.lease)
        self.queue.done()
        self._progress.say()

    def _again(self, active: ActiveDrive, reason: str | None, *, after_s: float = 0.0, alone: bool = False) -> None:
        drive_id = active.planned.drive_id
        with self._lock:
            self._active.pop(drive_id, None)
        active.end_try(self.ledger, self.output)
        self._move(drive_id, "put back", reason=reason)
        self.leases.release(active.lease)
        self.queue.put_back(active.planned, after_s=after_s, alone=alone)

    def _is_elsewhere(self, planned: PlannedDrive, held: HeldElsewhere) -> None:
        """Another run has the drive: ask once more when the lease ends, in case that run is dead."""
        if planned.drive_id in self._elsewhere:
            self._move(planned.drive_id, "left alone", reason=held.said)
            self.queue.done()
            return
        self._elsewhere.add(planned.drive_id)
        self.ledger.update(planned.drive_id, reason=held.said)
        self.reporter.say(f"drive {planned.drive_id} waits: {held.said}")
        self.queue.put_back(planned, after_s=held.free_in_s + 1)

    def _fail(
        self,
        planned: PlannedDrive,
        reason: str,
        stage: str,
        *,
        lasting: bool,
        state: FailureState = "failed",
        active: ActiveDrive | None = None,
    ) -> None:
        if stage == "forward" and active is not None and active.phase != "waiting":
            stage = f"forward: {active.phase}"
        frame = frame_of(reason)
        row = self._move(planned.drive_id, state, reason=reason, stage=stage, frame=frame)
        self.reporter.say(f"drive {planned.drive_id} {state}: {reason}")
        tried = (lasting, reason, stage, frame, row.attempts, planned.identity, self.ledger.info.run_id, time.time())
        record = Failure(planned.drive_id, state, *tried)
        with contextlib.suppress(PipelineError):  # a drive with an unsafe name gets no record; every run refuses it
            self.failures.put(record)
        self._progress.say()

    def _forget_if_published(self, planned: PlannedDrive) -> None:
        """Remove the failure record of a published drive. It remains where the run that published was killed."""
        if planned.todo == "published":
            with contextlib.suppress(StorageError):
                self.failures.forget(planned.drive_id)
