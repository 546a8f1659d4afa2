"""Where chunks wait between two barriers. One interface; in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.tokens import ChunkState


@dataclass
class WaitingChunk:
    """A chunk between two barriers.

    number: in its drive. frames: its frame numbers in time order. state: tokens and features, on the device
    that works or on the host. images (S, H, W, 3) uint8 in time order, for the colours of its points.
    ok (S,) and reasons: which images were bad and why.
    """

    number: int
    frames: Sequence[int]
    state: ChunkState
    images: NDArray[np.uint8]
    ok: NDArray[np.bool_]
    reasons: tuple[str | None, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.state.nbytes + self.images.nbytes


class StateStore(Protocol):
    """Keeps chunks of one rank by number; what is put comes back equal, on the working device."""

    def put(self, chunk: WaitingChunk) -> None:
        """Keep a chunk until it is taken."""
        ...

    def take(self, number: int) -> WaitingChunk:
        """Give a chunk back and forget it. Raises KeyError where it was never put."""
        ...

    def clear(self) -> None:
        """Forget everything: the drive was dropped or is done."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        ...


class HostStore:
    """Chunks wait in host memory; on a CPU nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._chunks: dict[int, WaitingChunk] = {}

    def put(self, chunk: WaitingChunk) -> None:
        """Keep a chunk until it is taken."""
        chunk.state = chunk.state.to("cpu")
        self._chunks[chunk.number] = chunk

    def take(self, number: int) -> WaitingChunk:
        """Give a chunk back and forget it."""
        chunk = self._chunks.pop(number)
        chunk.state = chunk.state.to(self.device)
        return chunk

    def clear(self) -> None:
        """Forget everything."""
        self._chunks.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(chunk.nbytes for chunk in self._chunks.values())
