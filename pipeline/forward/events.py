"""What workers tell their driver while they work: progress, drives staged, drives dropped.

A plain object when the loop runs in the driver's own process, a Ray actor in front of it when it does not.
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
    """A drive has this many loop chunks beside its chunks; told once, by rank 0."""

    drive_id: str
    count: int


@dataclass(frozen=True)
class Staged:
    """All chunks of a drive are staged under this attempt; told once, by rank 0.

    loops: what each staged loop chunk was made for.
    """

    drive_id: str
    attempt: str
    chunk_count: int
    loops: tuple[LoopChunk, ...] = ()


@dataclass(frozen=True)
class Dropped:
    """A rank's reason why a drive was given up. primary: the failure happened on this rank.

    lasting: it lies in the drive's data or the network, so that another try would end alike; else a store, a disk or
    memory failed.
    """

    drive_id: str
    rank: int
    reason: str
    primary: bool
    lasting: bool = True


@dataclass(frozen=True)
class RankUp:
    """A rank runs: which process on which node of Ray's. Told at every (re)start of the group."""

    rank: int
    node_id: str
    pid: int


@dataclass(frozen=True)
class GroupLost:
    """The group lost a member and starts again. drive_id: what it was working on; None: nothing yet."""

    drive_id: str | None


@dataclass(frozen=True)
class Waits:
    """The group waits for machines. said: a sentence for the user."""

    said: str


@dataclass(frozen=True)
class Notice:
    """A message from a rank for the user; nothing ends because of it. said: one line."""

    said: str


@dataclass(frozen=True)
class Outcome:
    """What became of one drive in the forward stage: staged under an attempt, or dropped with a reason.

    loops: what its loop chunks were made for, in the order they are staged behind the chunks.
    """

    drive_id: str
    attempt: str | None
    reason: str | None
    loops: tuple[LoopChunk, ...] = ()


Event = Progress | LoopsFound | Staged | Dropped | RankUp | GroupLost | Waits | Notice
Answer = Literal["go", "skip", "stop"]
"""The driver's answer before each drive: go (do it), skip (leave it out), stop (leave out this and all that follow)."""


class EventSink(Protocol):
    """Where events go, and where rank 0 asks."""

    def send(self, event: Event) -> None:
        """Deliver an event without waiting."""
        ...

    def ask(self, drive_id: str) -> Answer:
        """Whether to begin this drive now; waits for the answer."""
        ...

    def flush(self) -> None:
        """Wait until everything sent has arrived."""
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
        """Rank 0 asks for a drive; None: no answer yet, ask again."""
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
        """A group starts or restarts: returns which of these drives it shall do. At a restart GroupLost is told."""
        with self._lock:
            self._starts += 1
            self._up = False
            self._asked = self._answer = None
            if self._starts > 1:
                self._note_loss()
            return [drive_id for drive_id in drive_ids if drive_id not in self._over]

    def end(self) -> str | None:
        """The group ended with an error: which drive it was working on."""
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
