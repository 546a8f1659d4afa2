"""How much memory a job takes: this process and all that it started, and the GPU of this process."""

from __future__ import annotations

import os
import threading
from types import TracebackType

import torch

from pipeline.process_memory import family, resident_bytes


class PeakMemory:
    """Use as a context. peak: most bytes seen, on the GPU where there is one (of this process), else on the host
    (resident without shared pages, this process and its descendants, five times a second)."""

    def __init__(self, every_s: float = 0.2) -> None:
        self.peak = 0
        self._every = every_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="peak-memory")

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            self.peak = torch.cuda.max_memory_allocated()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, sum(_private_bytes(pid) for pid in family(os.getpid())))
            if self._done.wait(self._every):
                return


def _private_bytes(pid: int) -> int:
    try:
        return resident_bytes(pid)
    except OSError:
        return 0  # it ended meanwhile
