"""What workers tell their driver while they work: progress, drives staged, drives dropped.

A plain object when the loop runs in the driver's own process, a Ray actor in front of it when it does not.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from pipeline.forward.loops import LoopChunk


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
    """A rank's reason why a drive was given up. primary: the failure happened on this rank."""

    drive_id: str
    rank: int
    reason: str
    primary: bool


Event = Progress | LoopsFound | Staged | Dropped


class EventSink(Protocol):
    """Where events go."""

    def send(self, event: Event) -> None:
        """Deliver an event; never blocks the work."""
        ...


class EventQueue:
    """Collects events until the driver takes them. Safe across threads; also the body of the Ray actor."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Add an event."""
        with self._lock:
            self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call, in order of arrival."""
        with self._lock:
            events, self._events = self._events, []
        return events
