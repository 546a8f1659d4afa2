"""What happens to a drive is decided here, in one place for all threads: begun, tried again, given up, published.

Every drive that was taken from the queue goes back there or is done exactly once, and ends in one final state.
"""

from __future__ import annotations

import contextlib
import itertools
import re
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
from pipeline.fleet.plan.drive_plan import PUBLISHED_ALREADY, TAKEN, PlannedDrive, drive_config
from pipeline.fleet.records.cleanup import clear_leftovers
from pipeline.fleet.records.failure_records import Failure, Failures, FailureState
from pipeline.fleet.records.ledger import DriveRow, Ledger
from pipeline.fleet.schedule.active_drive import InHand
from pipeline.fleet.schedule.finisher import FinishDrive, Finished
from pipeline.fleet.schedule.queue import DriveQueue
from pipeline.fleet.status.fleet_progress import HowFar
from pipeline.forward.events import Answer
from pipeline.leases import HeldElsewhere, Lease, Leases
from pipeline.reconstruct import clear_staging
from pipeline.staged_drive import StagedDrive
from pipeline.storage.retry import doubling, is_retryable, wait_before_retry

_FRAME = re.compile(r"\bframe (\d+)")
_STOPPED = "the run was stopped before it was done"


def said_of(drive_id: str, error: BaseException) -> str:
    """An error that the pipeline does not know, in one line."""
    return f"drive {drive_id}: " + " ".join(f"{type(error).__name__}: {error}".split())[:300]


class DriveBook:
    """Safe across threads."""

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
        """noted: what of the input is not used, as far as it was looked through."""
        self.config, self.output, self.ledger, self.leases = config, output, ledger, leases
        self.failures, self.queue, self.reporter = failures, queue, reporter
        self.noted = noted
        self.stopping = False
        self._in_hand: dict[str, InHand] = {}
        self._troubles: Counter[str] = Counter()
        self._crashes: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self._elsewhere: set[str] = set()
        self._waits_s = doubling(config.fleet.retry_after_s, config.fleet.max_attempts)
        self._lock = threading.RLock()
        self._how_far = HowFar(ledger, reporter)

    # -- before the network ---------------------------------------------------------------------------------

    def note_plan(self, planned: PlannedDrive) -> None:
        """A drive was planned: its row, and what is final about it already."""
        costs = planned.costs
        row = DriveRow(
            planned.drive_id,
            storage.redacted(planned.ref.uri),
            planned.ref.tags,
            identity=planned.identity,
            frames=planned.frames,
            chunks=costs.chunks if costs else 0,
            queued_at=time.time(),
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
                self._settle(planned)
            self.ledger.update(planned.drive_id, state="skipped", stage=planned.stage, reason=planned.why_left)

    def clear_leftovers(self) -> None:
        """Of drives that are published: leases and staged files of a run that died before it could clear up."""

        def is_published(drive_id: str) -> bool:
            row = self.ledger.rows.get(drive_id)
            return row is not None and row.reason == PUBLISHED_ALREADY

        clear_leftovers(self.output, self.leases, is_published, lambda: self.stopping)

    def skip(self, planned: PlannedDrive, reason: str) -> None:
        """This run leaves the drive as it is."""
        self.ledger.update(planned.drive_id, state="skipped", reason=reason)

    def claim(self, planned: PlannedDrive) -> InHand | None:
        """Take a drive's lease before anything of it is read. None: it went back to the queue or is done."""
        drive_id = planned.drive_id
        try:
            lease = self.leases.take(drive_id)
            if isinstance(lease, HeldElsewhere):
                self._is_elsewhere(planned, lease)
                return None
            hand = InHand(planned, lease)
            with self._lock:
                stopped = self.stopping
                if not stopped:
                    self._in_hand[drive_id] = hand
            if stopped:  # while it was taken: nobody gives it back but here
                self.leases.release(lease)
                return None
            known = planned.identity is not None and not self.config.overwrite
            if known and publish.is_whole(self.output, drive_id, str(planned.identity)):
                self._let_go(drive_id, state="skipped", reason="another run published it meanwhile")
                return None
        except PipelineError as error:
            self.failed(planned, error, "find")
            return None
        if lease.deaths >= self.config.fleet.max_attempts:
            reason = f"drive {drive_id}: {lease.deaths} runs in a row died while they worked on it"
            self.give_up(planned, reason, "forward", state="quarantined")
            return None
        return hand

    def planned_now(self, hand: InHand, planned: PlannedDrive) -> bool:
        """A drive that could not be planned, since the store did not answer, was planned when its turn came. False: it
        is not to be done, or went back to the queue."""
        drive_id = planned.drive_id
        if planned.todo == "trouble":
            self.failed(planned, StorageError(planned.reason), planned.stage or "find")
        elif planned.todo == "bad":
            self.give_up(planned, planned.reason or "", planned.stage or "find")
        elif planned.todo != "do":
            self._forget_if_published(planned)
            if not planned.settled:
                with contextlib.suppress(PipelineError):
                    publish.settle(self.output, drive_id, hand.lease.guard)
            self._let_go(drive_id, state="skipped", stage=planned.stage, reason=planned.why_left)
        else:
            hand.planned = planned
            self.ledger.update(drive_id, frames=planned.frames)
            return True
        return False

    def loaded(self, hand: InHand, identity: str, chunks: int, seconds: float) -> None:
        """A drive was listed and looked through: identity is of what was found now."""
        hand.planned = replace(hand.planned, identity=identity)
        self.ledger.update(hand.planned.drive_id, seconds={"find": seconds}, identity=identity, chunks=chunks)

    def permit(self, drive_id: str, group: int, gpus: int, *, full: bool, draining: bool) -> Answer | None:
        """Whether a group of so many GPUs may begin a drive of its wave now."""
        if self.stopping or draining:
            return "stop"
        if full:
            return None
        with self._lock:
            hand = self._in_hand.get(drive_id)
        if hand is None:
            return "skip"
        try:
            self.leases.work_on(hand.lease)
        except LeaseLostError as error:
            if self.stopping:  # given back in this moment
                return "stop"
            self._let_go(drive_id, state="skipped", reason=str(error))
            return "skip"
        except StorageError as error:
            self.failed(hand.planned, error, "forward")
            return "skip"
        hand.begun, hand.gpus = time.monotonic(), gpus
        attempts = self.ledger.row(drive_id).attempts + 1
        self.ledger.update(
            drive_id, state="running", attempts=attempts, group=group, gpus=gpus, reason=None, stage=None
        )
        return "go"

    # -- in the network -------------------------------------------------------------------------------------

    def phase(self, drive_id: str, phase: str) -> None:
        """What a group is at with a drive."""
        hand = self._in_hand.get(drive_id)
        if hand is not None and hand.phase != phase:
            hand.phase = phase

    def holds(self, hand: InHand) -> bool:
        """Whether the group that took it has the drive still."""
        return self._in_hand.get(hand.planned.drive_id) is hand

    def crashed(self, drive_id: str) -> None:
        """A process died while it worked on this drive, its node lives: again, alone, but not for ever."""
        hand = self._in_hand.get(drive_id)
        if hand is None:
            return
        self._crashes[drive_id] += 1
        count, most = self._crashes[drive_id], self.config.fleet.max_attempts
        reason = f"drive {drive_id}: the process that worked on it died ({hand.phase}), {count} of {most} times"
        if count >= most:
            self.give_up(hand.planned, reason, "forward", state="quarantined")
        else:
            self.reporter.say(f"{reason}; again, alone")
            self._again(hand, reason, alone=True)

    def lost_node(self, drive_id: str) -> None:
        """The machine that worked on this drive is gone: not the drive's fault."""
        hand = self._in_hand.get(drive_id)
        if hand is None:
            return
        self._lost_nodes[drive_id] += 1
        reason = f"drive {drive_id}: the node that worked on it was lost ({hand.phase})"
        if self._lost_nodes[drive_id] >= self.config.fleet.max_lost_nodes:
            self.give_up(hand.planned, f"{reason}, {self._lost_nodes[drive_id]} times", "forward", lasting=False)
        else:
            self.reporter.say(f"{reason}; again")
            self._again(hand, reason)

    def not_begun(self, hand: InHand) -> None:
        """A group ended before this drive's turn: it waits again."""
        if self.holds(hand):
            self._again(hand, self.ledger.row(hand.planned.drive_id).reason)

    def failed(self, planned: PlannedDrive, error: Exception, stage: str) -> None:
        """An error ended a try at the drive: again after a while and a few times where that may help, else given up."""
        drive_id = planned.drive_id
        reason = str(error) if isinstance(error, PipelineError) else said_of(drive_id, error)
        self._troubles[drive_id] += is_retryable(error)
        count = self._troubles[drive_id]
        wait = wait_before_retry(error, count, self._waits_s)
        if wait is None:
            tried = f" (tried {count} times)" if is_retryable(error) else ""
            self.give_up(planned, reason + tried, stage, lasting=not is_retryable(error))
            return
        self.reporter.say(f"{reason}; again in {wait:.0f} s")
        hand = self._in_hand.get(drive_id)
        if hand is not None:
            self._again(hand, reason, after_s=wait)
        else:
            self.ledger.update(drive_id, state="queued", reason=reason)
            self.queue.put_back(planned, after_s=wait)

    def give_up(
        self, planned: PlannedDrive, reason: str, stage: str, *, lasting: bool = True, state: FailureState = "failed"
    ) -> None:
        """A drive that was taken has no result in this run."""
        with self._lock:
            hand = self._in_hand.pop(planned.drive_id, None)
        if hand is None and self.stopping:
            return  # left for later
        if hand is not None:  # else it never was this run's: what is staged of it may be another's
            hand.end_try(self.ledger, self.output)
        self._fail(planned, reason, stage, lasting=lasting, state=state, hand=hand)
        if hand is not None:
            self.leases.release(hand.lease)
        self.queue.done()

    # -- behind it ------------------------------------------------------------------------------------------

    def staged(self, drive_id: str, loops: int) -> PlannedDrive | None:
        """All chunks are staged; None where the drive is not this run's any more."""
        with self._lock:
            hand = self._in_hand.get(drive_id)
            if hand is None or hand.begun is None or self.stopping:
                return None
            hand.phase = "staged"
        self.leases.rest(hand.lease)
        spent = hand.spend(self.ledger)
        self.ledger.update(drive_id, state="staged", loops=loops, frames_per_s=hand.planned.frames / max(spent, 1e-3))
        return hand.planned

    def finish(self, planned: PlannedDrive, staged: StagedDrive, finish: FinishDrive) -> None:
        """Join and publish a staged drive; tried again where the store failed. Never raises."""
        drive_id = planned.drive_id
        config = drive_config(self.config, planned.ref)
        for tries in itertools.count(1):
            try:
                hand = self._in_hand.get(drive_id)
                if hand is None:
                    return  # left for later
                self.leases.keep(hand.lease)
                finished = finish(staged, config, self.output, self.ledger.info.run_id)
            except LeaseLostError as error:
                self._let_go(drive_id, state="skipped", reason=str(error))
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
                self.give_up(planned, said_of(drive_id, error), "join", lasting=False)
            else:
                self._published(planned, finished)
            return

    # -- the end --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """From now on nothing is begun; what is running is said to wait again, and is anybody's at once: whoever told
        this process to stop may kill it seconds later, and that shall count against no drive."""
        with self._lock:
            self.stopping = True
            hands = list(self._in_hand.values())
        for hand in hands:
            if hand.phase != "staged":
                self.ledger.update(hand.planned.drive_id, state="queued", reason=_STOPPED)
        self.leases.give_back([hand.lease for hand in hands if hand.phase != "staged"])
        self.leases.say_at_rest([hand.lease for hand in hands if hand.phase == "staged"])
        self.ledger.update_run(state="interrupted")
        with contextlib.suppress(StorageError):
            self.ledger.flush()

    def leave_rest(self) -> None:
        """What nobody will end any more: back to waiting, nothing staged left behind."""
        with self._lock:  # whoever is at one of them still finds that it is nobody's
            hands, self._in_hand = dict(self._in_hand), {}
        for drive_id in hands:
            self.ledger.update(drive_id, state="queued", reason=_STOPPED)
        for drive_id, hand in hands.items():
            if hand.phase == "waiting":
                continue  # nothing of it is staged
            with contextlib.suppress(StorageError):
                lease = self.leases.take(drive_id) if hand.lease.lost else hand.lease
                if isinstance(lease, Lease):  # else another run has begun with it
                    clear_staging(self.output, drive_id, lease.guard)
                    self.leases.release(lease)

    # -- small parts ----------------------------------------------------------------------------------------

    def _published(self, planned: PlannedDrive, finished: Finished) -> None:
        with contextlib.suppress(StorageError):
            self.failures.forget(planned.drive_id)
        self._let_go(
            planned.drive_id,
            state="published",
            frames=finished.frames,
            chunks=finished.chunks,
            loops=finished.loops,
            points=finished.points,
            bytes=finished.bytes,
            verdict=finished.verdict,
            seconds=finished.seconds,
            reason=None,
            stage=None,
        )

    def _let_go(self, drive_id: str, **changes: object) -> None:
        """The drive is through, with this change of its row."""
        with self._lock:
            hand = self._in_hand.pop(drive_id, None)
        if hand is None:
            return  # left for later
        self.ledger.update(drive_id, **changes)
        self.leases.release(hand.lease)
        self.queue.done()
        self._how_far.say()

    def _again(self, hand: InHand, reason: str | None, *, after_s: float = 0.0, alone: bool = False) -> None:
        drive_id = hand.planned.drive_id
        with self._lock:
            self._in_hand.pop(drive_id, None)
        hand.end_try(self.ledger, self.output)
        self.ledger.update(drive_id, state="queued", reason=reason)
        self.leases.release(hand.lease)
        self.queue.put_back(hand.planned, after_s=after_s, alone=alone)

    def _is_elsewhere(self, planned: PlannedDrive, held: HeldElsewhere) -> None:
        """Another run has it: looked at once more when its deadline is over, in case that run is dead."""
        if planned.drive_id in self._elsewhere:
            self.ledger.update(planned.drive_id, state="skipped", reason=held.said)
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
        hand: InHand | None = None,
    ) -> None:
        found = _FRAME.search(reason)
        frame = int(found[1]) if found else None
        if stage == "forward" and hand is not None and hand.phase != "waiting":
            stage = f"forward: {hand.phase}"
        row = self.ledger.update(planned.drive_id, state=state, reason=reason, stage=stage, frame=frame)
        self.reporter.say(f"drive {planned.drive_id} {state}: {reason}")
        record = Failure(
            planned.drive_id,
            state,
            lasting,
            reason,
            stage,
            frame,
            row.attempts,
            planned.identity,
            self.ledger.info.run_id,
            time.time(),
        )
        with contextlib.suppress(PipelineError):  # an unsafe name has no record, and is refused each time anew
            self.failures.put(record)
        self._how_far.say()

    def _settle(self, planned: PlannedDrive) -> None:
        """A publish that was killed between the new version and its usual names is ended now."""
        with contextlib.suppress(PipelineError):
            lease = self.leases.take(planned.drive_id)
            if isinstance(lease, Lease):
                publish.settle(self.output, planned.drive_id, lease.guard)
                self.leases.release(lease)

    def _forget_if_published(self, planned: PlannedDrive) -> None:
        """An old failure of a drive whose result is there: its publisher ended before it could say so."""
        if planned.todo == "published":
            with contextlib.suppress(StorageError):
                self.failures.forget(planned.drive_id)
