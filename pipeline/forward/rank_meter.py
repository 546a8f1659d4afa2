"""Measures one rank: how long it computes in each phase, waits for frames, and spends in collectives."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.fast_weights import FastWeights
from pipeline.common import metrics
from pipeline.forward.memory_sync import Barrier, MemorySync

T = TypeVar("T")


class RankMeter:
    """Measures how one rank spends its time while drives are in the network."""

    def __init__(self, rank: int) -> None:
        self.rank = str(rank)
        self._since = time.monotonic()
        self._moved: dict[str, int] = {}

    def begin(self) -> None:
        """Call this when a drive begins: the time until its first progress is counted for the first phase."""
        self._since = time.monotonic()

    def progressed(self, phase: str) -> None:
        """Call this when a part of a phase is done: the time since the last such call is counted for this phase."""
        now = time.monotonic()
        metrics.add(metrics.PHASE_SECONDS, now - self._since, phase=phase, rank=self.rank)
        self._since = now

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; the time until each one arrives is counted as waiting for input."""
        source = iter(items)
        while True:
            begin = time.monotonic()
            item = next(source, None)
            metrics.add(metrics.INPUT_WAIT, time.monotonic() - begin, rank=self.rank)
            if item is None:
                return
            yield item

    def timed(self, sync: MemorySync) -> MemorySync:
        """The same collectives; the time in them is counted, including the wait for the slowest rank."""
        return _TimedSync(sync, self.rank)

    def note_moved(self, moved: Iterable[tuple[str, int]]) -> None:
        """Record what a store has moved to slower tiers so far: (tier, bytes)."""
        for tier, total in moved:
            metrics.add(metrics.STORE_MOVED, total - self._moved.get(tier, 0), tier=tier, rank=self.rank)
            self._moved[tier] = total


class _TimedSync:
    """A MemorySync that counts the seconds in its collectives."""

    def __init__(self, sync: MemorySync, label: str) -> None:
        self._sync, self._label = sync, label
        self.rank, self.world_size = sync.rank, sync.world_size

    def sum(self, step: FastWeights | None, *, failed: bool, bad_frames: int = 0) -> Barrier:
        """See MemorySync."""
        begin = time.monotonic()
        try:
            return self._sync.sum(step, failed=failed, bad_frames=bad_frames)
        finally:
            metrics.add(metrics.ALL_REDUCE, time.monotonic() - begin, rank=self._label)

    def broadcast(self, text: str) -> str:
        """See MemorySync. Not counted: between drives ranks wait here for new ones."""
        return self._sync.broadcast(text)

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """See MemorySync."""
        begin = time.monotonic()
        try:
            return self._sync.gather(rows)
        finally:
            metrics.add(metrics.ALL_REDUCE, time.monotonic() - begin, rank=self._label)
