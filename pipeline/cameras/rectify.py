"""A lens' picture made a pinhole's, at the network's size, in one step: which view is taken, and the remap itself.

The view looks along the lens' axis, so that poses are of the original camera; its principal point is the middle of
its picture and its pixels are square. A picture that is much larger than the view is first shrunk by a whole factor
(means over blocks, which costs no interpolation), then every pixel of the view is looked up once, bicubic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.projection import Floats

DEFAULT_FOV = 100.0
"""Degrees across that a rectified picture has at most: beyond it a pinhole stretches its rim more than threefold."""

Outside = tuple[int, int, int]
GREY: Outside = (128, 128, 128)  # what the network sees where the lens saw nothing: near its mean


@dataclass(frozen=True)
class View:
    """A pinhole's picture of width x height pixels with square pixels and the principal point in its middle, through
    which `lens` is looked at."""

    lens: Camera
    width: int
    height: int
    focal: float

    @property
    def pinhole(self) -> Camera:
        """The camera that the rectified picture is of."""
        return Camera("pinhole", self.width, self.height, self.focal, self.focal, self.width / 2, self.height / 2)

    def enlarged(self, long_side: int) -> View:
        """The same view in more pixels, where the lens' picture has them: a whole multiple of its size whose long side
        is at most `long_side`."""
        most = min(long_side // max(self.width, self.height), self.lens.width // self.width)
        times = max(most, 1)
        return replace(self, width=times * self.width, height=times * self.height, focal=times * self.focal)

    @property
    def degrees_across(self) -> float:
        """Horizontal field of view."""
        return math.degrees(2 * math.atan(self.width / 2 / self.focal))

    def lens_pixels(self) -> Floats:
        """Where in the lens' picture the centre of each pixel is seen (height, width, 2); NaN where it is not."""
        column, row = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        rays = self.pinhole.unproject(np.stack([column, row], -1))
        pixels = self.lens.project(rays)
        inside = (pixels >= 0) & (pixels <= (self.lens.width, self.lens.height))
        return np.where(np.all(inside, axis=-1)[..., None], pixels, np.nan)

    def seen(self) -> NDArray[np.bool_]:
        """(height, width): which pixels of the rectified picture the lens saw."""
        return np.asarray(np.isfinite(self.lens_pixels()).all(axis=-1))


def view_of(lens: Camera, width: int, height: int, fov: float = DEFAULT_FOV) -> View:
    """The view of width x height pixels that shows as much as the lens sees to the left and right of its axis, at most
    `fov` degrees across. Raises ValueError where fov is no angle of a pinhole."""
    if not 10 <= fov <= 150:
        raise ValueError(f"--camera.fov must be 10 to 150 degrees, not {fov:g}")
    half = math.radians(fov) / 2
    if lens.model != "equirectangular":
        edges = np.array([[0.0, lens.cy], [lens.width, lens.cy]])
        rays = lens.unproject(edges)
        seen = np.arctan2(np.abs(rays[:, 0]), rays[:, 2])
        known = seen[np.isfinite(seen)]
        # An edge without a ray lies outside the lens' circle: there the limit decides.
        half = min([half, *known.tolist()])
    return View(lens, width, height, width / 2 / math.tan(half))


@dataclass(frozen=True, eq=False)
class Remap:
    """The look-up of one view, made once: `factor` by which a picture is shrunk first, and for each pixel of the view
    its place in that (height, width) float32, counted from 0."""

    view: View
    factor: int
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    unseen: NDArray[np.bool_]

    def apply(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture of the lens -> the view's, uint8 (height, width, 3); GREY where the lens saw nothing."""
        pixels = np.asarray(image.reduce(self.factor) if self.factor > 1 else image)
        out = cv2.remap(pixels, self.across, self.down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        out[self.unseen] = GREY
        return np.asarray(out, np.uint8)


@lru_cache(maxsize=8)
def remap_of(view: View) -> Remap:
    """The look-up of a view; kept, as every segment of a drive asks for it again."""
    pixels = view.lens_pixels()
    unseen: NDArray[np.bool_] = np.any(np.isnan(pixels), axis=-1)
    # Source pixels that a pixel of the view steps over, along its rows and columns: typically.
    steps = [np.linalg.norm(np.diff(pixels, axis=axis), axis=-1) for axis in (0, 1)]
    typical = float(np.nanmedian(np.concatenate([step.ravel() for step in steps])))
    factor = max(1, round(typical)) if math.isfinite(typical) else 1
    place = np.where(unseen[..., None], 0.0, pixels) / factor - 0.5
    return Remap(
        view,
        factor,
        np.ascontiguousarray(place[..., 0], np.float32),
        np.ascontiguousarray(place[..., 1], np.float32),
        unseen,
    )
