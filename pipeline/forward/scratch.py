"""Waiting tensors on local disk: raw bytes in unlinked files, which vanish with the process."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class ScratchFull(OSError):
    """The disk is full, although the budget allows more."""


class ScratchFile:
    """Tensors in one file. The file has no name, so the system removes it even if the process is killed."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (lives as long as its chunk waits)

    def write(self, tensors: Sequence[Tensor]) -> None:
        """Write contiguous host tensors one after the other. Raises ScratchFull, OSError."""
        try:
            for tensor in tensors:
                _all(lambda part: os.write(self._file.fileno(), part), _bytes_of(tensor))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ScratchFull(error.errno, str(error)) from error
            raise

    def read_into(self, tensors: Sequence[Tensor]) -> None:
        """Read the bytes into contiguous host tensors of the same total size, in the same order."""
        self._file.seek(0)
        for tensor in tensors:
            _all(lambda part: os.readv(self._file.fileno(), [part]), _bytes_of(tensor))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _bytes_of(tensor: Tensor) -> memoryview:
    if not tensor.numel():
        return memoryview(b"")
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _all(step: Callable[[memoryview], int], data: memoryview) -> None:
    """Call `step` until all of `data` is read or written: a system call may process only a part."""
    while len(data):
        done = step(data)
        if done == 0:
            raise OSError(errno.EIO, "a scratch file is shorter than it was written")
        data = data[done:]
