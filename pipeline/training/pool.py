"""A pool of rendered city clips on local disk, filled in the background while training reads it.

A clip is a few consecutive frames of one drive. Most clips look around (`perturbed_motion`) and many lie in turns:
on plain drives a small network learns to predict no rotation at all for a long while, because most chunks have none.
Every drive is a folder of three arrays, renamed into place when whole, so that a reader maps finished files only.
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

_ROUTE_FRAMES = 600  # a route long enough that its clips differ
_TURN_DEGREES = 20.0  # a clip turns if its heading changes by more between its ends


@dataclass(frozen=True)
class PoolSettings:
    """What the clips of a pool look like. Every drive is a function of these and its seed."""

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
    """Share of clips placed where the car turns, as far as the drive has turns."""
    fine: float = 0.3
    """Share of drives rendered with four rays a pixel, as drives on disk look; the rest costs a quarter."""

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered. Raises ValueError naming the field."""
        for name in ("clips", "clip_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("perturbed", "turning", "fine"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")


def render_drive(folder: Path, seed: int, settings: PoolSettings) -> Path:
    """Render the clips of one drive into `folder`/<seed>.

    images.npy uint8 (clips, frames, H, W, 3), depth.npy float16 (clips, frames, H, W; metres, 0 for sky),
    cameras.npz with world_from_camera (clips, frames, 4, 4) and intrinsics (3, 3). A drive
    that is there already is left alone. Returns its folder.
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
            raise  # else another process was faster, with the same bytes
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
    """Render drives first_seed, first_seed + stride, ... below first_seed + drives; a background process's body.

    parent: process id of the training that it renders for; once that is gone (killed, say), so is the need for more.
    """
    import torch

    torch.set_num_threads(1)  # as many processes as cores beat one with threads
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + drives, stride):
        if parent is not None and os.getppid() != parent:
            return
        render_drive(Path(folder), seed, settings)
