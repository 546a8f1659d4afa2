"""A pool of rendered city clips on local disk, which background processes fill while training reads it.

A clip is a few consecutive frames of one drive. In most clips the camera's motion is perturbed (`perturbed_motion`),
and many clips lie in turns. Without this, most chunks have almost no rotation, and a small network learns for a long
time to predict none. Every drive is a folder of arrays that gets its name when it is complete, so that readers see only
finished files.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic import CityDrive, perturbed_motion

_ROUTE_FRAMES = 600  # frames of a route: enough for different clips
_TURN_DEGREES = 20.0  # a clip turns if its heading changes by more between its ends


@dataclass(frozen=True)
class PoolSettings:
    """Properties of the clips in a pool. Every drive is a function of these and its seed."""

    height: int = 64
    """Image height in pixels."""
    width: int = 128
    """Image width in pixels."""
    clips: int = 12
    """Clips rendered of one drive."""
    clip_frames: int = 12
    """Frames of a clip: the longest chunk that training can take from the pool."""
    perturbed: float = 0.65
    """Share of clips with smooth random camera motion added."""
    turning: float = 0.4
    """Share of clips that lie in turns, if the drive has turns."""
    fine: float = 0.3
    """Share of drives rendered with four rays per pixel, like stored drives; the others take a quarter of the time."""

    def __post_init__(self) -> None:
        """Raises ValueError, which names the field, for settings that cannot be rendered."""
        for name in ("clips", "clip_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("perturbed", "turning", "fine"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")


def render_drive(folder: Path, seed: int, settings: PoolSettings) -> Path:
    """Render the clips of one drive into `folder`/<seed>.

    images.npy uint8 (clips, frames, H, W, 3); depth.npy float16 (clips, frames, H, W), metres, 0 for sky; cameras.npz
    with world_from_camera (clips, frames, 4, 4) and intrinsics (3, 3). A drive that exists is kept. Returns its folder.
    """
    target = folder / f"{seed:07d}"
    if target.is_dir():
        return target
    rng = np.random.default_rng([seed, 31])
    supersample = 2 if rng.random() < settings.fine else 1
    drive = CityDrive(seed, _ROUTE_FRAMES, settings.height, settings.width, supersample=supersample)
    poses = np.stack([_clip_poses(rng, drive.world_from_camera, settings) for _ in range(settings.clips)])
    rendered = drive.render_poses(poses.reshape(-1, 4, 4))
    shape = (settings.clips, settings.clip_frames, settings.height, settings.width)
    partial = folder / f".{seed:07d}.{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        np.save(partial / "images.npy", rendered.images.reshape(*shape, 3))
        np.save(partial / "depth.npy", rendered.depth.reshape(shape).astype(np.float16))
        np.savez(partial / "cameras.npz", world_from_camera=poses, intrinsics=drive.intrinsics)
        (partial / "settings.json").write_text(json.dumps({"seed": seed, **asdict(settings)}))
        os.replace(partial, target)
    except OSError:
        if not target.is_dir():
            raise  # otherwise another process has written the same bytes first
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _clip_poses(
    rng: np.random.Generator, world_from_camera: NDArray[np.float64], settings: PoolSettings
) -> NDArray[np.float64]:
    frames = settings.clip_frames
    starts = np.arange(len(world_from_camera) - frames + 1)
    forward = world_from_camera[:, :3, 2]
    turned = np.degrees(np.arccos(np.clip((forward[starts] * forward[starts + frames - 1]).sum(-1), -1, 1)))
    turning = starts[turned > _TURN_DEGREES]
    places = turning if len(turning) and rng.random() < settings.turning else starts
    start = int(rng.choice(places))
    poses = world_from_camera[start : start + frames]
    if rng.random() < settings.perturbed:
        strength = float(rng.uniform(0.25, 1.0))
        poses = perturbed_motion(
            rng,
            poses,
            yaw_degrees=8.0 * strength,
            pitch_degrees=2.0 * strength,
            roll_degrees=1.5 * strength,
            shift_metres=0.15 * float(rng.random() < 0.5),
        )
    return poses


def fill(
    folder: str, first_seed: int, stride: int, drives: int, settings: PoolSettings, parent: int | None = None
) -> None:
    """Render the drives first_seed, first_seed + stride, ... below first_seed + drives, in a background process.

    parent: id of the training process; rendering ends if it does not exist any more (it may have been killed).
    """
    import torch

    torch.set_num_threads(1)  # one process per core is faster than one process with threads
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + drives, stride):
        if parent is not None and os.getppid() != parent:
            return
        render_drive(Path(folder), seed, settings)
