"""Host memory of its own for what waits long, and a heap that does not keep what nobody uses.

Left where it was computed a chunk would lie scattered among the layers' work, and the heap, which goes back to the
system from its end only, would keep the gaps: measured, a chunk that counts 7 MB then costs 13, and more at each
barrier. With the chunks gone from it the heap still grew by 0.6 MB a frame of a long drive, all of it gaps.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import time
from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNED = 64  # bytes; what vector instructions like
_EVERY_S = 5.0

_returned = -_EVERY_S


def mapped(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous copies on the host in one memory map, which goes back to the system with the last of them."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += math.ceil(tensor.nbytes / _ALIGNED) * _ALIGNED
    if not end:
        return [torch.empty_like(tensor, device="cpu") for tensor in tensors]
    room = torch.frombuffer(mmap.mmap(-1, end), dtype=torch.uint8)
    copies = []
    for tensor, start in zip(tensors, starts, strict=True):
        place = room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies.append(place.copy_(tensor))
    return copies


def return_gaps() -> None:
    """Give the pages of the heap's gaps back to the system, at most every five seconds: it takes 0.1 s and more, as
    they come back zeroed with the next use. Does nothing with a C library that is not glibc."""
    global _returned
    now = time.monotonic()
    if now - _returned < _EVERY_S:
        return
    _returned = now
    try:
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (OSError, AttributeError):
        return
