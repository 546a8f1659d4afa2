"""A short rendered drive that comes with the project: images and true positions, to measure the accuracy of a
precision.

`data/city_drive.safetensors` holds the first frames of a drive of `pipeline.synthetic` that no network was trained on:
images (N, 64, 128, 3) uint8, compressed by zlib, and the cameras' positions in metres. `pipeline.benchmark.gpu` has
the function that made it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.benchmark.modes import chunks_of, run
from models.pose_encoding import decode_pose
from models.reconstructor import Prediction, Reconstructor

DRIVE = Path(__file__).parent / "data" / "city_drive.safetensors"


def write_drive(images: Tensor, positions: Tensor, path: Path = DRIVE) -> None:
    """Write images (N, H, W, 3) uint8 and positions (N, 3) of the cameras in the world, metres."""
    packed = zlib.compress(images.contiguous().numpy().tobytes(), 9)
    tensors = {
        "images": torch.frombuffer(bytearray(packed), dtype=torch.uint8),
        "shape": torch.tensor(images.shape),
        "positions": positions.double().contiguous(),
    }
    save_file(tensors, path)


def read_drive(path: Path = DRIVE) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) uint8 and the cameras' positions (N, 3) float64."""
    tensors = load_file(path)
    raw = bytearray(zlib.decompress(tensors["images"].numpy().tobytes()))
    images = torch.frombuffer(raw, dtype=torch.uint8).view(*tensors["shape"].tolist())
    return images.permute(0, 3, 1, 2).contiguous(), tensors["positions"]


def views(images: Tensor, positions: Tensor, count: int = 60) -> list[tuple[Tensor, Tensor]]:
    """The first and the last `count` frames of a drive, each also mirrored left to right: images and positions.

    Rounding changes the error of one of them by a percent or more, up or down; its mean over all four tells more.
    """
    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=positions.dtype)
    parts = [(images[:count], positions[:count]), (images[-count:], positions[-count:])]
    return [*parts, *((seen.flip(3), where * mirror) for seen, where in parts)]


def city_errors(model: Reconstructor, drives: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The trajectory error of a network (see `trajectory_error`), root mean square over drives: images (N, 3, H, W) and
    positions (N, 3)."""
    squares = 0.0
    for images, positions in drives:
        chunks = chunks_of(len(images), model.config.chunk_size, model.config.chunk_overlap)
        squares += trajectory_error(run("fast", model, images, chunks).predictions, positions) ** 2
    return (squares / len(drives)) ** 0.5


def trajectory_error(predictions: Sequence[Prediction], positions: Tensor) -> float:
    """Absolute trajectory error inside chunks, in % of the mean length of their paths: RMS distance of the cameras
    after the best Sim(3) of each chunk, over all chunks. positions (N, 3): the truth by frame number."""
    squares, path, frames = 0.0, 0.0, 0
    for prediction in predictions:
        order = prediction.frame_index.argsort()
        cam_from_world, _ = decode_pose(prediction.pose_encoding[order].double().cpu(), 1, 1)
        rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3:]
        found = -(rotation.mT @ translation)[..., 0]
        true = positions[prediction.frame_index[order]]
        squares += float((fitted(found, true) - true).square().sum())
        path += float((true[1:] - true[:-1]).norm(dim=-1).sum())
        frames += len(true)
    return 100 * (squares / frames) ** 0.5 / (path / len(predictions))


def fitted(points: Tensor, onto: Tensor) -> Tensor:
    """Points (N, 3) after the Sim(3) that brings them nearest to `onto` (N, 3) (Umeyama, PAMI 1991)."""
    a, b = points - points.mean(0), onto - onto.mean(0)
    u, s, vt = torch.linalg.svd(b.T @ a)
    sign = torch.ones(3, dtype=points.dtype)
    sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    rotation = (u * sign) @ vt
    scale = (s * sign).sum() / a.square().sum().clamp(min=1e-12)
    return scale * a @ rotation.T + onto.mean(0)
