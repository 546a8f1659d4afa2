"""Finds the loops of a drive for the forward stage with the back end's detector; the two do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.loop_detection import Detector, LoopConfig, loop_windows, open_detector
from pipeline.forward.loop_chunks import LoopChunk


@dataclass(frozen=True)
class DetectedLoops:
    """A `LoopFinder` over a `Detector`. chunk_size: frames a chunk; both windows of a loop chunk fit in."""

    config: LoopConfig
    chunk_size: int

    @cached_property
    def detector(self) -> Detector:
        """Opened where it is used: a network in it does not travel to the workers."""
        return open_detector(self.config)

    def __getstate__(self) -> dict[str, object]:
        return {"config": self.config, "chunk_size": self.chunk_size}

    def describe(
        self, tokens: NDArray[np.float32], grid: tuple[int, int], images: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """As the detector does: (S, rows * cols, d) and (S, H, W, 3) -> descriptors (S, D)."""
        return self.detector.describe(tokens, grid, images)

    def find(self, descriptors: NDArray[np.float32], usable: NDArray[np.bool_]) -> Sequence[LoopChunk]:
        """Descriptors (N, D), which are usable (N,) -> loop chunks, the most similar places first."""
        window = max(1, min(self.config.window, self.chunk_size // 2))
        found = []
        for candidate in self.detector.candidates(descriptors, usable):
            first, second = loop_windows(candidate, len(descriptors), window)
            found.append(LoopChunk(candidate.first, candidate.second, candidate.similarity, (*first, *second)))
        return found
