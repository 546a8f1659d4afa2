"""Measures the peak memory of a job: RAM of this process and its descendants, or GPU memory of this process."""

from __future__ import annotations

import os
from types import ModuleType, TracebackType

from pipeline.common.process_memory import MemoryTrace, family, resident_bytes


class PeakMemory:
    """A context; afterwards, `peak` is the most bytes in use: on the GPU by this process if it used one, else on the
    host by this process and its descendants (resident, without shared pages, measured five times per second)."""

    def __init__(self, every_s: float = 0.2) -> None:
        self.peak = 0
        self._host = MemoryTrace(every_s, of=lambda: sum(_private_bytes(pid) for pid in family(os.getpid())))

    def __enter__(self) -> PeakMemory:
        if _cuda().is_available():
            _cuda().reset_peak_memory_stats()
        self._host.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.__exit__(kind, error, trace)
        self.peak = self._host.peak
        if _cuda().is_available() and _cuda().max_memory_allocated():
            self.peak = _cuda().max_memory_allocated()


def _cuda() -> ModuleType:
    import torch  # here, so that commands that measure nothing start without it

    return torch.cuda


def _private_bytes(pid: int) -> int:
    try:
        return resident_bytes(pid)
    except OSError:
        return 0  # the process has ended
