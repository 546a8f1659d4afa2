"""Measures the store of waiting chunks: how fast they are written to disk and read back, with different budgets of
RAM."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.benchmark.limits import copy_rate
from models.tokens import ChunkState
from pipeline.benchmark.report import Measured, Row
from pipeline.common.sizes import size_text
from pipeline.forward.budgets import Budgets
from pipeline.forward.state_store import TieredStore, WaitingChunk


@dataclass(frozen=True)
class StoreBenchmark:
    """Chunks are put into the store and taken from it at the barriers of a drive, as the phases do."""

    chunks: int = 12
    """Chunks of the drive."""
    chunk_bytes: int = 40_000_000
    """Bytes of a chunk's state; 190 MB at the published size."""
    barriers: int = 4
    """Number of barriers at which all chunks wait."""
    scratch_folder: str | None = None
    """Folder on the disk to measure; by default the folder for temporary files."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        if self.chunks < 4 or self.barriers < 1 or self.chunk_bytes < 1000:
            raise ValueError("store.chunks must be at least 4, store.barriers 1, store.chunk_bytes 1000")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Measure with all chunks in RAM, with half and with nearly all of them on disk; contents are compared."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder = self.scratch_folder or tempfile.gettempdir()
        whole = (self.chunks + 2) * self.chunk_bytes
        budgets = {"all in memory": whole, "half on disk": whole // 2, "nearly all on disk": 3 * self.chunk_bytes}
        copies = copy_rate(device)
        put = self.barriers * self.chunks * self.chunk_bytes
        values: dict[str, object] = {"device": str(device), "copy_bytes_per_second": copies, "bytes_put": put}
        rows = [Row("copies, for comparison", f"{copies / 1e9:.2f} GB/s{' of CPU' * (device.type == 'cpu')}")]
        for name, host in budgets.items():
            store = TieredStore(device, Budgets(0, host, 10**15, folder))
            begin, cpu = time.perf_counter(), time.process_time()
            self._drive(store, device)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            moved = store.moved["scratch"]
            store.close()
            spent = cpu if device.type == "cpu" else seconds  # CPU seconds do not depend on other processes
            say(f"store, {name}: {seconds:.2f} s, {cpu:.2f} s of CPU, {size_text(moved)} to disk")
            values[name.replace(" ", "_")] = {
                "seconds": seconds,
                "cpu_seconds": cpu,
                "bytes_to_disk": moved,
                "put_bytes_per_second": put / seconds,
                "share_of_copy_rate": put / spent / copies,
                "peak_host_bytes": store.peak["host"],
                "host_budget_bytes": host,
            }
            rows += [
                Row(name, f"{put / seconds / 1e9:.2f} GB/s put and taken, {put / spent / copies:.0%} of the copies'"),
                Row("  host memory", size_text(store.peak["host"]), size_text(host), store.peak["host"] <= host),
            ]
        return Measured(values, tuple(rows))

    def _drive(self, store: TieredStore, device: torch.device) -> None:
        """Put and take all chunks at every barrier. Raises RuntimeError if a chunk has changed."""
        numbers = range(self.chunks)
        ok = np.ones(1, bool)
        for barrier in range(self.barriers):
            if barrier:
                store.expect(numbers)
            for number in numbers:
                tokens = torch.empty(0)
                if barrier:
                    tokens = store.take(number).state.tokens
                    if int(tokens[0, 0, 0, 0]) != number or int(tokens[0, -1, -1, -1]) != number:
                        raise RuntimeError(f"chunk {number} came back changed")
                else:
                    tokens = torch.full((1, 1, 1, self.chunk_bytes // 2), number, dtype=torch.int16, device=device)
                store.put(WaitingChunk(number, range(1), ChunkState(tokens, (1, 1)), None, ok, (None,)))
        store.clear()
