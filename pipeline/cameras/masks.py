"""Pictures of what is left out: read for a drive or a frame, brought to the network's pixels, or found by itself.

A mask is bool (height, width), True where a pixel counts. As in COLMAP black is left out; a network's pixel counts
only where nothing under it is black.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

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
_BONNET = 0.01  # least share of the picture
_JPEG_BLACK = 32  # compression leaves no pixel exactly black


def read_mask(data: bytes, file: str, size: tuple[int, int]) -> Mask:
    """A mask picture for upright frames of `size` (width, height), at its own size.

    Raises CalibrationError naming the file: no picture, or one of another shape.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > _MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        image.load()
    except Exception as error:  # format plugins raise whatever broken bytes lead them to
        said = (str(error).splitlines() or [""])[0][:80]
        raise CalibrationError(f"{file}: expected a mask picture (black is left out), got none ({said})") from None
    kind = image.format
    image = upright(image, orientation_of(image))
    width, height = size
    if abs(image.width * height - image.height * width) > 2 * max(width, height):
        raise CalibrationError(
            f"{file}: the mask has {image.width}x{image.height} pixels and the frames have {width}x{height}, which is "
            "another shape"
        )
    if image.mode in ("1", "L", "P", "I", "I;16", "F") and kind != "JPEG":
        values = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        return np.asarray(values.max(-1) > 0 if values.ndim == 3 else values > 0)
    values = np.asarray(image.convert("RGB"))
    return np.asarray(values.max(-1) > (_JPEG_BLACK if kind == "JPEG" else 0))


def shrunk_mask(mask: Mask, resized: tuple[int, int], left: int, top: int, size: tuple[int, int]) -> Mask:
    """A mask for a picture that is scaled to `resized` (width, height) and cut at left, top to `size` (width,
    height)."""
    # Where each pixel of the mask begins and ends among the picture's; what touches black is left out.
    rows = _touched(~mask, resized[1], 0)
    both = _touched(rows, resized[0], 1)
    return ~both[top : top + size[1], left : left + size[0]]


def _touched(black: Mask, count: int, axis: int) -> Mask:
    """Which of `count` equal pieces along an axis have something black in them."""
    sums = np.cumsum(np.insert(black.astype(np.int64), 0, 0, axis), axis)
    edges = np.arange(count + 1) * black.shape[axis] / count
    first = np.floor(edges[:-1] + 1e-9).astype(int)
    last = np.maximum(np.ceil(edges[1:] - 1e-9).astype(int), first + 1)
    return np.asarray(sums.take(last, axis) - sums.take(first, axis) > 0)


def rectified_mask(mask: Mask, view: View) -> Mask:
    """A mask of the lens' picture (at any scale) as one of the rectified picture."""
    pixels = view.lens_pixels()
    seen: Mask = np.all(np.isfinite(pixels), axis=-1)
    # Black grows by half a pixel of the view, so that what lies under its corners counts too.
    step = mask.shape[1] / view.width / 2
    grown = ndimage.minimum_filter(mask, max(1, 2 * round(step / 2) + 1))
    scale = (mask.shape[1] / view.lens.width, mask.shape[0] / view.lens.height)
    place = np.floor(np.where(seen[..., None], pixels, 0) * scale).astype(int)
    column = np.clip(place[..., 0], 0, mask.shape[1] - 1)
    row = np.clip(place[..., 1], 0, mask.shape[0] - 1)
    return np.asarray(grown[row, column] & seen)


@dataclass(frozen=True)
class StaticParts:
    """Limits of `find_static_parts`, on grey values 0 to 255."""

    still: float = 0.3
    """A pixel is still where its deviation over time is below this share of the picture's median one."""
    edge: float = 8.0
    """Jump of the median picture (over two pixels) at a part's border: what stays has a border that stays."""
    smallest: float = 0.002
    """Parts below this share of the picture are no bonnet, mirror or time stamp."""
    calm: float = 2.0
    """How many times calmer a part at the lower rim is than what is two pixels outside it, where its border is no edge:
    a bonnet of the road's colour. The calm of the sky fades, as what stands before it comes and goes."""
    fewest: int = 24
    """Frames below which nothing is said."""


def find_static_parts(pictures: NDArray[np.uint8], limits: StaticParts | None = None) -> Mask:
    """What does not move while the car does, from frames (N, h, w, 3) spread over a drive: True where a pixel counts.

    A pixel of the world shows many things in the course of a drive, one of the bonnet shows the bonnet. The sky shows
    itself for long, too, but what stands in front of it moves, so that it has no border that stays: of still parts
    only those count whose border is an edge in the median picture, and what is sharp itself.
    """
    limits = limits or StaticParts()
    count, height, width = pictures.shape[:3]
    nothing = np.ones((height, width), bool)
    if count < limits.fewest:
        return nothing
    grey = pictures.astype(np.float32).mean(-1)
    usual, spread = _over_time(grey)
    # Where the exposure follows the scene the bonnet changes with it; it is still in pictures of equal brightness then.
    gain = float(np.median(grey)) / np.maximum(np.median(grey, axis=(1, 2)), 1.0)
    spread = np.minimum(spread, _over_time(grey * gain[:, None, None].clip(0.5, 2.0))[1])
    typical = float(np.median(spread))
    if typical < 4.0:  # a drive in fog or at night: nothing moves, so nothing stands out by standing still
        return nothing
    still = spread < limits.still * typical
    step = np.maximum(np.abs(_step(usual, 0)), np.abs(_step(usual, 1)))
    calm = np.log(spread + 1.0)
    fade = np.maximum(np.abs(_step(calm, 0)), np.abs(_step(calm, 1)))
    # What is still and sharp is no part of the world: letters, and the rims that part a black border from the sky.
    masked = still & (step >= limits.edge)
    # A road before the car is calm, too: where it runs into the bonnet, half the limit parts them.
    for calmer in (still, spread < limits.still / 2 * typical):
        masked |= _bordered(calmer, masked, step, fade, limits)
    masked = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(masked, 2, mode="edge")))[2:-2, 2:-2]
    labels, parts = ndimage.label(masked)
    for number in range(1, parts + 1):
        if (labels == number).mean() < limits.smallest:
            masked[labels == number] = False
    return ~masked


def _bordered(
    still: Mask, sharp: Mask, step: NDArray[np.float32], fade: NDArray[np.float32], limits: StaticParts
) -> Mask:
    """The still parts that have a border: an edge in the median picture (`step`), or, at the lower rim, a jump of the
    log of the spread (`fade`). sharp: what parts them and is found already."""
    found = np.zeros_like(still)
    labels, parts = ndimage.label(still & ~sharp)
    for number in range(1, parts + 1):
        part = ndimage.binary_dilation(labels == number, iterations=2) & still  # with its rim, which is sharp
        if part.mean() < limits.smallest:
            continue
        border = ndimage.binary_dilation(part) & ~ndimage.binary_erosion(part, border_value=1)
        is_low = bool(part[-1].any()) and part.mean() >= _BONNET
        is_calm = is_low and float(np.median(fade[border])) >= np.log(limits.calm)
        if is_calm or float(np.median(step[border])) >= limits.edge:
            found |= part
    return found


def _over_time(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The median picture, and how far four fifths of the frames stay from it at most."""
    usual = np.median(grey, axis=0)
    return usual, np.quantile(np.abs(grey - usual), 0.8, axis=0)


def _step(picture: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Jump over the two neighbours of a pixel."""
    return np.asarray(ndimage.convolve1d(picture, np.array([1.0, 0.0, -1.0], np.float32), axis=axis, mode="nearest"))
