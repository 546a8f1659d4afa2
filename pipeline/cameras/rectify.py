"""A lens' picture made a pinhole's, at the network's size, in one step: which view is taken, and the remap itself.

The view looks along the axis of the lens, so that poses are of the original camera (spherical images have four
views, each a camera of its own). Its principal point is the middle of its picture, and its pixels are square. A picture
that is much larger than the view is first shrunk by a whole factor (means over blocks, which costs no interpolation).
Then every pixel of the view is looked up once, bicubic.
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

SPHERE_VIEWS = {"front": 0.0, "left": -90.0, "right": 90.0, "rear": 180.0}
"""Ways to look out of a sphere's picture, degrees to the right of its middle."""

_MOST_NARROWED = 1.5  # focal length of the narrowest view that is made to fill its picture, over the widest one's

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
        return self._seen_at(np.stack([column, row], -1))

    def seen(self) -> NDArray[np.bool_]:
        """(height, width): which pixels of the rectified picture the lens saw."""
        return np.asarray(np.isfinite(self.lens_pixels()).all(axis=-1))

    def is_filled(self) -> bool:
        """Whether the lens saw all of the rectified picture, by the pixels of its rim."""
        across, down = np.arange(self.width) + 0.5, np.arange(self.height) + 0.5
        rows = [np.stack([across, np.full(self.width, y)], -1) for y in (down[0], down[-1])]
        columns = [np.stack([np.full(self.height, x), down], -1) for x in (across[0], across[-1])]
        return bool(np.isfinite(self._seen_at(np.concatenate([*rows, *columns]))).all())

    def _seen_at(self, own: Floats) -> Floats:
        """Pixels (..., 2) of the view -> of the lens' picture; NaN outside of it."""
        pixels = self.lens.project(self.pinhole.unproject(own))
        inside = (pixels >= 0) & (pixels <= (self.lens.width, self.lens.height))
        return np.where(np.all(inside, axis=-1)[..., None], pixels, np.nan)


@lru_cache(maxsize=8)
def view_of(lens: Camera, width: int, height: int, fov: float = DEFAULT_FOV) -> View:
    """The widest view of width x height pixels that the lens' picture fills, at most `fov` degrees across.

    A barrel lens sees less above and below than a pinhole that is as wide: such a view would have bands without a
    picture at its upper and lower rim. They stay where they are the same in every frame, and the network took them for
    a sign of a car that stands: scale came out two to four times as uneven (README). The view is as wide as the lens
    where filling it would cost more than a third of that. Raises ValueError where fov is no angle of a pinhole.
    """
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
    view = View(lens, width, height, width / 2 / math.tan(half))
    narrow = replace(view, focal=view.focal * _MOST_NARROWED)
    if view.is_filled() or not narrow.is_filled():
        return view
    low, high = view.focal, narrow.focal
    while high / low > 1 + 1e-6:
        middle = replace(view, focal=(low + high) / 2)
        low, high = (low, middle.focal) if middle.is_filled() else (middle.focal, high)
    return replace(view, focal=high)


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
        border = cv2.BORDER_WRAP if self.view.lens.model == "equirectangular" else cv2.BORDER_REPLICATE
        out = cv2.remap(pixels, self.across, self.down, cv2.INTER_CUBIC, borderMode=border)
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
    while view.lens.model == "equirectangular" and view.lens.width % factor:
        factor -= 1  # blocks end at the edge, behind which the first one follows
    place = np.where(unseen[..., None], 0.0, pixels) / factor - 0.5
    return Remap(
        view,
        factor,
        np.ascontiguousarray(place[..., 0], np.float32),
        np.ascontiguousarray(place[..., 1], np.float32),
        unseen,
    )
