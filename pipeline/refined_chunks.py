"""The refined windows of a staged drive as chunks, which joining and publishing read instead of the network's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.road import Road
from pipeline.cameras.camera import Camera
from pipeline.forward.staging import ChunkPrediction
from pipeline.refine.chunk_result import read_result
from pipeline.refine.road_corners import road_of_corners
from pipeline.refined_drive import Refined, StagedFrames, as_prediction, merged_window

_HELD = 2  # merged windows in memory: neighbours are joined pairwise


class RefinedChunks(Sequence[ChunkPrediction]):
    """The windows of a drive as chunks. Joining and publishing read them instead of the network's chunks."""

    def __init__(self, staged: StagedFrames, refined: Refined) -> None:
        self._staged = staged
        self._chunks = staged.chunks()
        self._windows = refined.windows
        self._camera = refined.camera
        self._recent: dict[int, ChunkPrediction] = {}

    @property
    def bad_frames(self) -> dict[int, str]:
        """Frame number -> why the frame is bad, for all windows that were read so far."""
        return self._chunks.bad_frames

    @property
    def static(self) -> tuple[NDArray[np.bool_], ...]:
        """Masks of all frames, False for pixels that were left out: none, one, or one for each camera of a rig."""
        return self._chunks.static

    @property
    def camera(self) -> Camera | None:
        """The camera of the network's pictures."""
        return self._camera

    def with_one_camera(self, square_pixels: bool) -> RefinedChunks:
        """These chunks: they have one camera with square pixels already."""
        return self

    @property
    def shared(self) -> int:
        """The least number of frames that two neighbouring windows should share; 0 for one window."""
        parts = [self._part_frames(window) for window in self._windows]
        common = [last[1] - first[0] + 1 for last, first in pairwise(parts)]
        return max(min(common, default=0), 0)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        if number not in self._recent:
            while len(self._recent) >= _HELD:
                del self._recent[next(iter(self._recent))]
            window = merged_window(self._chunks, self._windows[number])
            window = read_result(self._staged.folder, number).applied(window, self._staged.pictures.grid)
            self._recent[number] = as_prediction(window, self._chunks.bad_frames)
        return self._recent[number]

    def pose_deviation(self, number: int) -> NDArray[np.float64] | None:
        """Standard deviations (S, 2) of the poses in a window (`WindowResult.pose_deviation`); None where it keeps the
        network's poses."""
        result = read_result(self._staged.folder, number)
        return result.pose_deviation if result.accepted[0] else None

    def road(self, number: int, dense: Road) -> Road:
        """The road in a window by triangulated corners; `dense` where these do not determine it. dense: the road in the
        window's depth."""
        result = read_result(self._staged.folder, number)
        if not result.accepted[0]:
            return dense
        pictures = self._staged.pictures
        depth = self[number].depth
        found = road_of_corners(result, depth, pictures.grid, pictures.tracked_scale, dense.log_height, dense.normal)
        return dense if found is None else Road(*found)

    def _part_frames(self, window: range) -> tuple[int, int]:
        outlines = self._staged.outlines
        if outlines:
            return outlines[window.start][0], outlines[window.stop - 1][1]
        first, last = self._chunks[window.start], self._chunks[window.stop - 1]
        return int(self._staged.places(first.frame_index)[0]), int(self._staged.places(last.frame_index)[-1])
