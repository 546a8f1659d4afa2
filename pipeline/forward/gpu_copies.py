"""Copies between host and GPU that run in parallel with the computation: pinned memory, separate streams.

Pinned buffers come from torch's pool, which reuses a buffer once its copy is complete. On a CPU nothing is copied and
nothing is fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ChunkWindow = tuple[int, NDArray[np.uint8], NDArray[np.bool_], tuple[str | None, ...]]
"""A chunk's number, its images (S, H, W, 3) in time order, which of them are good (S,), and why the others are not
(S,)."""


@dataclass
class OnHost:
    """Tensors on their way to the host. event None: they have arrived."""

    _tensors: tuple[Tensor, ...]
    _copied: torch.cuda.Event | None

    def get(self) -> tuple[Tensor, ...]:
        """The tensors in host memory; waits only for this copy."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensors


@dataclass
class OnDevice:
    """Images (S, 3, H, W) uint8 on their way to the device, channels last."""

    _images: Tensor
    _arrived: torch.cuda.Event | None

    def get(self) -> Tensor:
        """The images, for work on the current stream. The stream waits for them, the host does not."""
        if self._arrived is not None:
            stream = torch.cuda.current_stream(self._images.device)
            stream.wait_event(self._arrived)
            self._images.record_stream(stream)
        return self._images.permute(0, 3, 1, 2)


class Copies:
    """Starts the copies of one rank, on one stream for each direction, so that neither waits for the other."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        self._up = torch.cuda.Stream(device) if on_gpu else None
        self._down = torch.cuda.Stream(device) if on_gpu else None

    def to_device(self, images: NDArray[np.uint8], places: Sequence[int]) -> OnDevice:
        """Copy these of the images (S, H, W, 3) to the device."""
        shape = (len(places), *images.shape[1:])
        if self._up is None:
            return OnDevice(torch.from_numpy(np.ascontiguousarray(images[list(places)])).to(self.device), None)
        pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        np.take(images, places, axis=0, out=pinned.numpy())
        with torch.cuda.stream(self._up):
            there = pinned.to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._up)
        return OnDevice(there, arrived)

    def to_host(self, *tensors: Tensor) -> OnHost:
        """Copy tensors that the current stream computes; the stream continues in parallel."""
        if self._down is None:
            return OnHost(tensors, None)
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        hosted = []
        with torch.cuda.stream(self._down):
            for tensor in tensors:
                target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                target.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._down)  # so that its memory is not reused before it is copied
                hosted.append(target)
            copied = torch.cuda.Event()
            copied.record(self._down)
        return OnHost(tuple(hosted), copied)


@dataclass(frozen=True)
class Arrived:
    """A chunk's window, the places of the images that the chunk before did not have, and these images on the device;
    None if there are none."""

    window: ChunkWindow
    new: tuple[int, ...]
    images: OnDevice | None


def windows_ahead(
    windows: Iterable[ChunkWindow], chunk_frames: Mapping[int, Sequence[int]], copies: Copies
) -> Iterator[Arrived]:
    """The windows in order. On a GPU, the next window is fetched and its new frames are copied during a computation."""
    source = iter(windows)
    before: frozenset[int] = frozenset()

    def fetch() -> Arrived | None:
        nonlocal before
        window = next(source, None)
        if window is None:
            return None
        frames = chunk_frames[window[0]]
        new = tuple(i for i, frame in enumerate(frames) if frame not in before)
        before = frozenset(frames)
        return Arrived(window, new, copies.to_device(window[1], new) if new else None)

    if copies.device.type != "cuda":
        while (arrived := fetch()) is not None:
            yield arrived
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="frames-ahead") as thread:
        pending = thread.submit(fetch)
        while (arrived := pending.result()) is not None:
            pending = thread.submit(fetch)
            yield arrived
