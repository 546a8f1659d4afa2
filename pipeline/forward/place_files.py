"""Stages the place descriptors of a drive: those of one frame in ten, from the descriptors by which loops are found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import storage
from pipeline.errors import DriveError

EVERY = 10
"""Frames from one kept descriptor to the next: the car moves some metres in this time."""

_LARGEST_BYTES = 2**30


def write_places(folder: str, rows: NDArray[np.float32]) -> None:
    """Stage descriptors. rows (N, D + 1): of all kept frames in time order; the last column says whether the frame is
    good. Raises StorageError."""
    frame = np.arange(0, len(rows), EVERY)
    frame = frame[rows[frame, -1] > 0.5]
    tensors = {"frame": frame.astype(np.int64), "descriptor": rows[frame, :-1].astype(np.float16)}
    storage.write_bytes_atomically(_uri(folder), save(tensors))


def read_places(folder: str, kept: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float16]] | None:
    """Frame numbers in the drive (n,) and descriptors (n, D); None where the drive was staged without them. kept: the
    drive's frames that are in chunks. Raises DriveError for a file of another kind, StorageError."""
    try:
        tensors = load(storage.read_small(_uri(folder), _LARGEST_BYTES))
        frame, descriptor = tensors["frame"], tensors["descriptor"]
        numbers = np.asarray(kept, np.int64)[frame]
        if frame.dtype != np.int64 or descriptor.dtype != np.float16 or descriptor.shape[:1] != frame.shape:
            raise ValueError(f"frames {frame.shape} and descriptors {descriptor.shape} do not fit together")
    except storage.NotFoundError:
        return None
    except (SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        said = " ".join(str(error).split())[:160]
        raise DriveError(
            f"{storage.redacted(_uri(folder))} holds no place descriptors ({said}); reconstruct the drive again"
        ) from error
    return numbers, descriptor


def _uri(folder: str) -> str:
    return storage.join(folder, "places.safetensors")
