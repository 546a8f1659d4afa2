"""Keeps the chunks that wait between two barriers: on the GPU, in host memory or on local disk, within budgets.

All chunks reach every barrier in the same order. A chunk goes to the fastest tier that has room, and comes back from
there; the tier does not change any result. Copies to and from the host run in parallel with the computation; the next
chunk is fetched while the one before is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.tokens import ChunkState
from pipeline.common.heap_trim import return_gaps
from pipeline.common.sizes import size_option
from pipeline.forward.budgets import Budgets, MemoryBudgetError, check_host_memory, memory_advice
from pipeline.forward.mmap_tensors import mapped
from pipeline.forward.scratch import ScratchFile, ScratchFull

Tier = Literal["gpu", "host", "scratch"]
TIERS: tuple[Tier, ...] = ("gpu", "host", "scratch")
# Parcels in host memory on their way to or from the disk: one that is written, one that is read ahead.
_IN_FLIGHT = 2


@dataclass
class WaitingChunk:
    """A chunk between two barriers.

    number: of the chunk in its drive. frames: its frame numbers in time order. state: tokens and features, on the
    working device. images (S, H, W, 3) uint8 in time order, for the colours of its points; None while the store keeps
    them. ok (S,) and reasons: which images are good, and why the others are not.
    """

    number: int
    frames: Sequence[int]
    state: ChunkState
    images: NDArray[np.uint8] | None
    ok: NDArray[np.bool_]
    reasons: tuple[str | None, ...]


class StateStore(Protocol):
    """Keeps chunks of one rank by number; a chunk comes back unchanged, on the working device."""

    def put(self, chunk: WaitingChunk) -> None:
        """Keep a chunk until it is taken, and its images, if it has any, until these are taken."""
        ...

    def expect(self, numbers: Sequence[int], with_images: bool = False) -> None:
        """Announce the order in which chunks will be taken, so that the next one is fetched in advance."""
        ...

    def take(self, number: int) -> WaitingChunk:
        """Return a chunk without its images, and forget it. Raises KeyError where it was never put."""
        ...

    def take_images(self, number: int) -> NDArray[np.uint8]:
        """Return a chunk's images, and forget them. Raises KeyError where they were never put."""
        ...

    def clear(self) -> None:
        """Forget all chunks: the drive was dropped or is done."""
        ...

    def explain(self, error: Exception) -> str:
        """An error in words, with the budget to change where memory ran out."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        ...


@dataclass
class _Parcel:
    """Tensors in a tier. In scratch, `tensors` is empty and `shapes` remains. copied: marks the end of a GPU copy."""

    tier: Tier
    nbytes: int
    tensors: list[Tensor] | None
    shapes: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    file: ScratchFile | None = None
    copied: torch.cuda.Event | None = None
    writing: Future[None] | None = None
    fetching: Future[tuple[list[Tensor], torch.cuda.Event | None]] | None = None


_Key = tuple[Literal["state", "images"], int]


class TieredStore:
    """Chunks in the fastest tier with room. One thread writes in the background and one reads ahead.

    Attributes:
        peak: most bytes that waited in each tier so far.
        moved: bytes that went from a tier to the next slower one, by the slower one's name.
    """

    def __init__(self, device: torch.device, budgets: Budgets) -> None:
        self.device = device
        self.budgets = budgets
        self._limit: dict[Tier, int] = {"gpu": budgets.gpu, "host": budgets.host, "scratch": budgets.scratch}
        self._used: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self.peak: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self.moved: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._parcels: dict[_Key, _Parcel] = {}
        self._chunks: dict[int, WaitingChunk] = {}
        self._order: list[_Key] = []
        self._last_write: _Parcel | None = None
        self._largest = 0  # parcel of this drive so far
        self._threads: dict[str, ThreadPoolExecutor] = {}
        on_gpu = device.type == "cuda"
        self._out = torch.cuda.Stream(device) if on_gpu else None
        self._in = torch.cuda.Stream(device) if on_gpu else None

    # -- what phases use ------------------------------------------------------------------------------------

    def put(self, chunk: WaitingChunk) -> None:
        """Keep a chunk. Raises MemoryBudgetError where no tier has room; it names the budget to raise."""
        check_host_memory(self._limit["host"])
        tensors, chunk.state = _taken_apart(chunk.state)
        self._place(("state", chunk.number), [_compact(t) for t in tensors])
        if chunk.images is not None:
            self._place(("images", chunk.number), [_compact(torch.from_numpy(chunk.images))])
            chunk.images = None
        self._chunks[chunk.number] = chunk
        return_gaps()

    def expect(self, numbers: Sequence[int], with_images: bool = False) -> None:
        """Fetch in this order, one chunk ahead of `take`."""
        kinds: tuple[Literal["state", "images"], ...] = ("state", "images") if with_images else ("state",)
        self._order = [(kind, number) for number in numbers for kind in kinds]
        self._fetch_next()

    def take(self, number: int) -> WaitingChunk:
        """Return a chunk without its images, and forget it."""
        chunk = self._chunks.pop(number)
        tensors = self._collect(("state", number))
        chunk.state = _put_together(chunk.state, tensors)
        return_gaps()
        return chunk

    def take_images(self, number: int) -> NDArray[np.uint8]:
        """Return a chunk's images, and forget them."""
        return self._collect(("images", number))[0].numpy()

    def clear(self) -> None:
        """Forget everything; files are closed and their room is free again."""
        for parcel in self._parcels.values():
            for pending in (parcel.writing, parcel.fetching):
                if pending is not None and not pending.cancel():
                    _settled(pending)
            if parcel.file is not None:
                parcel.file.close()
        self._parcels.clear()
        self._chunks.clear()
        self._order.clear()
        self._last_write = None
        self._largest = 0
        self._used = dict.fromkeys(TIERS, 0)

    def close(self) -> None:
        """Forget everything and end the threads."""
        self.clear()
        for thread in self._threads.values():
            thread.shutdown()
        self._threads.clear()

    def explain(self, error: Exception) -> str:
        """The error in words; if memory ran out, with the budget to change."""
        return memory_advice(error, self.budgets) or str(error) or type(error).__name__

    @property
    def nbytes(self) -> int:
        """Bytes held now, in all tiers."""
        return sum(self._used.values())

    # -- tiers ----------------------------------------------------------------------------------------------

    def _place(self, key: _Key, tensors: list[Tensor]) -> None:
        size = sum(t.nbytes for t in tensors)
        tier = self._tier_for(key, size)
        parcel = _Parcel(tier, size, tensors)
        if tier != "gpu" and tensors and tensors[0].is_cuda:
            self._to_host(parcel)
        elif tier == "host":
            parcel.tensors = mapped(tensors)
        if tier == "scratch":
            self._to_scratch(parcel)
        self._parcels[key] = parcel
        self._used[tier] += size
        self.peak[tier] = max(self.peak[tier], self._used[tier])

    def _tier_for(self, key: _Key, size: int) -> Tier:
        if self.device.type == "cuda" and key[0] == "state" and self._used["gpu"] + size <= self._limit["gpu"]:
            return "gpu"
        self._largest = max(self._largest, size)
        in_flight = _IN_FLIGHT * self._largest
        spills = self._limit["scratch"] > 0
        if self._used["host"] + size + (in_flight if spills else 0) <= self._limit["host"]:
            return "host"
        if spills and in_flight > self._limit["host"]:
            raise MemoryBudgetError(
                f"a chunk of {size_option(size)} cannot wait on disk within --host-memory "
                f"{size_option(self._limit['host'])}: one is written while another is read; raise --host-memory to "
                f"{size_option(in_flight + size)} or more, or take a smaller --chunk-size"
            )
        if self._used["scratch"] + size <= self._limit["scratch"]:
            return "scratch"
        held = ", ".join(
            f"--{'scratch' if t == 'scratch' else t + '-memory'} {size_option(self._limit[t])}"
            for t in TIERS
            if t != "gpu" or self.device.type == "cuda"
        )
        raise MemoryBudgetError(
            f"chunks that wait take {size_option(self.nbytes + size)} and more, the budgets are full ({held}): "
            f"raise --scratch or --host-memory, or share the drive among more --workers"
        )

    def _to_host(self, parcel: _Parcel) -> None:
        """Start the copy of a parcel from the GPU into pinned memory; it waits for the computation of the parcel."""
        assert parcel.tensors is not None and self._out is not None
        self._out.wait_stream(torch.cuda.current_stream(self.device))
        hosted = []
        with torch.cuda.stream(self._out):
            for tensor in parcel.tensors:
                target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                target.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._out)  # so that its memory is not reused before it is copied
                hosted.append(target)
            parcel.copied = torch.cuda.Event()
            parcel.copied.record(self._out)
        parcel.tensors = hosted
        self.moved["host"] += parcel.nbytes

    def _to_scratch(self, parcel: _Parcel) -> None:
        """Start to write a parcel. Waits for the one before, so that at most one parcel is in memory for this."""
        assert parcel.tensors is not None
        if self._last_write is not None and self._last_write.writing is not None:
            self._last_write.writing.result()
        parcel.shapes = [(t.shape, t.dtype) for t in parcel.tensors]
        parcel.file = ScratchFile(self.budgets.folder)
        parcel.writing = self._thread("write").submit(self._write, parcel)
        self._last_write = parcel
        self.moved["scratch"] += parcel.nbytes

    def _write(self, parcel: _Parcel) -> None:
        assert parcel.tensors is not None and parcel.file is not None
        if parcel.copied is not None:
            parcel.copied.synchronize()
        try:
            parcel.file.write(parcel.tensors)
        except ScratchFull as error:
            held = size_option(self._used["scratch"])
            raise MemoryBudgetError(
                f"the disk of the scratch folder {self.budgets.folder} is full with {held} of waiting chunks on it: "
                "make room, name another --scratch-folder, or raise --host-memory"
            ) from error
        parcel.tensors = None

    # -- coming back ----------------------------------------------------------------------------------------

    def _collect(self, key: _Key) -> list[Tensor]:
        parcel = self._parcels.pop(key)
        try:
            if parcel.tier == "gpu":
                assert parcel.tensors is not None
                tensors, copied = parcel.tensors, None
            elif parcel.fetching is not None:
                tensors, copied = parcel.fetching.result()
            else:
                tensors, copied = self._fetched(parcel, to_device=key[0] == "state")
        finally:
            self._used[parcel.tier] -= parcel.nbytes
            if parcel.file is not None:
                _settled(parcel.writing)
                parcel.file.close()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in tensors:
                tensor.record_stream(stream)
        if key in self._order:
            del self._order[: self._order.index(key) + 1]
            self._fetch_next()
        return tensors

    def _fetch_next(self) -> None:
        """Start to fetch the next chunk's parcels, if they are in another tier."""
        for key in self._order[:2]:
            if key[1] != self._order[0][1]:
                break
            parcel = self._parcels.get(key)
            if parcel is None or parcel.tier == "gpu" or parcel.fetching is not None:
                continue
            if parcel.tier == "host" and (self.device.type != "cuda" or key[0] == "images"):
                continue  # it is already on the right device
            parcel.fetching = self._thread("read").submit(self._fetched, parcel, key[0] == "state")

    def _fetched(self, parcel: _Parcel, to_device: bool) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """A parcel's tensors on the working device; the event marks the end of the copy."""
        if parcel.writing is not None:
            parcel.writing.result()  # raises the error of the write
        tensors = parcel.tensors
        if tensors is None:
            assert parcel.file is not None
            pinned = self.device.type == "cuda"
            tensors = [torch.empty(shape, dtype=dtype, pin_memory=pinned) for shape, dtype in parcel.shapes]
            parcel.file.read_into(tensors)
        if self._in is None or not to_device:
            if parcel.copied is not None:
                parcel.copied.synchronize()
            return tensors, None
        with torch.cuda.stream(self._in):
            if parcel.copied is not None:
                self._in.wait_event(parcel.copied)
            moved = [t.to(self.device, non_blocking=True) for t in tensors]
            arrived = torch.cuda.Event()
            arrived.record(self._in)
        return moved, arrived

    def _thread(self, name: str) -> ThreadPoolExecutor:
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"states-{name}")
        return self._threads[name]


def _settled(pending: Future[None] | Future[tuple[list[Tensor], torch.cuda.Event | None]] | None) -> None:
    """Wait for the end of a thread's work; its error, if any, is raised elsewhere."""
    if pending is not None:
        pending.exception()


def _compact(tensor: Tensor) -> Tensor:
    """The tensor as a contiguous copy that keeps no larger storage alive."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.contiguous() if not tensor.is_contiguous() else tensor.clone()


def _taken_apart(state: ChunkState) -> tuple[list[Tensor], ChunkState]:
    """A state's tensors in a fixed order, and the state with empty tensors in their places."""
    held: list[Tensor] = []

    def out(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        held.append(tensor)
        return torch.empty(0)

    shell = state.map(out)
    return held, shell


def _put_together(shell: ChunkState, tensors: Iterable[Tensor]) -> ChunkState:
    """The inverse of `_taken_apart`."""
    rest = iter(tensors)
    return shell.map(lambda tensor: None if tensor is None else next(rest))
