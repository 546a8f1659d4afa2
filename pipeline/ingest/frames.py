"""Frames for every rank of a group: one ordered Ray Data stream for each rank, and the frames of its chunks. A row of a
stream is one segment, decoded in one task, in one block. Whenever a group starts or restarts, new streams are made.
Tasks and stream are in one object, so that they cannot differ.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import ray
import ray.data
import ray.train
from numpy.typing import NDArray

from pipeline.errors import StorageError
from pipeline.ingest.chunks import rank_chunks
from pipeline.ingest.segments import DriveTask, FrameBatch, FrameReading, rank_segments

__all__ = ["DriveTask", "FrameBatch", "FrameDataConfig", "RankFrames", "iter_chunk_windows", "local_frames"]

# A segment of 30 frames of 518x154 is 7 MB: about twenty segments wait for a busy GPU.
OBJECT_STORE_BYTES_PER_RANK = 150 * 10**6
PREFETCHED_SEGMENTS = 2

DECODE_CPUS_PER_RANK = 4.0


def decode_cpus(on_gpu: bool) -> float:
    """Most segments that are decoded at a time for one rank.

    A core decodes about 100 images of KITTI's size a second, and follows corners through 20. Four cores keep up with a
    rank that computes on CPUs, twelve with a GPU that processes 100 frames a second, and leave room for slower cores.
    """
    return 12.0 if on_gpu else DECODE_CPUS_PER_RANK


Window = tuple[int, NDArray[np.uint8], NDArray[np.bool_], tuple[str | None, ...]]


class RankFrames:
    """What one rank gets: the tasks of all drives, and its own stream of decoded segments.

    It is sent to the rank by pickle. The stream starts there when the first segment is requested.

    Attributes:
        tasks: all drives of this run, in order; a drive's index is its place here.
        rank, world_size: of the rank that reads this stream.
    """

    def __init__(
        self,
        tasks: Sequence[DriveTask],
        rank: int,
        world_size: int,
        segment_count: int,
        stream: ray.data.DataIterator | None,
    ) -> None:
        """stream: a ray.data.DataIterator over `segment_count` segments; None where there are none."""
        self.tasks = tuple(tasks)
        self.rank = rank
        self.world_size = world_size
        self._segment_count = segment_count
        self._stream = stream
        self._started: Iterator[FrameBatch] | None = None
        self._next_drive = 0

    def __getstate__(self) -> dict[str, object]:
        if self._started is not None:
            raise RuntimeError("a stream of frames that has begun cannot move to another process")
        return self.__dict__.copy()

    def chunks_of(self, drive_index: int) -> range:
        """Numbers of the chunks of a drive that this rank processes; may be empty."""
        return rank_chunks(len(self.tasks[drive_index].chunks), self.world_size)[self.rank]

    def segments(self) -> Iterator[FrameBatch]:
        """The stream of this rank: all segments of all drives in order. It can be read only once."""
        if self._started is None:
            self._started = self._batches()
        return self._started

    def close(self) -> None:
        """Stop decoding. Nothing can be read afterwards."""
        if self._started is not None:
            self._started.close()  # type: ignore[attr-defined]  # a generator
        self._started = iter(())
        self._stream = None

    def _batches(self) -> Iterator[FrameBatch]:
        if self._stream is None:
            return
        batches = self._stream.iter_batches(
            batch_size=None, prefetch_batches=PREFETCHED_SEGMENTS, batch_format="pyarrow"
        )
        tables = iter(batches)
        for number in range(self._segment_count):
            table = next(tables, None)
            if table is None or table.num_rows != 1:
                got = "its end" if table is None else f"{table.num_rows} rows"
                raise RuntimeError(f"stream of frames: expected segment {number} of {self._segment_count}, got {got}")
            if number == self._segment_count - 1:
                next(tables, None)  # reads the end, so that Ray Data shuts the stream down now
            yield _unpacked(table)

    def _enter_drive(self, drive_index: int) -> None:
        if drive_index < self._next_drive:
            raise ValueError(f"drives come in order: expected {self._next_drive} or later, got {drive_index}")
        self._next_drive = drive_index + 1


class FrameDataConfig(ray.train.DataConfig):
    """Gives every rank of a TorchTrainer its `RankFrames`, as a data set with any name, such as "frames".

        TorchTrainer(loop, datasets={"frames": lambda: ray.data.range(1)},
                     dataset_config=FrameDataConfig(tasks))
        rank_frames = ray.train.get_dataset_shard("frames")

    Decoding needs CPUs that the ranks do not reserve: ranks that reserve all CPUs of a cluster wait forever.
    """

    def __init__(
        self,
        tasks: Sequence[DriveTask],
        *,
        pending: Callable[[Sequence[DriveTask]], Sequence[DriveTask]] | None = None,
        cpus_per_rank: float = DECODE_CPUS_PER_RANK,
        object_store_bytes_per_rank: int = OBJECT_STORE_BYTES_PER_RANK,
    ) -> None:
        """
        Args:
            tasks: the drives, in order.
            pending: returns the drives that remain to be done; called whenever the group starts. None: all drives.
            cpus_per_rank: most segments that are decoded at a time for one rank.
            object_store_bytes_per_rank: limit of decoded segments that wait for one rank.
        """
        super().__init__(datasets_to_split=[])  # streams are made for each rank, so no data set is split
        self._tasks = tuple(tasks)
        self._pending = pending
        self._cpus = cpus_per_rank
        self._bytes = object_store_bytes_per_rank

    def configure(
        self,
        datasets: Mapping[str, object],
        world_size: int,
        worker_handles: object = None,
        worker_node_ids: object = None,
        **kwargs: object,
    ) -> list[dict[str, object]]:
        """Make the streams of the pending drives for a group of this size. Ray Train calls it whenever a group
        starts."""
        tasks = self._tasks if self._pending is None else tuple(self._pending(self._tasks))
        ranks = _planned(tasks, world_size, self._cpus, self._bytes)
        return [dict.fromkeys(datasets, rank_frames) for rank_frames in ranks]


def local_frames(
    tasks: Sequence[DriveTask],
    world_size: int = 1,
    *,
    cpus_per_rank: float = DECODE_CPUS_PER_RANK,
    object_store_bytes_per_rank: int = OBJECT_STORE_BYTES_PER_RANK,
) -> list[RankFrames]:
    """The same streams without Ray Train, one for each rank (with num_workers=0 Ray Train does not call
    `configure`)."""
    return _planned(tuple(tasks), world_size, cpus_per_rank, object_store_bytes_per_rank)


def iter_chunk_windows(rank_frames: RankFrames, drive_index: int) -> Iterator[Window]:
    """Join a rank's segments into the frames of its chunks of one drive.

    Memory: the frames that are yielded, which the caller may keep, the overlap, and one segment. Call it for drives in
    increasing order; remaining segments of earlier drives are skipped.

    Yields:
        (chunk number, images uint8 (S, H, W, 3) in time order, ok (S,), reasons (S)).

    Raises:
        StorageError: the store failed while this drive was read; the next drive can still be asked for.
        ValueError: the drive comes before the last one that was requested.
    """
    rank_frames._enter_drive(drive_index)
    task = rank_frames.tasks[drive_index]
    segments = rank_frames.segments()
    held: list[FrameBatch] = []  # consecutive, the first one begins at or before the next window
    for chunk_number in rank_frames.chunks_of(drive_index):
        chunk = task.chunks[chunk_number]
        images = np.empty((len(chunk), task.height, task.width, 3), dtype=np.uint8)
        ok = np.empty(len(chunk), dtype=np.bool_)
        reasons: list[str | None] = []
        following = task.chunks[chunk_number + 1].start if chunk_number + 1 < len(task.chunks) else chunk.stop
        filled = chunk.start
        kept: list[FrameBatch] = []
        while filled < chunk.stop:
            batch = held.pop(0) if held else _next_segment(segments, task, drive_index, filled)
            begin, end = filled - batch.start, min(chunk.stop - batch.start, len(batch.ok))
            place = slice(filled - chunk.start, batch.start + end - chunk.start)
            images[place] = batch.images[begin:end]
            ok[place] = batch.ok[begin:end]
            reasons += batch.reasons[begin:end]
            filled = batch.start + end
            if batch.start + len(batch.ok) > following:
                kept.append(_from_frame(batch, following))
        held = kept + held
        yield chunk_number, images, ok, tuple(reasons)


def _next_segment(segments: Iterator[FrameBatch], task: DriveTask, drive_index: int, start: int) -> FrameBatch:
    for batch in segments:
        if batch.drive_index < drive_index:
            continue
        if batch.storage_failure is not None:
            raise StorageError(batch.storage_failure)
        if (batch.drive_index, batch.start) != (drive_index, start):
            raise RuntimeError(
                f"stream of frames out of order: expected drive {drive_index} frame {start}, "
                f"got drive {batch.drive_index} frame {batch.start}"
            )
        return batch
    raise RuntimeError(f"stream of frames ended before frame {start} of drive {task.drive.drive_id}")


def _from_frame(batch: FrameBatch, first: int) -> FrameBatch:
    """The part of a segment from frame `first` on. A part is copied, so that the rest can be freed."""
    skip = max(first - batch.start, 0)
    if skip == 0:
        return batch
    return FrameBatch(batch.drive_index, first, batch.images[skip:].copy(), batch.ok[skip:], batch.reasons[skip:])


def _planned(tasks: tuple[DriveTask, ...], world_size: int, cpus: float, memory: int) -> list[RankFrames]:
    shares = [list(rank_segments(tasks, rank, world_size)) for rank in range(world_size)]
    return [
        RankFrames(tasks, rank, world_size, len(share), _stream(share, cpus, memory))
        for rank, share in enumerate(shares)
    ]


def _stream(segments: list[FrameReading], cpus: float, memory: int) -> ray.data.DataIterator | None:
    """An ordered stream of decoded segments; None for none."""
    if not segments:
        return None
    rows = [{"segment": pickle.dumps(segment)} for segment in segments]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset = dataset.map_batches(_decode_block, batch_size=None, batch_format="pyarrow", num_cpus=1)
    context = dataset.context
    context.execution_no_progress_timeout_s = -1  # else a rank busy for half an hour kills its stream
    context.enable_progress_bars = False  # the job prints its own progress lines
    context.execution_options = ray.data.ExecutionOptions(
        preserve_order=True,
        resource_limits=ray.data.ExecutionResources.for_limits(cpu=cpus, object_store_memory=memory),
    )
    return dataset.iterator()


def _decode_block(table: pa.Table) -> Iterator[pa.Table]:
    for packed in table.column("segment"):
        yield _packed(pickle.loads(packed.as_py()).decode())


def _packed(batch: FrameBatch) -> pa.Table:
    """A segment as one row: pixels as raw bytes, which Arrow moves and maps without a copy."""
    count, height, width, _ = batch.images.shape
    return pa.table(
        {
            "drive_index": pa.array([batch.drive_index], pa.int64()),
            "start": pa.array([batch.start], pa.int64()),
            "shape": pa.array([[count, height, width]], pa.list_(pa.int64())),
            "images": pa.Array.from_buffers(
                pa.large_binary(),
                1,
                [None, pa.py_buffer(np.array([0, batch.images.nbytes])), pa.py_buffer(batch.images)],
            ),
            "reasons": pa.array([list(batch.reasons)], pa.list_(pa.string())),
            "storage_failure": pa.array([batch.storage_failure], pa.string()),
        }
    )


def _unpacked(table: pa.Table) -> FrameBatch:
    shape = table.column("shape")[0].as_py()
    pixels = np.frombuffer(table.column("images")[0].as_buffer() or b"", dtype=np.uint8)
    reasons = tuple(table.column("reasons")[0].as_py())
    return FrameBatch(
        drive_index=table.column("drive_index")[0].as_py(),
        start=table.column("start")[0].as_py(),
        images=pixels.reshape(*shape, 3),
        ok=np.array([reason is None for reason in reasons], dtype=np.bool_),
        reasons=reasons,
        storage_failure=table.column("storage_failure")[0].as_py(),
    )
