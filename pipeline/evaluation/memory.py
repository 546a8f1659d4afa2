"""How much memory a job takes: this process and all that it started, and the GPU of this process."""

from __future__ import annotations

import os
from types import TracebackType

import torch

from pipeline.common.process_memory import MemoryTrace, family, resident_bytes


class PeakMemory:
    """Use as a context. peak, afterwards: most bytes seen, on the GPU where there is one (of this process), else on
    the host (resident without shared pages, this process and its descendants, five times a second)."""

    def __init__(self, every_s: float = 0.2) -> None:
        self.peak = 0
        self._host = MemoryTrace(every_s, of=lambda: sum(_private_bytes(pid) for pid in family(os.getpid())))

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._host.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.__exit__(kind, error, trace)
        self.peak = self._host.peak
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            self.peak = torch.cuda.max_memory_allocated()


def _private_bytes(pid: int) -> int:
    try:
        return resident_bytes(pid)
    except OSError:
        return 0  # it ended meanwhile
