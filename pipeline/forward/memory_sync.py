"""Global Context Synchronization: a memory's step summed over all chunks of a drive.

This is the only file of the forward stage that communicates between ranks: a sum, a broadcast and a gather.
`LocalSync` does it for one process, `GroupSync` over a torch process group. A failure on one rank must not leave the
others waiting in a collective. Every sum therefore carries a failure flag: all ranks learn of a failure at the same
barrier and drop the drive together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models.fast_weights import FastWeights


@dataclass(frozen=True)
class Barrier:
    """The result of a sum, equal on all ranks: the step over all chunks, the numbers of failed ranks and bad frames."""

    step: FastWeights | None
    failed_ranks: int
    bad_frames: int


class MemorySync(Protocol):
    """A group of ranks that work on the same drives."""

    rank: int
    world_size: int

    def sum(self, step: FastWeights | None, *, failed: bool, bad_frames: int = 0) -> Barrier:
        """Sum over the group: a rank's step (None: there is no memory here), its failure, its number of bad frames."""
        ...

    def broadcast(self, text: str) -> str:
        """Rank 0's text, on every rank; at most 64 ASCII characters."""
        ...

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The rows (n, D) of all ranks, in the order of ranks, on every rank; a rank may have none."""
        ...


class LocalSync:
    """For a single process with all chunks: its own sum is the sum over all."""

    rank = 0
    world_size = 1

    def sum(self, step: FastWeights | None, *, failed: bool, bad_frames: int = 0) -> Barrier:
        """See MemorySync."""
        return Barrier(step, int(failed), bad_frames)

    def broadcast(self, text: str) -> str:
        """See MemorySync."""
        return text

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """See MemorySync."""
        return rows


class GroupSync:
    """All-reduce (SUM) over the default process group: gloo on CPUs, NCCL on GPUs. float32."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def sum(self, step: FastWeights | None, *, failed: bool, bad_frames: int = 0) -> Barrier:
        """See MemorySync. One all-reduce: the failure flag and the count travel in the step's vector."""
        tail = torch.tensor([float(failed), float(bad_frames)], device=self.device)
        parts = [tail] if step is None else [*(w.reshape(-1).float() for w in step), tail]
        vector = torch.cat(parts)
        dist.all_reduce(vector, op=dist.ReduceOp.SUM)
        total = None if step is None else FastWeights(*_split(vector, step))
        return Barrier(total, int(vector[-2].round()), int(vector[-1].round()))

    def broadcast(self, text: str) -> str:
        """See MemorySync."""
        data = text.encode("ascii")
        if len(data) > 64:
            raise ValueError(f"a broadcast text has at most 64 characters, not {len(data)}")
        buffer = torch.zeros(64, dtype=torch.uint8, device=self.device)
        buffer[: len(data)] = torch.tensor(list(data), dtype=torch.uint8, device=self.device)
        dist.broadcast(buffer, src=0)
        return bytes(buffer.tolist()).rstrip(b"\0").decode("ascii")

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """See MemorySync. Ranks have different numbers of rows: all are padded to the most."""
        shape = torch.tensor(rows.shape, dtype=torch.int64, device=self.device)
        shapes = [torch.empty_like(shape) for _ in range(self.world_size)]
        dist.all_gather(shapes, shape)
        counts, width = [int(s[0]) for s in shapes], max(int(s[1]) for s in shapes)
        padded = torch.zeros(max(counts), width, device=self.device)
        padded[: len(rows), : rows.shape[1]] = torch.from_numpy(rows)
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return np.concatenate([part[:n].cpu().numpy() for part, n in zip(parts, counts, strict=True)])


def _split(vector: Tensor, like: FastWeights) -> list[Tensor]:
    parts, start = [], 0
    for tensor in like:
        parts.append(vector[start : start + tensor.numel()].view(tensor.shape))
        start += tensor.numel()
    return parts
