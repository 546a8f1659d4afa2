"""Training data: batches of chunks with poses and depth, drawn at random from the clips of drives.

A source is a list of drives; a drive is a list of clips (consecutive frames). `sampling.draw_batch` draws groups of
chunks from them, and `make_batch` gives all chunks of a group, which are of one drive, the same scale, so that the
memories can carry it from chunk to chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.pose_encoding import encode_pose, unproject
from models.tokens import middle_first, time_offsets


@dataclass(frozen=True)
class Frames:
    """n frames with their truth: images uint8 (n, H, W, 3); depth float32 (n, H, W), metres, 0 where unknown;
    world_from_camera float64 (n, 4, 4); intrinsics float64 (n, 3, 3) in pixels."""

    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    world_from_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]


class Clip(Protocol):
    """Consecutive frames of a drive."""

    def __len__(self) -> int: ...

    def read(self, frames: Sequence[int]) -> Frames:
        """These frames of the clip, in this order."""
        ...


class Source(Protocol):
    """Drives to train on; there may be more of them while training runs."""

    def drives(self) -> Sequence[Sequence[Clip]]:
        """The clips of every drive that exists now."""
        ...


@dataclass(frozen=True)
class PooledClip:
    """A clip of a rendered drive in the pool, as views of its arrays."""

    images: NDArray[np.uint8]
    depth: NDArray[np.float16]
    world_from_camera: NDArray[np.float64]
    intrinsics: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, frames: Sequence[int]) -> Frames:
        """These frames of the clip, in this order."""
        chosen = list(frames)
        return Frames(
            np.asarray(self.images[chosen]),
            np.asarray(self.depth[chosen], np.float32),
            self.world_from_camera[chosen],
            np.tile(self.intrinsics, (len(chosen), 1, 1)),
        )


class PoolSource:
    """The drives in a pool folder (pipeline.training.pool); it is searched for new drives from time to time."""

    _LOOK_EVERY = 50  # calls of `drives` between two searches

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._drives: list[list[Clip]] = []
        self._known: set[str] = set()
        self._reads = 0

    def drives(self) -> Sequence[Sequence[Clip]]:
        """The clips of every drive that has been rendered."""
        if self._reads % self._LOOK_EVERY == 0 and self.folder.is_dir():
            for name in sorted(p.name for p in self.folder.iterdir() if not p.name.startswith(".")):
                if name not in self._known:
                    self._known.add(name)
                    self._drives.append(_open_pooled(self.folder / name))
        self._reads += 1
        return self._drives


def _open_pooled(folder: Path) -> list[Clip]:
    images = np.load(folder / "images.npy", mmap_mode="r")
    depth = np.load(folder / "depth.npy", mmap_mode="r")
    with np.load(folder / "cameras.npz") as cameras:
        poses, intrinsics = cameras["world_from_camera"], cameras["intrinsics"]
    return [PooledClip(images[i], depth[i], poses[i], intrinsics) for i in range(len(images))]


@dataclass(frozen=True)
class Batch:
    """B chunks of S frames, reference frame first; each `group` consecutive chunks are of one drive.

    images (B, S, 3, H, W) in [0, 1]; depth (B, S, H, W) in units of the group's scale, 0 where unknown;
    cam_from_reference (B, S, 3, 4) in the same units; intrinsics (B, S, 3, 3), pixels; pose_encoding (B, S, 9);
    offsets (S,): frames from the reference frame in time; scale (B,): metres per unit.
    """

    images: Tensor
    depth: Tensor
    cam_from_reference: Tensor
    intrinsics: Tensor
    pose_encoding: Tensor
    offsets: tuple[int, ...]
    group: int
    scale: Tensor

    @property
    def valid(self) -> Tensor:
        """Where depth is known (B, S, H, W)."""
        return self.depth > 0

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return Batch(**moved, offsets=self.offsets, group=self.group)

    def state(self) -> dict[str, Tensor]:
        """The tensors by name, as they are saved if a loss is not finite."""
        return {name: getattr(self, name) for name in _TENSORS}


_TENSORS = ("images", "depth", "cam_from_reference", "intrinsics", "pose_encoding", "scale")


def make_batch(chunks: Sequence[Frames], group: int) -> Batch:
    """Chunks of equal length, frames in time order, each `group` consecutive ones of one drive -> a batch.

    Scal3R's targets: cameras in the coordinates of the reference camera, all lengths divided by the mean distance of
    the points, over the whole group. Raises ValueError if a group has no depth.
    """
    order = middle_first(list(range(len(chunks[0].images))))
    images = torch.from_numpy(np.stack([c.images[order] for c in chunks])).permute(0, 1, 4, 2, 3).float() / 255
    depth = torch.from_numpy(np.stack([c.depth[order] for c in chunks]))
    poses = np.stack([c.world_from_camera[order] for c in chunks])
    cam_from_reference = torch.from_numpy((np.linalg.inv(poses) @ poses[:, :1])[..., :3, :]).float()
    intrinsics = torch.from_numpy(np.stack([c.intrinsics[order] for c in chunks])).float()
    known = depth > 0
    distance = unproject(depth, intrinsics).norm(dim=-1)
    total = (distance * known).sum((1, 2, 3)).view(-1, group).sum(1)
    count = known.sum((1, 2, 3)).view(-1, group).sum(1)
    if not bool((count > 0).all()):
        raise ValueError("a group of chunks has no frame with depth")
    scale = (total / count).repeat_interleave(group)
    depth = depth / scale[:, None, None, None]
    cam_from_reference[..., 3] /= scale[:, None, None]
    height, width = depth.shape[-2:]
    return Batch(
        images=images,
        depth=depth,
        cam_from_reference=cam_from_reference,
        intrinsics=intrinsics,
        pose_encoding=encode_pose(cam_from_reference, intrinsics, height, width),
        offsets=tuple(time_offsets(len(order))),
        group=group,
        scale=scale,
    )


def mirrored(frames: Frames) -> Frames:
    """The mirrored frames: left and right are exchanged in images, depth and poses."""
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    intrinsics = frames.intrinsics.copy()
    intrinsics[:, 0, 2] = frames.images.shape[2] - intrinsics[:, 0, 2]
    return Frames(
        frames.images[:, :, ::-1], frames.depth[:, :, ::-1], flip @ frames.world_from_camera @ flip, intrinsics
    )


def colour_jittered(rng: np.random.Generator, batch: Batch) -> Batch:
    """Colour augmentation: random brightness of each chunk and colour, and in some batches blur or noise."""
    count = batch.images.shape[0]
    gain = torch.from_numpy(rng.uniform(0.8, 1.25, (count, 1, 1, 1, 1)) * rng.uniform(0.9, 1.1, (count, 1, 3, 1, 1)))
    images = batch.images * gain.float()
    if rng.random() < 0.15:
        soft = torch.nn.functional.avg_pool2d(images.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False)
        images = images + float(rng.uniform(0.2, 0.7)) * (soft.view_as(images) - images)
    if rng.random() < 0.15:
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        images = images + float(rng.uniform(0, 0.02)) * torch.randn(images.shape, generator=generator)
    return Batch(**{**batch.state(), "images": images.clamp(0, 1)}, offsets=batch.offsets, group=batch.group)


def draw_chunk(rng: np.random.Generator, drive: Sequence[Clip], frames: int, stride: int, mirror: bool) -> Frames:
    """`frames` frames from a random clip of a drive, `stride` apart if the clip is long enough. Raises ValueError if no
    clip has as many frames."""
    long_enough = [c for c in drive if len(c) >= frames]
    if not long_enough:
        raise ValueError(f"no clip of the drive has {frames} frames, the longest has {max(map(len, drive))}")
    clip = long_enough[rng.integers(len(long_enough))]
    stride = min(stride, max((len(clip) - 1) // max(frames - 1, 1), 1))
    start = int(rng.integers(len(clip) - (frames - 1) * stride))
    chunk = clip.read(range(start, start + (frames - 1) * stride + 1, stride))
    return mirrored(chunk) if mirror else chunk
