"""Small drives that tests make: images whose content shows their frame number, and videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth grey picture (height, width, 3) whose mean codes its number (0 ... 54)."""
    y, x = np.mgrid[0:height, 0:width]
    return np.repeat((20 + 4 * number + (x + y) % 8)[..., None], 3, axis=-1).astype(np.uint8)


def number_of(image: np.ndarray) -> int:
    """The number of a picture() after resizing or lossy coding."""
    return round((float(image.mean()) - 23.5) / 4)


def write_images(folder: Path, count: int, *, width: int = 64, height: int = 48, suffix: str = ".png") -> list[Path]:
    """frame0.png, frame1.png, ... frame10.png: names that need natural order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame{number}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(picture(number, width, height)).save(path)
    return paths


def write_video(
    path: Path,
    count: int,
    *,
    rate: int = 10,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    key_every: int = 12,
    index_first: bool = False,
    container: str | None = None,
    show: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """A video with B-frames (decoding order differs from the order shown) and several key frames."""
    options = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", format=container, options=options) as film:
        stream = film.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"g": str(key_every), "bf": "2", "crf": "10"} if codec == "libx264" else {}
        if codec != "libx264":
            stream.bit_rate = 4_000_000
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(show(number, width, height), format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path
