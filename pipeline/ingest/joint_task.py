"""Chunks of frames of two drives: a task for the ranks whose chunks are pairs of windows, as loop chunks are of one
drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.cameras.rectify import View
from pipeline.ingest import preprocess
from pipeline.ingest.drive import Drive
from pipeline.ingest.segments import DriveTask, FrameBatch, Segment
from pipeline.storage import Listing


@dataclass(frozen=True)
class FrameWindow:
    """Frames of a drive, rising. numbers: in the drive, for messages; uris: of their images or of the video files that
    contain them; film_numbers: of video frames in their files, None for images; source_size: width and height of the
    upright frames; view, turn, white: see Segment."""

    drive_id: str
    numbers: tuple[int, ...]
    uris: tuple[str, ...]
    film_numbers: tuple[int, ...] | None
    source_size: tuple[int, int]
    view: View | None = None
    turn: int | None = None
    white: int = preprocess.WHITE

    def __len__(self) -> int:
        return len(self.numbers)


Pair = tuple[FrameWindow, FrameWindow]


@dataclass(frozen=True)
class JointReading:
    """The frames of a joint chunk. They alternate between its windows: a network that uses the order of frames expects
    neighbours to be near each other, and of two windows of one place these are frames of both."""

    drive_index: int
    start: int
    windows: Pair
    height: int
    width: int

    def decode(self) -> FrameBatch:
        """As `decode_segment` does."""
        parts = [self._segment(window).decode() for window in self.windows]
        failure = next((part.storage_failure for part in parts if part.storage_failure is not None), None)
        if failure is not None:
            nothing = np.zeros((0, self.height, self.width, 3), np.uint8)
            return FrameBatch(self.drive_index, self.start, nothing, np.zeros(0, np.bool_), (), failure)
        images, ok = (np.stack(both, 1) for both in zip(*((part.images, part.ok) for part in parts), strict=True))
        reasons = [reason for both in zip(*(part.reasons for part in parts), strict=True) for reason in both]
        return FrameBatch(
            self.drive_index, self.start, images.reshape(-1, *images.shape[2:]), ok.reshape(-1), tuple(reasons)
        )

    def _segment(self, window: FrameWindow) -> Segment:
        return Segment(
            self.drive_index,
            window.drive_id,
            0,
            len(window),
            (window.numbers[0], window.numbers[-1]),
            window.uris,
            None,
            self.height,
            self.width,
            window.source_size,
            () if window.view is None else (window.view,),
            window.turn,
            window.white,
            film_numbers=window.film_numbers,
        )


@dataclass(frozen=True)
class JointTask(DriveTask):
    """Joint chunks as a group processes them, in the place of a drive: chunk k consists of the windows pairs[k]. Frame
    2 n of a chunk is frame n of its first window, frame 2 n + 1 that of its second one."""

    pairs: tuple[Pair, ...] = ()

    def reading(self, drive_index: int, frames: range) -> JointReading:
        """What a task needs to read the frames of one chunk."""
        pair = self.pairs[frames.start // self.segment_length]
        return JointReading(drive_index, frames.start, pair, self.height, self.width)


def joint_task(name: str, pairs: Sequence[Pair], height: int, width: int) -> JointTask:
    """The task of some pairs of windows. name: a drive's id that no drive of the group has; height, width: of the
    network's pictures. Raises ValueError for no pairs, or windows of different lengths."""
    lengths = {len(window) for pair in pairs for window in pair}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected windows of one length above 0, got {sorted(lengths)}")
    size = 2 * lengths.pop()
    uris = [uri for first, second in pairs for both in zip(first.uris, second.uris, strict=True) for uri in both]
    drive = Drive(
        name, "", "images", uris, len(uris), None, None, *pairs[0][0].source_size, listing=Listing("", (), (), ())
    )
    chunks = tuple(range(start, start + size) for start in range(0, len(uris), size))
    return JointTask(drive, height, width, chunks, size, pairs=tuple(pairs))
