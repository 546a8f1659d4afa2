"""Scans a whole drive before it is cut into chunks: where the car stands and where it turns. Ray tasks on thumbnails.

Every frame is read once as a grey thumbnail (a JPEG is decoded at an eighth of its size). Tasks read segments on all
free cores; one more task evaluates the thumbnails in order. Where they propose that the car stands, a task reads one
frame of eight again, larger, and corners of near things decide. The driver, which may handle thousands of drives,
neither receives pixels nor computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.ingest.chunks import plan_segments
from pipeline.ingest.drives import Drive
from pipeline.ingest.segments import FrameBatch, Segment, decode_thumbnails, segment_of
from pipeline.ingest.stops import (
    StopConfig,
    frames_to_check,
    kept_frames,
    standing_frames,
    still_frames,
    still_runs,
    turning,
    without_short_runs,
)

WIDTH, HEIGHT = 64, 32  # of a thumbnail, for every shape of frames: the defaults of `StopConfig` are tuned for it
_SEGMENT = 64  # images in a task: at least a quarter of a second of decoding, a few seconds of reading from S3
_VIDEO_SEGMENT = 512  # a task begins decoding at the key frame before its first frame, which takes up to a few seconds
_IN_FLIGHT_PER_CPU = 2  # tasks of one drive that wait or run; more would delay other drives


class StandingCheck(Protocol):
    """Decides by near things whether the car stands, in the task that reads the pictures. Must be picklable."""

    @property
    def long_side(self) -> int:
        """Pixels of the long side of the pictures that it gets, at most."""
        ...

    def standing(self, pictures: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.bool_]:
        """(n - 1,): whether the car stands from each of n grey pictures (h, w) to the next; None: it was not read."""
        ...


@dataclass(frozen=True)
class Scan:
    """kept: numbers of the frames to use, increasing, always with the first and the last; turned (len(kept),): how far
    the view turned since the last kept frame, in picture widths, positive to the right."""

    kept: tuple[int, ...]
    turned: NDArray[np.float32]


def scan_drive(
    drive: Drive,
    stop: StopConfig | None,
    turns: bool,
    check: StandingCheck,
    scanned: Callable[[int], None] = lambda frames: None,
) -> Scan:
    """Read the whole drive as thumbnails, on free cores of the cluster. Ray must be started.

    Args:
        stop: when a frame counts as standing still; None keeps all.
        turns: whether to measure how far the car turns (else `turned` is zero).
        check: decides whether the car stands where thumbnails propose it.
        scanned: called with the number of frames read since the last call.

    Raises:
        StorageError: the store does not answer. A frame that cannot be read is no error: it is kept, and reported when
        it is decoded.
    """
    length = _VIDEO_SEGMENT if drive.kind == "video" else _SEGMENT
    every = range(drive.frame_count)
    waiting = [segment_of(drive, 0, frames, every, HEIGHT, WIDTH) for frames in plan_segments([every], length)][::-1]
    most = max(2, _IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))
    batches: list[ray.ObjectRef] = []
    running: dict[ray.ObjectRef, Segment] = {}
    while waiting or running:
        while waiting and len(running) < most:
            segment = waiting.pop()
            batch, failure = _read.remote(segment)
            batches.append(batch)
            running[failure] = segment
        done, _ = ray.wait(list(running), num_returns=1)
        failed = ray.get(done[0])
        if failed is not None:
            raise StorageError(failed)  # running tasks are left to end: ray.cancel can crash this process
        segment = running.pop(done[0])
        scanned(segment.stop - segment.start)
    still: NDArray[np.bool_] = np.zeros(drive.frame_count, np.bool_)
    if stop is not None:
        still = _confirmed(drive, ray.get(_propose.remote(stop, *batches)), stop, check)
    judged: Scan = ray.get(_judge.remote(still, 1 if stop is None else stop.keep_every, turns, *batches))
    return judged


def _confirmed(drive: Drive, proposed: NDArray[np.bool_], stop: StopConfig, check: StandingCheck) -> NDArray[np.bool_]:
    """(N,): the proposed frames in which the car stands by the tracks of near things. Raises StorageError."""
    reduced = min(check.long_side / max(drive.source_width, drive.source_height), 1.0)
    width, height = (max(round(side * reduced), 1) for side in (drive.source_width, drive.source_height))
    checked = [frames_to_check(run) for run in still_runs(proposed)]
    answers = ray.get(
        [_check.remote(segment_of(drive, 0, range(len(frames)), frames, height, width), check) for frames in checked]
    )
    still = np.zeros_like(proposed)
    for frames, (stands, failure) in zip(checked, answers, strict=True):
        if failure is not None:
            raise StorageError(failure)
        still[standing_frames(frames, stands)] = True
    return without_short_runs(still, stop.min_frames)


@ray.remote(num_cpus=1)
def _check(segment: Segment, check: StandingCheck) -> tuple[NDArray[np.bool_], str | None]:
    """`check.standing` of the frames of a segment, and a failure of the store."""
    batch = decode_thumbnails(segment)
    if batch.storage_failure is not None:
        return np.zeros(0, np.bool_), batch.storage_failure
    return check.standing([image if ok else None for image, ok in zip(batch.images, batch.ok, strict=True)]), None


@ray.remote(num_cpus=1, num_returns=2)
def _read(segment: Segment) -> tuple[FrameBatch, str | None]:
    """Thumbnails for `judge`, which stay in the object store, and a failure of the store for the driver."""
    batch = decode_thumbnails(segment)
    return batch, batch.storage_failure


def propose(stop: StopConfig, *batches: FrameBatch) -> NDArray[np.bool_]:
    """All thumbnails of a drive, in order -> (N,) the frames in which the car seems to stand. A frame that could not be
    read is never one."""
    ok = np.concatenate([batch.ok for batch in batches])
    return np.asarray(still_frames(np.concatenate([batch.images for batch in batches]), stop) & ok)


def judge(still: NDArray[np.bool_], keep_every: int, turns: bool, *batches: FrameBatch) -> Scan:
    """The frames to keep of a drive that stands in the frames `still` (N,), and how it turns. keep_every: see
    StopConfig."""
    pictures = np.concatenate([batch.images for batch in batches])
    ok = np.concatenate([batch.ok for batch in batches])
    kept = kept_frames(still, keep_every)
    turned = np.zeros(len(pictures), np.float32)
    if turns:
        turned = turning(pictures)
        turned[1:][~(ok[1:] & ok[:-1])] = 0  # a frame that could not be read is grey and shows no turn
    return Scan(kept, np.add.reduceat(turned, kept).astype(np.float32))


_propose = ray.remote(num_cpus=1)(propose)
_judge = ray.remote(num_cpus=1)(judge)
