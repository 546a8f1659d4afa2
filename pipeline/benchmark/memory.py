"""Memory of this process while something runs: sampled, because a high-water mark never comes down again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int | None = None) -> int:
    """Bytes of a process (this one) in memory now, without what it shares with others (Ray's object store)."""
    fields = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * _PAGE


class MemoryTrace:
    """Samples this process's resident set from a thread.

    Attributes:
        samples: (seconds since the start, bytes), in order.
    """

    def __init__(self, every_s: float = 0.05) -> None:
        self.samples: list[tuple[float, int]] = []
        self._every = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory-trace")

    def __enter__(self) -> MemoryTrace:
        self._begin = time.monotonic()
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    @property
    def peak(self) -> int:
        """Most bytes seen."""
        return max(held for _, held in self.samples)

    @property
    def growth(self) -> int:
        """Peak of the second half over that of the first: how far memory is from flat. Not below zero."""
        middle = self.samples[-1][0] / 2
        first = [held for when, held in self.samples if when <= middle]
        second = [held for when, held in self.samples if when > middle]
        return max(0, max(second) - max(first)) if first and second else 0

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.samples.append((time.monotonic() - self._begin, resident_bytes()))
