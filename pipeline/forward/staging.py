"""Stages the predictions of chunks: files on storage, which are removed when the drive is published.

One safetensors file for each chunk under `<output>/_staging/<drive_id>/<attempt>/`; the attempt names one try at the
drive, so that files of a failed try are never mixed with those of the next.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import storage
from pipeline.common.heap_trim import return_gaps
from pipeline.errors import DriveError

STAGING_FOLDER = "_staging"
_STAGED = re.compile(
    r"(?:staged\.json|writable-[0-9a-f]{32}|[0-9]{8}T[0-9]{6}-[0-9a-f]{8}/(?:(?:chunk|refined)-[0-9]{5,}|places)\.safetensors"
    r"|tracks-[0-9a-f]{12}/(?:camera-[0-9]+/)?(?:segment|live|pictures|linked|stereo)(?:-[0-9]{7,}){1,2}\.arrow"
    r"|(?:[0-9]{8}T[0-9]{6}-[0-9a-f]{8}/|tracks-[0-9a-f]{12}/(?:camera-[0-9]+/)?)?\."
    r"(?:staged\.json|writable-[0-9a-f]{32}|(?:(?:chunk|refined)-[0-9]{5,}|places)\.safetensors"
    r"|(?:segment|live|pictures|linked|stereo)(?:-[0-9]{7,}){1,2}\.arrow)\.[0-9a-f]{32}\.tmp)"
)


@dataclass(frozen=True)
class ChunkPrediction:
    """The network's prediction for one chunk of S frames of h x w pixels, in time order.

    frame_index (S,) int64, rising: in a file, places among the kept frames; from StagedChunks, frame numbers in the
    drive. cam_from_world (S, 3, 4) float32, where the world is the chunk's own gauge. intrinsics (S, 3, 3) float32, in
    pixels of the h x w grid. depth (S, h, w) float32, z-depth in the chunk's scale. confidence (S, h, w) float32, at
    least 1. rgb (S, h, w, 3) uint8. ok (S,) bool: False where the image was bad and the network saw grey. bad_frames:
    frame number -> why its image was bad.
    """

    frame_index: NDArray[np.int64]
    cam_from_world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    ok: NDArray[np.bool_]
    bad_frames: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s = len(self.frame_index)
        h, w = self.depth.shape[1:]
        expected = {
            "cam_from_world": (s, 3, 4),
            "intrinsics": (s, 3, 3),
            "depth": (s, h, w),
            "confidence": (s, h, w),
            "rgb": (s, h, w, 3),
            "ok": (s,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, not {getattr(self, name).shape}")
        if s < 1 or np.any(np.diff(self.frame_index) <= 0):
            raise ValueError("a chunk's frames must be in time order, without repetition")


_TENSORS: Mapping[str, type[np.generic]] = {
    "frame_index": np.int64,
    "cam_from_world": np.float32,
    "intrinsics": np.float32,
    "depth": np.float32,
    "confidence": np.float32,
    "rgb": np.uint8,
    "ok": np.bool_,
}
_LARGEST_BYTES = 2**32  # of a staged chunk; 60 frames of the full network have 100 MB


# Errors for a header that is JSON but not the one that was written, and safetensors' own error.
_NO_CHUNK = (
    SafetensorError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


def attempt_uri(output: str, drive_id: str, attempt: str) -> str:
    """The folder of the staged chunks of one try at a drive."""
    return storage.join(output, STAGING_FOLDER, drive_id, attempt)


def is_staged_file(path: str) -> bool:
    """Whether a path below a drive's staging folder is that of a staged file; other files are never removed."""
    return _STAGED.fullmatch(path) is not None


def write_chunk(folder: str, number: int, prediction: ChunkPrediction) -> int:
    """Stage one chunk; the file appears complete or not at all. Returns the bytes written. Raises StorageError."""
    tensors = {name: np.ascontiguousarray(getattr(prediction, name)) for name in _TENSORS}
    reasons = json.dumps({str(frame): reason for frame, reason in prediction.bad_frames.items()})
    data = save(tensors, metadata={"bad_frames": reasons, "crc32": _crc32(tensors, reasons)})
    storage.write_bytes_atomically(_chunk_uri(folder, number), data)
    return len(data)


def read_chunk(folder: str, number: int) -> ChunkPrediction:
    """A staged chunk. Raises StorageError where the file is missing, DriveError where it is no staged chunk."""
    uri = _chunk_uri(folder, number)
    data = storage.read_small(uri, _LARGEST_BYTES)
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        said = metadata.get("crc32")  # older files have none
        if said is not None and said != _crc32(tensors, metadata["bad_frames"]):
            raise ValueError("its bytes are not those that were staged, their checksum differs")
        for name, kind in _TENSORS.items():
            if tensors[name].dtype != kind:
                raise ValueError(f"{name} is {tensors[name].dtype}, not {np.dtype(kind)}")
        reasons = {int(frame): str(reason) for frame, reason in json.loads(metadata["bad_frames"]).items()}
        prediction = ChunkPrediction(**{name: tensors[name] for name in _TENSORS}, bad_frames=reasons)
        if prediction.frame_index[0] < 0 or min(reasons, default=0) < 0:
            raise ValueError("it has frame numbers below 0")
        return prediction
    except _NO_CHUNK as error:
        said = " ".join(f"{type(error).__name__ if isinstance(error, KeyError) else ''} {error}".split())[:200]
        raise DriveError(
            f"{storage.redacted(uri)} is no staged chunk ({said}); reconstruct the drive again (--overwrite where its "
            "result is there)"
        ) from error


def _crc32(tensors: Mapping[str, NDArray[np.generic]], reasons: str) -> str:
    """CRC-32 of all data of a chunk: about a gigabyte a second; it detects any single flipped bit."""
    value = zlib.crc32(reasons.encode())
    for name in _TENSORS:
        value = zlib.crc32(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode(), value)
        value = zlib.crc32(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"


class StagedChunks(Sequence[ChunkPrediction]):
    """The staged chunks of a drive as a sequence. A file is read when its chunk is used; the last two chunks are kept.

    In the files, frames are places among the kept frames; here they have their numbers in the drive.

    bad_frames: frame number -> why its image was bad, for all chunks read so far.
    """

    def __init__(self, folder: str, count: int, kept: Sequence[int], first: int = 0) -> None:
        self.folder = folder
        self._kept = np.asarray(kept, np.int64)
        self._first = first  # loop chunks are staged behind the others
        self._count = count
        self.bad_frames: dict[int, str] = {}
        self._recent: dict[int, ChunkPrediction] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        if not -self._count <= number < self._count:
            raise IndexError(number)
        number %= self._count
        if number not in self._recent:
            while len(self._recent) >= 2:  # neighbours are joined pairwise
                del self._recent[next(iter(self._recent))]
            self._recent[number] = self._numbered(read_chunk(self.folder, self._first + number))
            self.bad_frames.update(self._recent[number].bad_frames)
            return_gaps()
        return self._recent[number]

    def _numbered(self, staged: ChunkPrediction) -> ChunkPrediction:
        if max(int(staged.frame_index[-1]), *staged.bad_frames, 0) >= len(self._kept):
            raise DriveError(f"{self.folder}: a chunk has more frames than the drive; run the drive again")
        bad = {int(self._kept[place]): reason for place, reason in staged.bad_frames.items()}
        return replace(staged, frame_index=self._kept[staged.frame_index], bad_frames=bad)


def _chunk_uri(folder: str, number: int) -> str:
    return storage.join(folder, f"chunk-{number:05d}.safetensors")
