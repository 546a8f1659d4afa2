"""Reads mask pictures, of a drive or of a frame, and scales them to the network's pixels.

A mask is bool (height, width), True where a pixel is used. Black pixels are not used, as in COLMAP. A pixel of the
network is used only if none of the mask's pixels under it is black.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.cameras.fields import CalibrationError
from pipeline.cameras.orientation import orientation_of, upright
from pipeline.cameras.rectify import View

Mask = NDArray[np.bool_]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
_MOST_PIXELS = 89_478_485
_JPEG_BLACK = 32  # compression leaves no pixel exactly black


def read_mask(data: bytes, file: str, size: tuple[int, int]) -> Mask:
    """The mask in a picture file, for upright frames of `size` (width, height); it keeps the size of the file.

    Raises CalibrationError naming the file where it is no picture or has another aspect ratio.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        image.load()
    except Exception as error:  # format plugins raise many kinds of errors for damaged bytes
        said = (str(error).partition(" <")[0].splitlines() or [""])[0][:80]  # without the name of a Python object
        raise CalibrationError(f"{file}: expected a mask picture (black is left out), got none ({said})") from None
    kind = image.format
    image = upright(image, orientation_of(image))
    width, height = size
    if abs(image.width * height - image.height * width) > 2 * max(width, height):
        raise CalibrationError(
            f"{file}: the mask has {image.width}x{image.height} pixels and the frames have {width}x{height}, which is "
            "another aspect ratio"
        )
    if image.mode in ("1", "L", "P", "I", "I;16", "F") and kind != "JPEG":
        values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        return np.asarray(values.max(-1) > 0 if values.ndim == 3 else values > 0)
    values = np.asarray(image.convert("RGB"))
    return np.asarray(values.max(-1) > (_JPEG_BLACK if kind == "JPEG" else 0))


def shrunk_mask(mask: Mask, resized: tuple[int, int], left: int, top: int, size: tuple[int, int]) -> Mask:
    """A mask for a picture that is scaled to `resized` (width, height) and cut at left, top to `size` (width,
    height)."""
    # A pixel that a black one overlaps is not used.
    rows = _touched(~mask, resized[1], 0)
    both = _touched(rows, resized[0], 1)
    return ~both[top : top + size[1], left : left + size[0]]


def _touched(black: Mask, count: int, axis: int) -> Mask:
    """Which of `count` equal pieces along an axis contain black pixels."""
    sums = np.cumsum(np.insert(black.astype(np.int64), 0, 0, axis), axis)
    edges = np.arange(count + 1) * black.shape[axis] / count
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    last = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), first + 1)
    return np.asarray(sums.take(last, axis) - sums.take(first, axis) > 0)


def rectified_mask(mask: Mask, view: View) -> Mask:
    """The mask of a rectified picture, from that of the lens' picture (at any scale)."""
    pixels = view.lens_pixels()
    seen: Mask = np.all(np.isfinite(pixels), axis=-1)
    # Black areas grow by half a pixel of the view, so that black under the corner of a pixel counts too.
    step = mask.shape[1] / view.width / 2
    grown = ndimage.minimum_filter(mask, max(1, 2 * round(step / 2) + 1))
    scale = (mask.shape[1] / view.lens.width, mask.shape[0] / view.lens.height)
    place = np.floor(np.where(seen[..., None], pixels, 0) * scale).astype(int)
    column = np.clip(place[..., 0], 0, mask.shape[1] - 1)
    row = np.clip(place[..., 1], 0, mask.shape[0] - 1)
    return np.asarray(grown[row, column] & seen)
