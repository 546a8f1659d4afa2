"""Finds the loops of a drive for the forward stage, with the back end's detector: the two stages do not import each
other."""

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

    def find(
        self, descriptors: NDArray[np.float32], usable: NDArray[np.bool_], cameras: int = 1
    ) -> Sequence[LoopChunk]:
        """Descriptors (N, D), which are usable (N,) -> loop chunks, the most similar places first.

        Of a rig instants are compared, each by the descriptors of all its cameras, and all distances count instants; a
        loop chunk has the frames of all cameras at its instants, and about as many as that of one camera.
        """
        window = max(1, min(self.config.window, self.chunk_size // 2) // cameras)
        rows, good = _of_instants(descriptors, usable, cameras)
        found = []
        for candidate in self.detector.candidates(rows, good):
            instants = (instant for part in loop_windows(candidate, len(rows), window) for instant in part)
            frames = tuple(instant * cameras + camera for instant in instants for camera in range(cameras))
            ends = candidate.first * cameras, candidate.second * cameras
            found.append(LoopChunk(*ends, candidate.similarity, frames))
        return found


def _of_instants(
    descriptors: NDArray[np.float32], usable: NDArray[np.bool_], cameras: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N, D) and (N,) of frames -> (N / cameras, cameras * D) and (N / cameras,) of instants. A bad frame gets the mean
    of its camera's good ones, which resembles no place; an instant without a good frame is not usable."""
    if cameras == 1:
        return descriptors, usable
    rows, good = descriptors.reshape(-1, cameras, descriptors.shape[1]), usable.reshape(-1, cameras)
    count = np.maximum(good.sum(0), 1)[:, None]
    mean = np.where(good[:, :, None], rows, 0.0).sum(0) / count
    filled = np.where(good[:, :, None], rows, mean).astype(np.float32)
    return filled.reshape(len(rows), -1), np.asarray(good.any(1))
