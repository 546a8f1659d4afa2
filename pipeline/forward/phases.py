"""One drive on one rank: the phases between barriers, for the rank's share of the drive's chunks.

    phase 0      frames arrive -> encode -> layers up to the first memory -> its step, summed locally;
                 places seen twice become loop chunks and do the same
    barrier      the step summed over all ranks; every rank makes the same update
    phase 1..    read the memory -> layers up to the next one -> its step ...
    last         read the last memory -> heads -> stage the prediction

The numbers are those of `Reconstructor.forward_drive`, which is the plain twin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import Prediction, Reconstructor
from models.fast_weights import FastWeights
from models.pose_encoding import decode_pose
from models.tokens import middle_first
from pipeline.common.background_writer import BackgroundWriter
from pipeline.errors import DriveError
from pipeline.forward.gpu_copies import Arrived, ChunkWindow, Copies, OnHost, windows_ahead
from pipeline.forward.loop_chunks import Descriptors, FrameReader, LoopChunk, LoopFinder
from pipeline.forward.memory_sync import Barrier, MemorySync
from pipeline.forward.network import dtype_of
from pipeline.forward.rank_job import ForwardSettings
from pipeline.forward.staging import ChunkPrediction
from pipeline.forward.state_store import StateStore, WaitingChunk


class DroppedDrive(DriveError):
    """All ranks drop this drive together; the text is the reason as far as this rank knows it. names_frames: the text
    names bad frames of this rank; other ranks know only their count.
    """

    def __init__(self, text: str, names_frames: bool = False) -> None:
        super().__init__(text)
        self.names_frames = names_frames


@dataclass(frozen=True)
class DriveShare:
    """A rank's part of one drive: its chunk numbers, the frames of each, and the frames whose errors it reports.

    Frames are counted among those that are in chunks; numbers: which frames of the drive those are, None: all.
    """

    drive_id: str
    frame_count: int
    chunk_frames: dict[int, range]
    owned: dict[int, range]
    chunk_count: int
    numbers: Sequence[int] | None = None
    cameras: int = 1

    def number_of(self, frame: int) -> int:
        """The number of a frame in the whole drive, as users count it."""
        return frame if self.numbers is None else self.numbers[frame]


class DrivePhases:
    """Takes one drive through all phases. Raises DroppedDrive, on all ranks at the same barrier."""

    def __init__(
        self,
        model: Reconstructor,
        sync: MemorySync,
        store: StateStore,
        settings: ForwardSettings,
        device: torch.device,
        progress: Callable[[str, int], None],
        finder: LoopFinder | None = None,
        read_frames: FrameReader | None = None,
        loops_found: Callable[[int], None] = lambda count: None,
        waiting: Callable[[Iterable[Arrived]], Iterable[Arrived]] = lambda windows: windows,
        described: Callable[[NDArray[np.float32]], None] = lambda rows: None,
    ) -> None:
        self.model = model
        self.sync = sync
        self.store = store
        self.settings = settings
        self._orthogonalise_dtype = dtype_of(settings.orthogonalise_precision)
        self.device = device
        self.progress = progress  # (phase, chunks or frames done)
        self.finder = finder
        self.read_frames = read_frames  # random access, for loop chunks
        self.loops_found = loops_found
        self.described = described  # descriptors of the whole drive, and last whether a frame is good
        self.waiting = waiting  # measures how long frames were waited for
        self.copies = Copies(device)
        self._undescribed: tuple[Arrived, list[int], OnHost] | None = None
        self._previous: dict[int, Tensor] = {}  # patch tokens of the chunk before, by frame
        self._descriptors = Descriptors()
        self._numbers: list[int] = []  # this rank's chunks, loop chunks behind all others
        self._loops: tuple[LoopChunk, ...] = ()

    @torch.inference_mode()
    def run(
        self,
        share: DriveShare,
        windows: Iterable[ChunkWindow],
        stage: Callable[[int, ChunkPrediction], None],
    ) -> tuple[LoopChunk, ...]:
        """Run the drive; `stage` is called with each prediction as it is made, on a rank that has chunks.

        Returns the drive's loop chunks, the same on all ranks; loop l is staged as chunk chunk_count + l.
        """
        segments = len(self.model.config.segments)
        self._numbers = list(share.chunk_frames)
        self._loops = ()
        self._bad: dict[int, str] = {}
        try:
            chunks: Iterable[WaitingChunk] = self._arriving(share, windows)
            weights: FastWeights | None = None
            for segment in range(segments):
                barrier = self._to_barrier(share, chunks, segment)
                self._check(share, barrier)
                if barrier.step is not None and self.settings.memory_scope == "drive":
                    weights = self.model.aggregator.memory_update(segment, barrier.step, self._orthogonalise_dtype)
                chunks = self._past_barrier(segment, weights)
                weights = None
            self._to_heads(share, chunks, stage)
        finally:
            self.store.clear()
            self._previous.clear()
            self._undescribed = None
            self._descriptors = Descriptors()
        return self._loops

    # -- between barriers -----------------------------------------------------------------------------------

    def _to_barrier(self, share: DriveShare, chunks: Iterable[WaitingChunk], segment: int) -> Barrier:
        """Run every chunk up to the memory at the segment's end; then sum over all ranks."""
        total = self._zero_step(segment)
        bad = 0
        failure: Exception | None = None
        try:
            bad = self._advance(share, chunks, segment, total)
        except Exception as error:
            failure = self._survivable(error)
        if segment == 0 and self.finder is not None:
            failure = self._add_loop_chunks(share, total, failure)
        barrier = self.sync.sum(total, failed=failure is not None, bad_frames=bad)
        if failure is not None:
            raise DroppedDrive(f"drive {share.drive_id}: {self.store.explain(failure)}") from failure
        return barrier

    def _advance(
        self, share: DriveShare, chunks: Iterable[WaitingChunk], segment: int, total: FastWeights | None
    ) -> int:
        """Run chunks through a segment and add their steps for its memory to `total`. Returns their bad frames."""
        bad = 0
        for chunk in chunks:
            owned = share.owned.get(chunk.number, range(0))
            chunk.state = self.model.aggregator.run_segment(chunk.state, self.model.keep_projected)
            if total is not None and self.settings.memory_scope == "drive":
                step = self.model.aggregator.memory_step(chunk.state)
                assert step is not None
                for part, asked in zip(total, step, strict=True):
                    part.add_(asked)
            if segment > 0:
                self.progress(f"layers {segment + 1}/{len(self.model.config.segments)}", 1)
            elif chunk.number < share.chunk_count:
                found = {
                    share.number_of(frame): reason or "unknown"
                    for frame, ok, reason in zip(chunk.frames, chunk.ok, chunk.reasons, strict=True)
                    if frame in owned and not ok
                }
                bad += len(found)
                self._bad |= found
                self.progress("frames", len(owned))
            else:
                self.progress("loops", 1)
            self.store.put(chunk)
        return bad

    def _add_loop_chunks(
        self, share: DriveShare, total: FastWeights | None, failure: Exception | None
    ) -> Exception | None:
        """Find places seen twice in the whole drive; this rank's share of their chunks joins the others.

        Returns what failed on this rank, if anything did. All ranks reach this gather, also those with a failure.
        """
        assert self.finder is not None and self.read_frames is not None
        try:
            if failure is None:
                self._describe()
        except Exception as error:
            failure = self._survivable(error)
        if self.sync.sum(None, failed=failure is not None).failed_ranks:
            return failure
        rows = self.sync.gather(self._descriptors.of([f for owned in share.owned.values() for f in owned]))
        try:
            self.described(rows)
            self._loops = tuple(self.finder.find(rows[:, :-1], rows[:, -1] > 0.5, share.cameras))
            self.loops_found(len(self._loops))
            mine = range(self.sync.rank, len(self._loops), self.sync.world_size)
            self._numbers += [share.chunk_count + place for place in mine]
            self._advance(share, self._loop_chunks(share, mine), 0, total)
        except Exception as error:
            return self._survivable(error)
        return None

    def _past_barrier(self, segment: int, weights: FastWeights | None) -> Iterable[WaitingChunk]:
        """Chunks that have read the memory at a segment's end, one after the other."""
        aggregator = self.model.aggregator
        if weights is not None:
            weights = weights.to(aggregator.camera_token.dtype)  # once, not for every chunk
        self.store.expect(self._numbers, with_images=segment == len(self.model.config.segments) - 1)
        for number in self._numbers:
            chunk = self.store.take(number)
            own = weights
            if self.settings.memory_scope == "chunk":
                step = aggregator.memory_step(chunk.state)
                if step is not None:
                    own = aggregator.memory_update(segment, step, self._orthogonalise_dtype)
            chunk.state = aggregator.finish_segment(chunk.state, own, self.model.keep_projected)
            yield chunk

    def _arriving(self, share: DriveShare, windows: Iterable[ChunkWindow]) -> Iterable[WaitingChunk]:
        """Chunks as their frames arrive; a frame that is shared with the chunk before is not encoded again."""
        for arrived in self.waiting(windows_ahead(windows, share.chunk_frames, self.copies)):
            number, images, ok, reasons = arrived.window
            frames = share.chunk_frames[number]
            if arrived.images is not None:
                encoded = self.model.encode(arrived.images.get())
                self._previous.update({frames[i]: encoded[j] for j, i in enumerate(arrived.new)})
                self._describe()
                if self.finder is not None:
                    tokens_of_frames = self.copies.to_host(encoded[..., : self.model.config.embed_dim].float())
                    self._undescribed = (arrived, [frames[i] for i in arrived.new], tokens_of_frames)
            self._previous = {frame: self._previous[frame] for frame in frames}
            tokens = torch.stack([self._previous[frame] for frame in middle_first(list(frames))])
            state = self.model.begin(tokens[None], self._grid(images))
            yield WaitingChunk(number, frames, state, images, ok, reasons)

    def _describe(self) -> None:
        """Make the descriptors of the frames that were encoded last: their tokens were copied to the host meanwhile."""
        if self._undescribed is None:
            return
        assert self.finder is not None
        arrived, frames, tokens = self._undescribed
        self._undescribed = None
        _, images, ok, _ = arrived.window
        new = list(arrived.new)
        rows = self.finder.describe(tokens.get()[0].numpy(), self._grid(images), images[new])
        self._descriptors.add(frames, rows, [bool(ok[i]) for i in new])

    def _loop_chunks(self, share: DriveShare, places: Iterable[int]) -> Iterable[WaitingChunk]:
        """The loop chunks at these places of the list; their frames are read again."""
        assert self.read_frames is not None
        for place in places:
            frames = self._loops[place].frames
            images, ok, reasons = self.read_frames(frames)
            tokens = self.model.encode(self.copies.to_device(images, middle_first(list(range(len(frames))))).get())
            state = self.model.begin(tokens[None], self._grid(images))
            yield WaitingChunk(share.chunk_count + place, frames, state, images, ok, reasons)

    def _grid(self, images: NDArray[np.uint8]) -> tuple[int, int]:
        patch = self.model.config.patch_size
        return images.shape[1] // patch, images.shape[2] // patch

    def _to_heads(
        self,
        share: DriveShare,
        chunks: Iterable[WaitingChunk],
        stage: Callable[[int, ChunkPrediction], None],
    ) -> None:
        """Compute cameras and depth of every chunk, and stage them in the background. After the last barrier, all
        chunks of all ranks are staged."""
        failure: Exception | None = None

        def stage_one(numbers: Tensor, values: OnHost, chunk: WaitingChunk) -> None:
            with torch.inference_mode():  # a thread has its own mode
                stage(chunk.number, to_time_order(Prediction(numbers, *values.get()), chunk, share))

        try:
            with BackgroundWriter() as writer:
                for chunk in chunks:
                    chunk.images = self.store.take_images(chunk.number)
                    prediction = self.model.predict(chunk.state, middle_first(list(chunk.frames)), projected=True)
                    chunk.state = None  # type: ignore[assignment]  # the writer behind does not need it
                    values = self.copies.to_host(
                        prediction.pose_encoding, prediction.depth, prediction.depth_confidence
                    )
                    writer.submit(partial(stage_one, prediction.frame_index, values, chunk))
                    self.progress("cameras and depth", 1)
        except Exception as error:
            failure = self._survivable(error)
        barrier = self.sync.sum(None, failed=failure is not None)
        if failure is not None:
            raise DroppedDrive(f"drive {share.drive_id}: {self.store.explain(failure)}") from failure
        self._check(share, barrier)

    # -- small parts ----------------------------------------------------------------------------------------

    @staticmethod
    def _survivable(error: Exception) -> Exception:
        """The error, if the process can go on to the next drive after it; else it is raised."""
        if _device_is_lost(error):
            raise error  # the device works again only in a new process
        return error

    def _check(self, share: DriveShare, barrier: Barrier) -> None:
        """Raise DroppedDrive if the drive failed. All ranks have the same values, so all decide the same."""
        if barrier.failed_ranks:
            raise DroppedDrive(f"drive {share.drive_id}: {barrier.failed_ranks} other ranks failed")
        if barrier.bad_frames > self.settings.max_bad_share * share.frame_count:
            raise DroppedDrive(
                f"drive {share.drive_id}: {barrier.bad_frames} of {share.frame_count} frames are bad, more "
                f"than the {self.settings.max_bad_share:.0%} allowed (--max-bad-share){_mostly(self._bad)}",
                names_frames=bool(self._bad),
            )

    def _zero_step(self, segment: int) -> FastWeights | None:
        """A step of zeros, which a rank without chunks contributes; None where there is no memory."""
        layer = self.model.config.segments[segment][-1]
        if layer not in self.model.config.memory_layers or self.settings.memory_scope == "off":
            return None
        start = self.model.aggregator.memories[str(layer)].start
        return FastWeights(*(torch.zeros_like(w, dtype=torch.float32) for w in start))  # type: ignore[union-attr]


def to_time_order(prediction: Prediction, chunk: WaitingChunk, share: DriveShare) -> ChunkPrediction:
    """Convert a prediction from the network's order to the staged form. Raises DriveError where it is not finite."""
    images = chunk.images
    assert images is not None
    order = np.argsort(prediction.frame_index.numpy())
    height, width = prediction.depth.shape[1:]
    cam_from_world, intrinsics = decode_pose(prediction.pose_encoding.float(), height, width)

    def host(tensor: Tensor) -> NDArray[np.float32]:
        return tensor.float().cpu().numpy()[order]

    staged = ChunkPrediction(
        frame_index=prediction.frame_index.numpy()[order],
        cam_from_world=host(cam_from_world),
        intrinsics=host(intrinsics),
        depth=host(prediction.depth),
        confidence=host(prediction.depth_confidence),
        rgb=images,
        ok=chunk.ok,
        bad_frames={f: r for f, r in zip(chunk.frames, chunk.reasons, strict=True) if r is not None},
    )
    for name in ("cam_from_world", "depth", "confidence"):
        finite = np.isfinite(getattr(staged, name)).reshape(len(order), -1).all(axis=1)
        if not finite.all():
            frame = share.number_of(int(staged.frame_index[np.argmin(finite)]))
            raise DriveError(
                f"the network's {name} is not finite at frame {frame}; try --precision float32, or other weights"
            )
    return staged


def _mostly(bad: Mapping[int, str]) -> str:
    """The most frequent reason among bad frames, by the frame's number in the drive, and one frame that has it."""
    kinds = {frame: re.sub(r"^\S+\.\w+: ", "", reason) for frame, reason in bad.items()}
    if not kinds:
        return ""
    reason, count = Counter(kinds.values()).most_common(1)[0]
    first = min(frame for frame, kind in kinds.items() if kind == reason)
    return f"; {'all' if count == len(kinds) else 'most often'}, as frame {first}: {reason}"


def _device_is_lost(error: Exception) -> bool:
    """Whether a CUDA error makes the device unusable for this process; running out of memory does not."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)
