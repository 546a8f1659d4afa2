"""The staged chunks of a drive with the drive's one camera, and without masked pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera
from pipeline.cameras.known_intrinsics import one_focal, with_known_camera
from pipeline.cameras.masks import Mask
from pipeline.cameras.static_parts import Part, find_parts
from pipeline.cameras.straight_lines import LineEvidence, find_bend
from pipeline.forward.staging import ChunkPrediction

_SAMPLED_FRAMES = 160  # of a drive, from which its static parts are found: 60 MB of the published network's pictures
_CAR_CHUNKS = 12  # of a drive, in which the car's own parts are looked for where no mask is asked for
_LINE_FRAMES, _LINE_CHUNKS = 96, 12  # of a drive, in which straight edges are looked for


class StoredChunks(Protocol):
    """Chunks that are read when they are needed; bad_frames: as in StagedChunks."""

    @property
    def bad_frames(self) -> dict[int, str]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> ChunkPrediction: ...


@dataclass(frozen=True)
class ChunkMasks:
    """Masks of the network's pictures, (h, w), True where a pixel is used. seen: pixels that the lens sees; static:
    masks that hold for all frames; of both there are none, one for the whole drive, or one for each camera of a rig;
    of_frame: a frame's mask by its number in the drive, None where it has none; notes: what was found in the pictures,
    for the reader of the result."""

    seen: tuple[Mask, ...] = ()
    static: tuple[Mask, ...] = ()
    of_frame: Callable[[int], Mask | None] | None = None
    notes: tuple[str, ...] = ()

    @property
    def always(self) -> Mask | None:
        """The mask that holds for every frame of every camera; None for none."""
        masks = [one for of_lens in (self.seen, self.static) if len(of_lens) == 1 for one in of_lens]
        return np.logical_and.reduce(masks) if masks else None

    def of(self, frame: int) -> list[Mask]:
        """The masks of one frame beside `always`."""
        own = None if self.of_frame is None else self.of_frame(frame)
        cameras = [each[frame % len(each)] for each in (self.seen, self.static) if len(each) > 1]
        return cameras if own is None else [*cameras, own]

    def hide(self, chunk: ChunkPrediction) -> ChunkPrediction:
        """The chunk with NaN for depth and confidence at masked pixels: they give no points and take no part in
        joining."""
        if not self.seen and not self.static and self.of_frame is None:
            return chunk
        always = self.always
        hidden = np.zeros(chunk.depth.shape, bool)
        if always is not None:
            hidden |= ~always
        for place, frame in enumerate(chunk.frame_index.tolist()):
            for own in self.of(frame):
                hidden[place] |= ~own
        depth, confidence = chunk.depth.copy(), chunk.confidence.copy()
        depth[hidden] = confidence[hidden] = np.nan
        return replace(chunk, depth=depth, confidence=confidence)


def static_parts(chunks: StoredChunks, cameras: int = 1, most_chunks: int = _SAMPLED_FRAMES) -> list[dict[Part, Mask]]:
    """Where the pictures of each camera of a drive show what does not move while the car does, by kind, from good
    frames spread over the drive. Reads the chunks that hold these frames, at most so many.

    cameras: of a rig, whose frames follow each other instant by instant.
    """
    pictures, numbers = sampled_frames(chunks, _SAMPLED_FRAMES, most_chunks, cameras)
    return [find_parts(pictures[numbers % cameras == camera]) for camera in range(cameras)]


def covered(parts: Mapping[Part, Mask], shape: tuple[int, int]) -> Mask:
    """True where pictures (h, w) show any of the parts."""
    return np.logical_or.reduce([np.zeros(shape, bool), *parts.values()])


def sampled_pictures(chunks: StoredChunks, most: int, most_chunks: int) -> NDArray[np.uint8]:
    """The pictures of `sampled_frames`."""
    return sampled_frames(chunks, most, most_chunks)[0]


def sampled_frames(
    chunks: StoredChunks, most: int, most_chunks: int, cameras: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """About `most` good frames of each camera, spread over the drive, as the network saw them (n, h, w, 3), and their
    numbers (n,); none where no frame is good. Reads the chunks they are in, at most so many."""
    count = min(len(chunks), most_chunks)
    each = max(1, -(-most // count))
    numbers = np.linspace(0, len(chunks) - 1, count).round()
    pictures, frames = [chunks[0].rgb[:0]], [np.zeros(0, np.int64)]
    for number in numbers:
        chunk = chunks[int(number)]
        good = np.flatnonzero(chunk.ok)
        if len(good):
            instant = chunk.frame_index[good] // cameras
            there = np.unique(instant)
            good = good[np.isin(instant, there[np.linspace(0, len(there) - 1, min(each, len(there))).astype(int)])]
            pictures.append(chunk.rgb[good])
            frames.append(chunk.frame_index[good].astype(np.int64))
    return np.concatenate(pictures), np.concatenate(frames)


class CameraChunks(Sequence[ChunkPrediction]):
    """The chunks of a drive with the intrinsics that the drive has.

    Where the camera is known, poses and intrinsics follow it. Where it is not, chunks keep the network's own intrinsics
    until `with_one_camera`; those intrinsics are remembered as chunks are read.
    """

    def __init__(
        self, chunks: StoredChunks, camera: Camera | None, masks: ChunkMasks | None = None, *, adapt: bool = True
    ) -> None:
        """camera: of the network's pictures; masks: what of them counts; adapt: whether poses follow the camera, as
        they must where it is known from elsewhere."""
        self._chunks = chunks
        self._camera = camera
        self._masks = masks or ChunkMasks()
        self._adapt = adapt
        self._said: dict[int, NDArray[np.float32]] = {}  # chunk number -> intrinsics of its good frames
        self._size = (0, 0)

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> ChunkPrediction:  # type: ignore[override]
        chunk = self._masks.hide(self._chunks[number])
        if self._camera is None:
            self._size = (chunk.depth.shape[2], chunk.depth.shape[1])
            self._said[number] = chunk.intrinsics[chunk.ok]
            return chunk
        if not self._adapt:
            matrices = np.broadcast_to(self._camera.matrix.astype(np.float32), chunk.intrinsics.shape)
            return replace(chunk, intrinsics=matrices)
        poses, intrinsics = with_known_camera(chunk.cam_from_world, chunk.intrinsics, self._camera)
        return replace(chunk, cam_from_world=poses, intrinsics=intrinsics)

    @property
    def bad_frames(self) -> dict[int, str]:
        """Why frames were bad, by frame number, in all chunks read so far."""
        return self._chunks.bad_frames

    @property
    def camera(self) -> Camera | None:
        """The camera of the network's pictures; None where each frame has its own estimate."""
        return self._camera

    @property
    def static(self) -> tuple[Mask, ...]:
        """Masks of pixels left out of every frame (False there), given or found: none, one for the whole drive, or one
        for each camera of a rig."""
        return self._masks.static

    def car_parts(self, cameras: int) -> list[Mask]:
        """True where the pictures of each of a drive's cameras show what does not move while the car does; none where
        masks were given or found before."""
        if self._masks.static or self._masks.of_frame is not None:
            return []
        shape = self._chunks[0].depth.shape[1:]
        return [covered(parts, shape) for parts in static_parts(self._chunks, cameras, _CAR_CHUNKS)]

    def line_evidence(self) -> LineEvidence | None:
        """How much the network's pictures bend lines that are straight in the world; None where they do not tell."""
        return find_bend(sampled_pictures(self._chunks, _LINE_FRAMES, _LINE_CHUNKS), self._masks.always)

    def with_one_camera(self, square_pixels: bool) -> CameraChunks:
        """The same chunks with one camera for the drive: the known one, else the median of what all good frames of the
        chunks read so far said, with the principal point in the middle."""
        said = [one for one in self._said.values() if len(one)]
        if self._camera is not None or not said:
            return self
        fx, fy = one_focal(np.concatenate(said), square_pixels)
        width, height = self._size
        camera = Camera("pinhole", width, height, fx, fy, width / 2, height / 2)
        return CameraChunks(self._chunks, camera, self._masks, adapt=False)
