"""The bonnet of the car in rendered frames: its shape, its looks, and how it moves in the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.solids import FloatArray

_VIBRATION = 0.4  # share of a bonnet's movement that is the camera's own shaking, not the car's pitch and roll


def bonnet_mask(seed: int, height: int, width: int, motion: FloatArray | None = None) -> NDArray[np.bool_]:
    """(height, width): True where the car's bonnet is; its height and shape are drawn from the seed. With `motion`
    (n, 2) of `bonnet_motion`: (n, height, width)."""
    random = np.random.default_rng([seed, 71])
    top, bend, tilt = random.uniform(0.78, 0.88), random.uniform(0.03, 0.1), random.uniform(-0.02, 0.02)
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5)[:, None] / height
    outline = top + bend * x**2 + tilt * x
    if motion is None:
        return np.asarray(y > outline)
    moved = outline + (motion[:, :1] + motion[:, 1:] * x) / height  # (n, width)
    return np.asarray(y > moved[:, None])


def bonnet_motion(world_from_camera: FloatArray, seed: int, pixels: float) -> FloatArray:
    """The motion of a bonnet in the picture in each frame (F, 2): pixels downwards, and additional pixels downwards at
    the right rim because of roll. It follows pitch and roll of the car, from poses (F, 4, 4) in a world whose z is up,
    and the camera's shaking. The first is at most `pixels`, the second half of that."""
    random = np.random.default_rng([seed, 73])
    pitch = np.arcsin(world_from_camera[:, 2, 2].clip(-1, 1))  # z of the axis forward
    roll = np.arcsin(world_from_camera[:, 2, 0].clip(-1, 1))  # z of the axis to the right
    moves = []
    for angle in (pitch, roll):
        swing = angle - np.median(angle)
        swing = swing / max(float(np.quantile(np.abs(swing), 0.95)), 1e-9)
        trembling = random.normal(0, 0.5, len(swing))
        moves.append((1 - _VIBRATION) * swing.clip(-1, 1) + _VIBRATION * trembling.clip(-1, 1))
    return np.stack(moves, -1) * (pixels, pixels / 2)


def with_bonnet(images: NDArray[np.uint8], seed: int, motion: FloatArray | None = None) -> NDArray[np.uint8]:
    """The frames (n, h, w, 3) with the car's bonnet in front, which reflects the scene weakly; it moves by `motion`
    (n, 2) of `bonnet_motion`."""
    random = np.random.default_rng([seed, 72])
    count, height, width, _ = images.shape
    mask = bonnet_mask(seed, height, width, motion)
    paint = random.uniform(25, 190, 3)
    shade = 0.75 + 0.25 * np.linspace(1, 0, height)[:, None, None]
    mirrored = images[:, ::-1].astype(np.float32).mean(axis=(1, 2), keepdims=True)
    glossy = images[:, np.clip(height - 1 - np.arange(height), 0, height // 3)].astype(np.float32)
    painted = paint * shade + 0.06 * (glossy - mirrored) + 0.04 * (mirrored - 128)
    painted += random.normal(0, 1.5, (count, height, width, 1))
    mask = np.broadcast_to(mask, (count, height, width))
    return np.where(mask[..., None], painted.clip(0, 255).astype(np.uint8), images)
