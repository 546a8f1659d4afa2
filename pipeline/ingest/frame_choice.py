"""The settings that choose the frames of a drive and say how to read them, for every kind of drive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.cameras.config import CameraConfig
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest import preprocess


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a source are used, how they are turned, and the settings of their camera."""

    start: int
    end: int | None
    stride: int
    fps: float | None
    turn: int | None
    camera: CameraConfig

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"expected 0 <= start < end, got start {self.start} and end {self.end}")


def selected_frames(count: int, times_ns: Sequence[int] | None, used: FrameChoice, drive_id: str) -> Sequence[int]:
    """Which of `count` frames are used. Raises DriveError for a range beyond them, or a rate without times."""
    if count and used.start >= count:
        raise DriveError(f"drive {drive_id}: starts at frame {used.start} of {count}; give an earlier start")
    end = count if used.end is None else min(used.end, count)
    if used.fps is None:
        return range(used.start, end, used.stride)
    if times_ns is None:
        raise DriveError(f"drive {drive_id}: fps needs known times, and its frames have none; use a stride")
    period = 1e9 / used.fps
    selected: list[int] = []
    slot = -1
    for i in range(used.start, end):
        # slots of one period, with a tolerance of half a millisecond, because times are often rounded
        now = math.floor((times_ns[i] - times_ns[used.start] + min(5e5, period / 10)) / period)
        if now > slot:
            selected.append(i)
            slot = now
    return selected


def check_frame_size(drive_id: str, width: int, height: int) -> None:
    """Raises DecodeError that names the drive for a size that the network cannot use."""
    try:
        preprocess.check_size(width, height)
    except DecodeError as error:
        raise DecodeError(f"drive {drive_id}: {error}") from None
