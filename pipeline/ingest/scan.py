"""Scans a whole drive before it is cut into chunks: where the car stands and where it turns. Ray tasks on thumbnails.

Every frame is read once as a grey thumbnail (a JPEG is decoded at an eighth of its size). Tasks read segments on all
free cores; one more task evaluates the thumbnails in order. The driver, which may handle thousands of drives, neither
receives pixels nor computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.ingest.chunks import plan_segments
from pipeline.ingest.drives import Drive
from pipeline.ingest.segments import FrameBatch, Segment, decode_thumbnails, segment_of
from pipeline.ingest.stops import StopConfig, kept_frames, still_frames, turning

WIDTH, HEIGHT = 64, 32  # of a thumbnail, for every shape of frames: the defaults of `StopConfig` are tuned for it
_SEGMENT = 64  # images in a task: at least a quarter of a second of decoding, a few seconds of reading from S3
_VIDEO_SEGMENT = 512  # a task begins decoding at the key frame before its first frame, which takes up to a few seconds
_IN_FLIGHT_PER_CPU = 2  # tasks of one drive that wait or run; more would delay other drives


@dataclass(frozen=True)
class Scan:
    """kept: numbers of the frames to use, increasing, always with the first and the last; turned (len(kept),): how far
    the view turned since the last kept frame, in picture widths, positive to the right."""

    kept: tuple[int, ...]
    turned: NDArray[np.float32]


def scan_drive(
    drive: Drive, stop: StopConfig | None, turns: bool, scanned: Callable[[int], None] = lambda frames: None
) -> Scan:
    """Read the whole drive as thumbnails, on free cores of the cluster. Ray must be started.

    Args:
        stop: when a frame counts as standing still; None keeps all.
        turns: whether to measure how far the car turns (else `turned` is zero).
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
    judged: Scan = ray.get(_judge.remote(stop, turns, *batches))
    return judged


@ray.remote(num_cpus=1, num_returns=2)
def _read(segment: Segment) -> tuple[FrameBatch, str | None]:
    """Thumbnails for `judge`, which stay in the object store, and a failure of the store for the driver."""
    batch = decode_thumbnails(segment)
    return batch, batch.storage_failure


def judge(stop: StopConfig | None, turns: bool, *batches: FrameBatch) -> Scan:
    """All thumbnails of a drive, in order -> the frames to keep. A frame that could not be read is never still."""
    pictures = np.concatenate([batch.images for batch in batches])
    ok = np.concatenate([batch.ok for batch in batches])
    still = np.zeros(len(pictures), np.bool_) if stop is None else still_frames(pictures, stop) & ok
    kept = kept_frames(still, 1 if stop is None else stop.keep_every)
    turned = np.zeros(len(pictures), np.float32)
    if turns:
        turned = turning(pictures)
        turned[1:][~(ok[1:] & ok[:-1])] = 0  # a frame that could not be read is grey and shows no turn
    return Scan(kept, np.add.reduceat(turned, kept).astype(np.float32))


_judge = ray.remote(num_cpus=1)(judge)
