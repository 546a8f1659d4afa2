"""The events that workers send to their driver: progress, drives staged, drives dropped.

If the loop runs in the driver's own process, the receiver is a plain object; otherwise it is a Ray actor.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.forward.loop_chunks import LoopChunk


@dataclass(frozen=True)
class Progress:
    """`count` more frames or chunks of a phase of a drive are done on some rank."""

    drive_id: str
    phase: str
    count: int


@dataclass(frozen=True)
class LoopsFound:
    """The number of a drive's loop chunks; sent once, by rank 0."""

    drive_id: str
    count: int


@dataclass(frozen=True)
class Staged:
    """All chunks of a drive are staged under this attempt; sent once, by rank 0.

    loops: for each staged loop chunk, the places that it compares.
    """

    drive_id: str
    attempt: str
    chunk_count: int
    loops: tuple[LoopChunk, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A rank's reason why a drive was given up. primary: the failure happened on this rank.

    lasting: the cause is the drive's data or the network, so another try would fail too; otherwise a store, a disk or
    memory failed.
    """

    drive_id: str
    rank: int
    reason: str
    primary: bool
    lasting: bool = True


@dataclass(frozen=True)
class RankUp:
    """A rank runs in this process on this node of Ray. Sent at every start and restart of the group."""

    rank: int
    node_id: str
    pid: int


@dataclass(frozen=True)
class GroupLost:
    """The group lost a member and starts again. drive_id: the drive that it worked on; None: none yet."""

    drive_id: str | None


@dataclass(frozen=True)
class Waits:
    """The group waits for machines. said: a sentence for the user."""

    said: str


@dataclass(frozen=True)
class Notice:
    """A message from a rank for the user; the work goes on. said: one line."""

    said: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of one drive in the forward stage: staged under an attempt, or dropped with a reason.

    loops: for each loop chunk, the places that it compares, in the order in which they are staged after the chunks.
    """

    drive_id: str
    attempt: str | None
    reason: str | None
    loops: tuple[LoopChunk, ...] = ()


Event = Progress | LoopsFound | Staged | Dropped | RankUp | GroupLost | Waits | Notice
Answer = Literal["go", "skip", "stop"]
"""The driver's answer before each drive: go (do it), skip (leave it out), stop (leave out this and all that follow)."""


class EventSink(Protocol):
    """The receiver of events, which also answers rank 0's questions."""

    def send(self, event: Event) -> None:
        """Deliver an event without waiting."""
        ...

    def ask(self, drive_id: str) -> Answer:
        """Whether to begin this drive now; waits for the answer."""
        ...

    def flush(self) -> None:
        """Wait until all sent events have arrived."""
        ...


class EventQueue:
    """Collects events until the driver takes them, and answers rank 0. Safe across threads; also the body of the actor.

    It outlives the group's processes, so it knows what a group that lost a member was working on.
    """

    def __init__(self, retries_after_loss: int = 0) -> None:
        """retries_after_loss: how often a drive on which the group lost a member is begun again in its place."""
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._retries = retries_after_loss
        self._losses: dict[str, int] = {}
        self._over: set[str] = set()  # drives that this group does not begin (again)
        self._working: str | None = None
        self._asked: str | None = None
        self._answer: Answer | None = None
        self._starts = 0
        self._up = False

    def send(self, event: Event) -> None:
        """Add an event."""
        with self._lock:
            if isinstance(event, Staged | Dropped):
                self._over.add(event.drive_id)
                if self._working == event.drive_id and (isinstance(event, Staged) or event.rank == 0):
                    self._working = None
            self._up = self._up or isinstance(event, RankUp)
            self._events.append(event)

    def is_up(self) -> bool:
        """Whether a rank of the group ran since its last (re)start."""
        return self._up

    def take(self) -> tuple[list[Event], str | None]:
        """All events since the last call, in order of arrival, and the drive that rank 0 asks for, if it does."""
        with self._lock:
            events, self._events = self._events, []
            return events, self._asked if self._answer is None else None

    def ask(self, drive_id: str) -> Answer | None:
        """The answer to rank 0's question about a drive; None: there is no answer yet, ask again."""
        with self._lock:
            if self._asked != drive_id:
                self._asked, self._answer = drive_id, None
            answer = self._answer
            if answer is not None:
                self._asked = self._answer = None
                if answer == "go":
                    self._working = drive_id
                else:
                    self._over.add(drive_id)
            return answer

    def answer(self, drive_id: str, answer: Answer) -> None:
        """The driver's answer to the drive asked for."""
        with self._lock:
            if self._asked == drive_id:
                self._answer = answer

    def begin(self, drive_ids: Sequence[str]) -> list[str]:
        """Call this when a group starts or restarts. Returns the drives that it has to do. At a restart, GroupLost is
        sent."""
        with self._lock:
            self._starts += 1
            self._up = False
            self._asked = self._answer = None
            if self._starts > 1:
                self._note_loss()
            return [drive_id for drive_id in drive_ids if drive_id not in self._over]

    def end(self) -> str | None:
        """Call this when the group ended with an error. Returns the drive that it worked on."""
        with self._lock:
            working, self._working = self._working, None
            return working

    def _note_loss(self) -> None:
        suspect, self._working = self._working, None
        self._events.append(GroupLost(suspect))
        if suspect is not None:
            self._losses[suspect] = self._losses.get(suspect, 0) + 1
            if self._losses[suspect] > self._retries:
                self._over.add(suspect)
