"""A calibrated camera: lens model, image size and parameters; projects rays to pixels and pixels to rays.

The centre of the first pixel is (0.5, 0.5). Readers and writers of other conventions convert.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from pipeline.cameras import projection
from pipeline.cameras.projection import Floats

Model = Literal["pinhole", "radtan", "fisheye", "eucm", "equirectangular"]
MODELS: tuple[Model, ...] = get_args(Model)
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "pinhole": (0,),
    "radtan": (4, 5, 8),
    "fisheye": (4,),
    "eucm": (2,),
    "equirectangular": (0,),
}
"""The possible numbers of lens parameters of each model."""


@dataclass(frozen=True)
class Camera:
    """One camera. Raises ValueError, with the name of the field, for invalid numbers.

    model: pinhole; radtan (OpenCV: k1 k2 p1 p2 [k3 [k4 k5 k6]]); fisheye (Kannala-Brandt: k1 k2 k3 k4); eucm (alpha,
    beta); equirectangular (fx and fy are pixels per radian; cx is the column in the direction of view; the left and the
    right edge of the image are neighbours). fx fy cx cy in pixels of an image of width x height.
    """

    model: Model
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    params: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        for name in ("width", "height"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 pixel, got {getattr(self, name)}")
        for name in ("fx", "fy"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a focal length above zero, got {getattr(self, name)}")
        for name in ("cx", "cy"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number, got {getattr(self, name)}")
        if len(self.params) not in PARAMETERS[self.model]:
            wanted = " or ".join(map(str, PARAMETERS[self.model]))
            raise ValueError(f"params: expected {wanted} numbers for {self.model}, got {len(self.params)}")
        if not all(map(math.isfinite, self.params)):
            raise ValueError(f"params: expected finite numbers, got {self.params}")
        if self.model == "eucm" and not (0 <= self.params[0] <= 1 and self.params[1] > 0):
            raise ValueError(f"params: expected alpha between 0 and 1 and beta above 0, got {self.params}")

    @staticmethod
    def equirectangular(width: int, height: int) -> Camera:
        """A camera that sees 360 x 180 degrees; its direction of view is the middle of the image."""
        return Camera("equirectangular", width, height, width / (2 * math.pi), height / math.pi, width / 2, height / 2)

    def turned(self, degrees: float) -> Camera:
        """This equirectangular camera with its direction of view rotated to the right by `degrees`; the image is the
        same. Raises ValueError for another lens."""
        if self.model != "equirectangular":
            raise ValueError(f"only an equirectangular camera sees to all sides, not a {self.model}")
        return replace(self, cx=(self.cx + math.radians(degrees) * self.fx) % self.width)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Camera:  # the constructor checks each value
        """The camera of a dictionary that `to_dict` returned. Raises ValueError for invalid numbers."""
        return Camera(**{**values, "params": tuple(values["params"])})

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "params": list(self.params)}

    @property
    def is_pinhole(self) -> bool:
        """Whether straight lines stay straight: a pinhole, or a lens whose coefficients are all zero."""
        return self.model == "pinhole" or (self.model == "radtan" and not any(self.params))

    def project(self, rays: Floats) -> Floats:
        """Pixels (..., 2) of rays or points (..., 3) of the camera's frame; NaN where the lens does not see. A pixel
        may lie outside the image."""
        rays = np.asarray(rays, np.float64)
        if self.model == "pinhole":
            xy = projection.pinhole(rays)
        elif self.model == "radtan":
            xy = projection.radtan(rays, self.params)
        elif self.model == "fisheye":
            xy = projection.fisheye(rays, self.params)
        elif self.model == "eucm":
            xy = projection.eucm(rays, self.params)
        else:
            return self._around(projection.equirectangular(rays) * (self.fx, self.fy) + (self.cx, self.cy))
        return np.asarray(xy * (self.fx, self.fy) + (self.cx, self.cy))

    def unproject(self, pixels: Floats) -> Floats:
        """Unit rays (..., 3) of pixels (..., 2); NaN for pixels that no ray reaches."""
        xy = (np.asarray(pixels, np.float64) - (self.cx, self.cy)) / (self.fx, self.fy)
        if self.model == "pinhole":
            return projection.pinhole_rays(xy)
        if self.model == "radtan":
            return projection.radtan_rays(xy, self.params)
        if self.model == "fisheye":
            return projection.fisheye_rays(xy, self.params)
        if self.model == "eucm":
            return projection.eucm_rays(xy, self.params)
        # Columns inside the image may lie up to a whole turn from cx; columns outside of it are not wrapped.
        across = np.asarray(pixels, np.float64)[..., 0]
        inside = (across >= 0) & (across <= self.width)
        longitude = np.where(inside, np.remainder(xy[..., 0] + math.pi, 2 * math.pi) - math.pi, xy[..., 0])
        xy[..., 0] = np.where(np.abs(xy[..., 0]) > math.pi, longitude, xy[..., 0])
        return projection.equirectangular_rays(xy)

    def _around(self, pixels: Floats) -> Floats:
        """Pixels (..., 2) of an equirectangular image, whose columns outside of it are wrapped into it."""
        across = pixels[..., 0]
        beyond = (across < 0) | (across > self.width)
        across = np.where(beyond, np.remainder(across, 2 * math.pi * self.fx), across)
        return np.stack([across, pixels[..., 1]], -1)

    def resized(self, width: int, height: int) -> Camera:
        """The same lens, whose image is scaled to another size."""
        across, down = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * across,
            fy=self.fy * down,
            cx=self.cx * across,
            cy=self.cy * down,
        )

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx fy cx cy."""
        return self.fx, self.fy, self.cx, self.cy

    @property
    def matrix(self) -> Floats:
        """fx fy cx cy as a (3, 3) matrix."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])
