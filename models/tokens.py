"""The state of a chunk between two layers: its tokens, and the features that the heads will need; order of frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


def middle_first(frames: list[T]) -> list[T]:
    """Frames in time order -> the network's order: the middle one is the reference frame and comes first.

    Its position in time is ceil(S / 2) - 1; the others keep their order.
    """
    middle = (len(frames) + 1) // 2 - 1
    return [frames[middle], *frames[:middle], *frames[middle + 1 :]]


def time_offsets(count: int) -> list[int]:
    """Each frame's offset in time from the reference frame, in the network's order: 0, -m ... -1, 1 ..."""
    middle = (count + 1) // 2 - 1
    return [place - middle for place in middle_first(list(range(count)))]


@dataclass
class ChunkState:
    """B chunks of S frames each between two layers. B is 1, except in training, where chunks of equal shape are
    stacked.

    tokens: (B, S, P, d), reference frame first; P = special tokens + rows * cols. grid: patches (rows, cols).
    next_segment: number of the segment that runs next. features: dense layer -> patch features (B, S, patches, 2d), or
    projected by the depth head (B, S, patches, its channels): the result of `models.aggregator.Keep`. camera: the
    camera token's feature of the last layer (B, S, 2d), after this layer. frame_half: the output of the frame block of
    a segment's last layer, until the memory there has been read; None if no head needs it. special: the special tokens
    (B, S, n, d) in float32, where tokens are bfloat16. frame_camera: the camera tokens (B, S, d) of frame_half,
    likewise. at_barrier: run_segment was called, finish_segment was not.
    """

    tokens: Tensor
    grid: tuple[int, int]
    next_segment: int = 0
    features: dict[int, Tensor] = field(default_factory=dict)
    camera: Tensor | None = None
    frame_half: Tensor | None = None
    special: Tensor | None = None
    frame_camera: Tensor | None = None
    at_barrier: bool = False

    @property
    def patches(self) -> int:
        """Patch tokens per frame."""
        return self.grid[0] * self.grid[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        held = [self.tokens, self.camera, self.frame_half, self.special, self.frame_camera, *self.features.values()]
        return sum(t.nbytes for t in held if t is not None)

    def map(self, function: Callable[[Tensor | None], Tensor | None]) -> ChunkState:
        """The same chunks with the function applied to each tensor; for a missing one it gets None."""
        tokens = function(self.tokens)
        assert tokens is not None
        features = {layer: function(feature) for layer, feature in self.features.items()}
        return replace(
            self,
            tokens=tokens,
            features={layer: feature for layer, feature in features.items() if feature is not None},
            camera=function(self.camera),
            frame_half=function(self.frame_half),
            special=function(self.special),
            frame_camera=function(self.frame_camera),
        )
