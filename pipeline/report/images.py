"""Writes the drive's frames at a reduced size. A frame that cannot be read is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.drive_images import read_frames
from pipeline.publish import PublishedDrive


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 ... count-1, evenly spaced, including both ends."""
    return [int(n) for n in np.unique(np.linspace(0, count - 1, min(count, most)).round())] if count else []


def write_frames(
    drive: PublishedDrive, frames: Sequence[int], folder: Path, width: int, done: Callable[[int], None]
) -> tuple[dict[int, str], str | None]:
    """Write the frames as JPEGs of `width` pixels.

    Returns the file name of each frame, and the reason why the first missing frame is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, reason = {}, None
    for frame, image in read_frames(drive, frames):
        if isinstance(image, str):
            reason = reason or f"frame {frame}: {image}"
        else:
            names[frame] = f"{frame:06d}.jpg"
            save_jpeg(image, folder / names[frame], width)
        done(1)
    return names, reason


def save_jpeg(image: Image.Image, path: Path, width: int) -> None:
    """Write an image, reduced to at most this width."""
    if image.width > width:
        image = image.resize((width, max(round(image.height * width / image.width), 1)), Image.Resampling.LANCZOS)
    image.convert("RGB").save(path, quality=82, optimize=True)
