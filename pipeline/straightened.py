"""A staged drive whose pictures a lens bends, as if they had been rectified when they were decoded.

A drive without calibration is decoded as a pinhole's. Where its tracks show a lens, what is staged is straightened when
it is read: tracks, and the network's maps. Everything after it sees the drive as one whose lens is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.rectify import View
from pipeline.forward.staging import ChunkPrediction, StagedChunks
from pipeline.refine.grid import Grid
from pipeline.refine.track_files import DriveTracks
from pipeline.refine.tracks import Tracks

_SURFACE = 0.1  # of the log of depth: pixels that differ by less belong to one surface, and are interpolated


@dataclass(frozen=True)
class Bent:
    """view: of the network's pictures, as they would be; tracked: the same view in the size in which it is tracked."""

    view: View
    tracked: View

    @property
    def note(self) -> str:
        """What the reader of the result must know."""
        lens = self.view.lens
        ray = lens.unproject(np.array([0.0, lens.cy]))
        moved = abs(float(ray[0] / ray[2])) * lens.fx / lens.cx - 1
        return (
            f"the lens is estimated by corners in the images: it moves the sides of the picture by {abs(moved):.0%}; "
            "a calibration of it (--camera.file) is more exact"
        )

    @cached_property
    def _place(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Column and row in the staged maps (h, w), counted from 0, of each pixel of the view."""
        lens = self.view.lens
        grid = Grid.of((lens.width, lens.height), (self.view.width, self.view.height))
        at = grid.from_source(self.view.lens_pixels().reshape(-1, 2)).reshape(self.view.height, self.view.width, 2)
        at = np.where(np.isfinite(at), at - 0.5, -1e6)
        return np.ascontiguousarray(at[..., 0], np.float32), np.ascontiguousarray(at[..., 1], np.float32)

    def straightened(self, chunk: ChunkPrediction) -> ChunkPrediction:
        """The chunk with its maps as the view has them; NaN where the network's picture does not reach."""
        depth, confidence, rgb = np.empty_like(chunk.depth), np.empty_like(chunk.confidence), np.empty_like(chunk.rgb)
        for frame in range(len(depth)):
            depth[frame] = self._depth(chunk.depth[frame])
            confidence[frame] = self._remap(chunk.confidence[frame], cv2.INTER_NEAREST)
            rgb[frame] = cv2.remap(chunk.rgb[frame], *self._place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return replace(chunk, depth=depth, confidence=confidence, rgb=rgb)

    def _depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        nearest = self._remap(depth, cv2.INTER_NEAREST)
        with np.errstate(invalid="ignore", divide="ignore"):
            between = np.exp(self._remap(np.log(depth), cv2.INTER_LINEAR))
            same = np.abs(np.log(between / nearest)) < _SURFACE
        return np.where(same, between, nearest).astype(np.float32)

    def _remap(self, plane: NDArray[np.float32], how: int) -> NDArray[np.float32]:
        edge = np.nan
        return np.asarray(cv2.remap(plane, *self._place, how, borderMode=cv2.BORDER_CONSTANT, borderValue=edge))


class StraightChunks(Sequence[ChunkPrediction]):
    """Staged chunks, straightened when they are read."""

    def __init__(self, chunks: StagedChunks, bent: Bent) -> None:
        self._chunks = chunks
        self._bent = bent
        self._recent: dict[int, ChunkPrediction] = {}

    @property
    def bad_frames(self) -> dict[int, str]:
        """As in StagedChunks."""
        return self._chunks.bad_frames

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        chunk = self._chunks[number]
        number %= len(self)
        if number not in self._recent:
            while len(self._recent) >= 2:  # as StagedChunks keeps them
                del self._recent[next(iter(self._recent))]
            self._recent[number] = self._bent.straightened(chunk)
        return self._recent[number]


class StraightTracks:
    """Linked tracks in pixels of the straightened pictures; those outside of them are left out."""

    def __init__(self, tracks: DriveTracks, bent: Bent) -> None:
        self._tracks = tracks
        self._bent = bent

    def __len__(self) -> int:
        return len(self._tracks)

    def of(self, first: int, stop: int) -> Tracks:
        """As `DriveTracks.of`."""
        tracks, view = self._tracks.of(first, stop), self._bent.tracked
        xy = view.pinhole.project(view.lens.unproject(tracks.xy))
        with np.errstate(invalid="ignore"):
            inside = np.asarray(((xy > 0) & (xy < np.array([view.width, view.height]))).all(1))
        return replace(tracks, xy=xy).select(inside)
