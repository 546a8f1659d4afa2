"""Memory and CPU time of this process and of those it started. Memory is sampled while something runs, because the
system's own peak figure covers the whole life of the process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int | None = None) -> int:
    """Resident bytes of a process (by default this one), without memory that it shares (Ray's object store)."""
    fields = Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * _PAGE


def whole_resident_bytes() -> int:
    """The resident set of this process as `ps` shows it, with shared pages and mapped libraries."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:  # grows while it is read
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it ended meanwhile
    return found


def descendants_bytes() -> int:
    """Bytes of the processes that this one started, and of theirs; memory that several share is divided among all that
    share it (PSS)."""
    total = 0
    for pid in family(os.getpid())[1:]:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
    return total


def descendants_cpu_seconds() -> float:
    """CPU seconds so far of all processes that this one started, and of their own ended children."""
    ticks = 0
    for pid in family(os.getpid())[1:]:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / _TICKS


class MemoryTrace:
    """Samples this process's memory from a thread.

    Attributes:
        samples: (seconds since the start, bytes), in order.
    """

    def __init__(self, every_s: float = 0.05, of: Callable[[], int] = resident_bytes) -> None:
        self.samples: list[tuple[float, int]] = []
        self._of = of
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
        """Relative growth from the peak of the first half to that of the second; 0 where memory does not grow."""
        middle = self.samples[-1][0] / 2
        first = [held for when, held in self.samples if when <= middle]
        second = [held for when, held in self.samples if when > middle]
        return max(0, max(second) - max(first)) if first and second else 0

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.samples.append((time.monotonic() - self._begin, self._of()))
