"""The network's prediction for a chunk, described by protocols: the stages that read it do not import each other."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SeenDepth(Protocol):
    """Depth of a chunk's S frames of h x w pixels. Read each attribute once: it may be loaded from a file each time.

    frame_index (S,) int; intrinsics (3, 3) or (S, 3, 3) in pixels of the h x w grid; depth (S, h, w): z-depth in chunk
    units; confidence (S, h, w) >= 1.
    """

    @property
    def frame_index(self) -> NDArray[np.integer]: ...
    @property
    def intrinsics(self) -> NDArray[np.floating]: ...
    @property
    def depth(self) -> NDArray[np.floating]: ...
    @property
    def confidence(self) -> NDArray[np.floating]: ...


class SeenColours(SeenDepth, Protocol):
    """rgb (S, h, w, 3) uint8; ok (S,) bool: False where the image was bad."""

    @property
    def rgb(self) -> NDArray[np.uint8]: ...
    @property
    def ok(self) -> NDArray[np.bool_]: ...


class PosedDepth(SeenDepth, Protocol):
    """cam_from_world (S, 3, 4), in the chunk's own gauge."""

    @property
    def cam_from_world(self) -> NDArray[np.floating]: ...


class PosedColours(PosedDepth, SeenColours, Protocol):
    """Poses, depth and colours."""
