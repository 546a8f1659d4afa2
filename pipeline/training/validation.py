"""Validation: reconstructs held-out drives (chunks, memories, joining) and compares trajectory and depth with the
truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import MemoryScope
from models.pose_encoding import decode_pose
from models.reconstructor import Prediction, Reconstructor
from pipeline.backend import join_chunks
from pipeline.backend.sim3 import fit_similarity
from pipeline.errors import AlignmentError
from pipeline.ingest.chunks import plan_chunks
from pipeline.training.config import ValidationSettings
from pipeline.training.data import Frames

_TURN_DEGREES = 1.0  # a frame counts as turning if its rotation from the frame before is larger
SCOPES: dict[str, MemoryScope] = {"full": "drive", "without GCS": "chunk", "without GCM": "off"}


@dataclass(frozen=True)
class DriveScore:
    """Errors of one drive. ate_percent: RMS position error after Sim(3) alignment, in % of the length of the path.

    rotation_degrees: mean error of the rotation between neighbouring frames; rotation_baseline: the same if no rotation
    is predicted; turning_*: the same for frames that turn by more than a degree. heading_degrees: RMS error of the
    orientation after alignment. abs_rel: mean |depth - truth| / truth after one median scale for the drive.
    speed_percent: standard deviation of log(distance between frames over the true one), in %.
    """

    ate_percent: float
    heading_degrees: float
    rotation_degrees: float
    rotation_baseline: float
    turning_degrees: float
    turning_baseline: float
    abs_rel: float
    speed_percent: float


@dataclass(frozen=True)
class _Chunk:
    frame_index: NDArray[np.int64]
    cam_from_world: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]


def predict_drive(
    model: Reconstructor, images: Tensor, chunks: Sequence[Sequence[int]], scope: MemoryScope = "drive"
) -> list[Prediction]:
    """images (N, 3, H, W) in [0, 1] -> one prediction per chunk (`Reconstructor.forward_drive`)."""
    return model.forward_drive(images, chunks, with_points=False, memory_scope=scope)


def score_drive(
    model: Reconstructor, truth: Frames, settings: ValidationSettings, scope: MemoryScope = "drive"
) -> DriveScore:
    """Reconstruct one drive without loop closure and compare it with the truth."""
    return compare(*join_drive(model, truth, settings, scope), truth)


def join_drive(
    model: Reconstructor, truth: Frames, settings: ValidationSettings, scope: MemoryScope = "drive"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reconstruct a drive from its images, without loop closure -> world_from_camera (N, 4, 4) and depth (N, H, W),
    both in the reconstruction's own coordinates and scale."""
    device = next(model.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(truth.images)).permute(0, 3, 1, 2).to(device).float() / 255
    chunks = plan_chunks(len(images), settings.chunk, settings.overlap)
    predictions = predict_drive(model, images, chunks, scope)
    height, width = images.shape[-2:]
    parts = []
    for prediction in predictions:
        pose, intrinsics = decode_pose(prediction.pose_encoding.float(), height, width)
        fields = (
            prediction.frame_index,
            pose,
            intrinsics,
            prediction.depth.float(),
            prediction.depth_confidence.float(),
        )
        parts.append(_Chunk(*(value.cpu().numpy() for value in fields)))
    joined = join_chunks(parts, overlap=settings.overlap)
    owner = {int(f): int(c) for f, c in zip(joined.frame_index, joined.owner, strict=True)}
    depth = np.stack(
        [parts[owner[i]].depth[np.flatnonzero(parts[owner[i]].frame_index == i)[0]] for i in range(len(images))]
    )
    return joined.world_from_camera, depth * joined.depth_scale[:, None, None]


def compare(world_from_camera: NDArray[np.float64], depth: NDArray[np.float64], truth: Frames) -> DriveScore:
    """Compare a trajectory (N, 4, 4) and depth (N, H, W) with the truth. Raises ValueError if the drive does not
    move."""
    true_poses = truth.world_from_camera
    here, there = world_from_camera[:, :3, 3], true_poses[:, :3, 3]
    path = float(np.linalg.norm(np.diff(there, axis=0), axis=1).sum())
    if path <= 0:
        raise ValueError("the drive does not move, so errors in % of its path are not defined")
    try:
        alignment = fit_similarity(here, there, np.ones(len(here)))
        moved, turn = alignment.apply(here), np.asarray(alignment.rotation)
    except (ValueError, AlignmentError):  # an untrained network may put all cameras into one point
        moved, turn = np.broadcast_to(there.mean(0), there.shape), np.eye(3)
    ate = float(np.sqrt(((moved - there) ** 2).sum(1).mean()))
    heading = _angles(np.swapaxes(turn @ world_from_camera[:, :3, :3], 1, 2) @ true_poses[:, :3, :3])
    relative, true_relative = _steps(world_from_camera), _steps(true_poses)
    error = _angles(np.swapaxes(relative[:, :3, :3], 1, 2) @ true_relative[:, :3, :3])
    baseline = _angles(true_relative[:, :3, :3])
    turning = baseline > _TURN_DEGREES
    known = truth.depth > 0
    scale = float(np.median(truth.depth[known] / depth[known]))
    abs_rel = float((np.abs(depth[known] * scale - truth.depth[known]) / truth.depth[known]).mean())
    step, true_step = (np.linalg.norm(r[:, :3, 3], axis=1) for r in (relative, true_relative))
    going = true_step > 0.2 * np.median(true_step)
    speed = np.log(np.maximum(step[going], 1e-9) / true_step[going])
    return DriveScore(
        ate_percent=100 * ate / path,
        heading_degrees=float(np.sqrt((heading**2).mean())),
        rotation_degrees=float(error.mean()),
        rotation_baseline=float(baseline.mean()),
        turning_degrees=float(error[turning].mean()) if turning.any() else float("nan"),
        turning_baseline=float(baseline[turning].mean()) if turning.any() else float("nan"),
        abs_rel=abs_rel,
        speed_percent=100 * float(speed.std()),
    )


def _steps(world_from_camera: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each camera in the coordinates of the one before it, (N - 1, 4, 4)."""
    return np.asarray(np.linalg.inv(world_from_camera[:-1]) @ world_from_camera[1:])


def _angles(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles in degrees of rotations (N, 3, 3), accurate near zero too."""
    skew = np.stack(
        [
            rotation[:, 2, 1] - rotation[:, 1, 2],
            rotation[:, 0, 2] - rotation[:, 2, 0],
            rotation[:, 1, 0] - rotation[:, 0, 1],
        ],
        axis=1,
    )
    trace = np.trace(rotation, axis1=1, axis2=2)
    return np.asarray(np.degrees(np.arctan2(np.linalg.norm(skew, axis=1), trace - 1)))


def mean_scores(scores: Sequence[DriveScore]) -> dict[str, float]:
    """The mean of each error over drives (NaN if no drive has it)."""
    names = DriveScore.__dataclass_fields__
    means = {}
    for name in names:
        values = np.array([getattr(score, name) for score in scores], dtype=np.float64)
        means[name] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    return means
