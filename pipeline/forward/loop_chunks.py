"""Loop chunks: two windows of frames of a place seen twice, predicted jointly and summed like any other chunk.

The caller gives a `LoopFinder`, which decides which places those are. Here its descriptors are made from the encoder's
tokens and gathered over the ranks, and its loop chunks are divided among the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FrameReader = Callable[[Sequence[int]], tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[str | None, ...]]]
"""Frame numbers -> images (S, H, W, 3), which of them are good (S,), and why the others are not (S,)."""


@dataclass(frozen=True)
class LoopChunk:
    """Frames `first` and `second` may show one place; `frames` around both, rising, make up the chunk."""

    first: int
    second: int
    similarity: float
    frames: tuple[int, ...]


class LoopFinder(Protocol):
    """Finds places seen twice. It must be picklable, and give equal results for equal arguments on every rank."""

    def describe(
        self, tokens: NDArray[np.float32], grid: tuple[int, int], images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Patch tokens (S, rows * cols, d) of single frames and their images (S, H, W, 3) -> descriptors (S, D)."""
        ...

    def find(
        self, descriptors: NDArray[np.float32], usable: NDArray[np.bool_], cameras: int = 1
    ) -> Sequence[LoopChunk]:
        """Descriptors (N, D) of all frames of a drive in time order, which are usable (N,) -> loop chunks. cameras: of
        a rig, whose frames follow each other instant by instant."""
        ...


class Descriptors:
    """A rank's share of a drive's descriptors, frame by frame as they are encoded."""

    def __init__(self) -> None:
        self._rows: dict[int, NDArray[np.float32]] = {}

    def add(self, frames: Sequence[int], rows: NDArray[np.float32], ok: Sequence[bool]) -> None:
        """Rows (S, D) of these frames."""
        for frame, row, good in zip(frames, rows, ok, strict=True):
            self._rows[frame] = np.append(row, np.float32(good))

    def of(self, frames: Sequence[int]) -> NDArray[np.float32]:
        """(len(frames), D + 1): descriptors and, last, whether the frame is good. (0, 0) for no frames."""
        if not frames:
            return np.zeros((0, 0), np.float32)
        return np.stack([self._rows[frame] for frame in frames])
