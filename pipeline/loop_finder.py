"""Finds the loops of a drive for the forward stage with the back end's detector; the two do not know each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.loops import LoopConfig, TokenDetector, loop_windows, pool_tokens
from pipeline.forward.loops import LoopChunk


@dataclass(frozen=True)
class TokenLoopFinder:
    """A `LoopFinder` on pooled encoder tokens. chunk_size: frames a chunk; both windows of a loop chunk fit in."""

    config: LoopConfig
    chunk_size: int

    def describe(self, tokens: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float32]:
        """Patch tokens (S, rows * cols, d) -> descriptors (S, D)."""
        return pool_tokens(tokens, grid)

    def find(self, descriptors: NDArray[np.float32], usable: NDArray[np.bool_]) -> Sequence[LoopChunk]:
        """Descriptors (N, D), which are usable (N,) -> loop chunks, the most similar places first."""
        window = max(1, min(self.config.window, self.chunk_size // 2))
        found = []
        for candidate in TokenDetector(self.config).candidates(descriptors, usable):
            first, second = loop_windows(candidate, len(descriptors), window)
            found.append(LoopChunk(candidate.first, candidate.second, candidate.similarity, (*first, *second)))
        return found
