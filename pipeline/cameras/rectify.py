"""Rectifies pictures: chooses the pinhole view of a lens, and makes its picture at the network's size in one step.

The view looks along the axis of the lens, so that poses are those of the original camera (an equirectangular image has
four views; each is a camera of its own). Its principal point is the middle of its picture, and its pixels are square. A
picture that is much larger than the view is first shrunk by a whole factor (means over blocks). Then each pixel of the
view is interpolated once (bicubic).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.cameras.camera import Camera
from pipeline.cameras.projection import Floats

DEFAULT_FOV = 100.0
"""Largest horizontal field of view of a rectified picture, degrees. A wider pinhole picture is stretched more than
threefold at its sides."""

SPHERE_VIEWS = {"front": 0.0, "left": -90.0, "right": 90.0, "rear": 180.0}
"""Views of an equirectangular image, degrees to the right of its middle."""

_MOST_NARROWED = 1.5  # focal length of the narrowest view that is made to fill its picture, over the widest one's

Outside = tuple[int, int, int]
GREY: Outside = (128, 128, 128)  # what the network sees where the lens saw nothing: near its mean


@dataclass(frozen=True)
class View:
    """A pinhole camera at the place of `lens`, which looks along its axis: width x height square pixels, the
    principal point in the middle; focal: length in pixels."""

    lens: Camera
    width: int
    height: int
    focal: float

    @property
    def pinhole(self) -> Camera:
        """The camera of the rectified picture."""
        return Camera("pinhole", self.width, self.height, self.focal, self.focal, self.width / 2, self.height / 2)

    def enlarged(self, long_side: int) -> View:
        """The same view with more pixels: the largest whole multiple of its size that is no wider than the lens'
        picture and whose long side is at most `long_side`."""
        most = min(long_side // max(self.width, self.height), self.lens.width // self.width)
        times = max(most, 1)
        return replace(self, width=times * self.width, height=times * self.height, focal=times * self.focal)

    @property
    def degrees_across(self) -> float:
        """Horizontal field of view."""
        return math.degrees(2 * math.atan(self.width / 2 / self.focal))

    def lens_pixels(self) -> Floats:
        """The place in the lens' picture of each pixel's centre (height, width, 2); NaN where it is not seen."""
        column, row = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        return self._seen_at(np.stack([column, row], -1))

    def seen(self) -> NDArray[np.bool_]:
        """(height, width): True for the pixels of the rectified picture that the lens sees."""
        return np.asarray(np.isfinite(self.lens_pixels()).all(axis=-1))

    def is_filled(self) -> bool:
        """Whether the lens sees every pixel at the rim of the rectified picture."""
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

    A barrel lens sees less above and below than a pinhole of the same width, so that the widest view would have empty
    bands at its upper and lower rim. Such bands are the same in every frame; with them the network's scale was two to
    four times as uneven (README). Where filling the picture would narrow the view by more than a third, it stays as
    wide as the lens. Raises ValueError where fov is no field of view of a pinhole.
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


@lru_cache(maxsize=8)
def common_views(lenses: tuple[Camera, ...], width: int, height: int, fov: float = DEFAULT_FOV) -> tuple[View, ...]:
    """For each of a rig's cameras the view of width x height pixels; all of them are of one pinhole camera.

    Its focal length is that of the camera whose own view (`view_of`) has most in common with the views of all others:
    the sum of the shares of their areas, smaller over larger. So most cameras of a rig lose nothing. A wider camera
    loses its rim, a narrower one does not fill its picture. Of equally good ones the narrowest is taken, which all
    lenses fill. Raises ValueError as `view_of` does.
    """
    own = [view_of(lens, width, height, fov).focal for lens in lenses]

    def shared(focal: float) -> float:
        return sum((min(focal, one) / max(focal, one)) ** 2 for one in own)

    focal = max(own, key=lambda one: (round(shared(one), 9), one))
    return tuple(View(lens, width, height, focal) for lens in lenses)


def enlarged(views: Sequence[View], long_side: int) -> tuple[View, ...]:
    """One view as `View.enlarged` gives it; those of a rig's cameras all the same number of times: the whole number
    with which half of the pictures are about as fine as those of the lenses; their long side is at most `long_side`.
    With coarser pictures corners are placed less exactly."""
    if len(views) < 2:
        return tuple(view.enlarged(long_side) for view in views)
    fineness = sorted(view.lens.fx / view.focal for view in views)[len(views) // 2]
    times = max(min(math.floor(fineness + 0.5), long_side // max(views[0].width, views[0].height)), 1)
    return tuple(
        replace(view, width=times * view.width, height=times * view.height, focal=times * view.focal) for view in views
    )


class LensPicture:
    """An RGB picture of a lens, and the same shrunk by whole factors, each made once for all views of it."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self._shrunk: dict[int, NDArray[np.uint8]] = {}

    def shrunk(self, factor: int) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of the picture, means over blocks of factor x factor."""
        if factor not in self._shrunk:
            self._shrunk[factor] = np.asarray(self._image.reduce(factor) if factor > 1 else self._image)
        return self._shrunk[factor]


@dataclass(frozen=True, eq=False)
class Remap:
    """The look-up table of one view. factor: by which a picture is shrunk first; across, down (height, width) float32:
    the place in the shrunk picture of each pixel of the view, counted from 0; unseen: pixels that the lens does not
    see."""

    view: View
    factor: int
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    unseen: NDArray[np.bool_]

    def apply(self, image: Image.Image | LensPicture) -> NDArray[np.uint8]:
        """The view's picture, uint8 (height, width, 3), from an RGB picture of the lens; GREY where the lens sees
        nothing."""
        pixels = (image if isinstance(image, LensPicture) else LensPicture(image)).shrunk(self.factor)
        border = cv2.BORDER_WRAP if self.view.lens.model == "equirectangular" else cv2.BORDER_REPLICATE
        out = cv2.remap(pixels, self.across, self.down, cv2.INTER_CUBIC, borderMode=border)
        out[self.unseen] = GREY
        return np.asarray(out, np.uint8)


@lru_cache(maxsize=32)
def remap_of(view: View) -> Remap:
    """The look-up table of a view. It is kept, since every segment of a drive needs it; the frames of a rig's cameras,
    at most 16, alternate, and each has two views."""
    pixels = view.lens_pixels()
    unseen: NDArray[np.bool_] = np.any(np.isnan(pixels), axis=-1)
    # Median distance between neighbouring pixels of the view, in pixels of the source.
    steps = [np.linalg.norm(np.diff(pixels, axis=axis), axis=-1) for axis in (0, 1)]
    typical = float(np.nanmedian(np.concatenate([step.ravel() for step in steps])))
    factor = max(1, round(typical)) if math.isfinite(typical) else 1
    while view.lens.model == "equirectangular" and view.lens.width % factor:
        factor -= 1  # whole blocks from edge to edge, which are neighbours
    place = np.where(unseen[..., None], 0.0, pixels) / factor - 0.5
    return Remap(
        view,
        factor,
        np.ascontiguousarray(place[..., 0], np.float32),
        np.ascontiguousarray(place[..., 1], np.float32),
        unseen,
    )
