"""The division model of a lens: where a pinhole in its place would see what a distorted picture shows.

A pixel at the distance r from the centre, in units of a radius, moves by 1 / (1 + k1 r^2 + k2 r^4) along its ray from
the centre (Fitzgibbon 2001, with a second coefficient). Both barrels and fisheyes have few coefficients in it, and it
needs no iteration where pixels are given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera, Model

Array = NDArray[np.float64]

_LEAST = 0.05  # smallest denominator: beyond it the model sees nothing
_NEWTON, _FOUND = 5, 0.01  # steps; pixels: largest error of a pixel that they find
_FITS = 0.1  # pixels: with a larger error the radial-tangential model does not fit a lens
_SAMPLES = 64  # radii at which a lens model is fitted


@dataclass(frozen=True, eq=False)
class RadialLens:
    """centre (2,) in pixels; radius: the unit of distances, pixels; bend (2,): k1 and k2, negative for barrels."""

    centre: Array
    radius: float
    bend: Array

    def _divided(self, xy: Array) -> tuple[Array, Array, Array]:
        """Distances from the centre (n, 2) in pixels; squares of the radii (n,); denominators (n,)."""
        away = xy - self.centre
        squared = (away[:, 0] ** 2 + away[:, 1] ** 2) / self.radius**2
        return away, squared, np.maximum(1 + squared * (self.bend[0] + self.bend[1] * squared), _LEAST)

    def straight(self, xy: Array) -> Array:
        """Pixels (n, 2) of the picture -> pixels of a pinhole with the same centre."""
        away, _, divisor = self._divided(xy)
        return np.asarray(self.centre + away / divisor[:, None])

    def bent(self, straight: Array, near: Array) -> Array:
        """Pixels (n, 2) whose `straight` is given (n, 2), by Newton's method on their distance from the centre, which
        begins at that of `near` (n, 2); where that finds none, `near` moved like the pinhole's pixel."""
        k1, k2 = self.bend
        away = straight - self.centre
        far = np.hypot(away[:, 0], away[:, 1]) / self.radius
        begin = near - self.centre
        at = np.hypot(begin[:, 0], begin[:, 1]) / self.radius
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for _ in range(_NEWTON):  # far * divisor(at) = at
                squared = at * at
                missed = far * (1 + squared * (k1 + k2 * squared)) - at
                at = at - missed / (far * at * (2 * k1 + 4 * k2 * squared) - 1)
            squared = at * at
            divisor = 1 + squared * (k1 + k2 * squared)
            found = (np.abs(far * divisor - at) < _FOUND / self.radius) & (at >= 0) & (divisor > _LEAST)
            found &= divisor - squared * (2 * k1 + 4 * k2 * squared) > 0
            answer = self.centre + away * divisor[:, None]
        return np.where(found[:, None], answer, near + straight - self.straight(near))

    def by_bend(self, xy: Array) -> Array:
        """Derivatives (2, 2, n) of `straight` by k1 and k2: coefficient, x and y, pixel."""
        away, squared, divisor = self._divided(xy)
        first = -away.T * squared / divisor**2
        return np.stack([first, first * squared])

    def by_pixel(self, xy: Array) -> Array:
        """Derivatives (2, 2, n) of `straight` by the pixel: x and y of the pixel, x and y of the answer."""
        away, squared, divisor = self._divided(xy)
        slope = -(2 * self.bend[0] + 4 * self.bend[1] * squared) / (self.radius**2 * divisor**2)
        answer = away.T[:, None] * away.T * slope
        answer[[0, 1], [0, 1]] += 1 / divisor
        return np.asarray(answer)

    def stretch(self, xy: Array) -> Array:
        """By how much (n,) a distance along the radius becomes longer in `straight`; infinite where the model ends."""
        _, squared, divisor = self._divided(xy)
        slope = squared * (2 * self.bend[0] + 4 * self.bend[1] * squared)
        with np.errstate(divide="ignore"):
            answer = (divisor - slope) / divisor**2
        return np.where((divisor > _LEAST) & (answer > 0), answer, np.inf)

    def camera(self, focal: float, width: int, height: int, most_stretch: float = np.inf) -> tuple[Camera, float]:
        """The Camera that projects like this lens in a picture of width x height pixels, and the largest difference in
        pixels: radial-tangential where that fits, else a fisheye (Kannala-Brandt). focal: of the straightened
        picture, pixels; most_stretch: radii at which a pixel is stretched more do not count."""
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
        far = float(np.linalg.norm(corners - self.centre, axis=1).max())
        seen = np.linspace(0, far, _SAMPLES)
        along = self.centre + np.stack([seen, np.zeros(_SAMPLES)], 1)
        stretched = self.stretch(along)
        usable = np.cumprod(np.isfinite(stretched) & (stretched <= most_stretch)).astype(bool)
        seen = seen[usable]
        tangent = (self.straight(along[usable])[:, 0] - self.centre[0]) / focal
        params, error = _fitted("radtan", tangent, seen / focal)
        model: Model = "radtan"
        if error * focal > _FITS:  # a wide lens
            params, error = _fitted("fisheye", tangent, seen / focal)
            model = "fisheye"
        centre = (float(self.centre[0]), float(self.centre[1]))
        return Camera(model, width, height, focal, focal, *centre, params), error * focal


def _fitted(model: str, tangent: Array, seen: Array) -> tuple[tuple[float, ...], float]:
    """Parameters of a lens model that brings rays at these tangents (n,) to these distances (n,) from the centre, both
    in focal lengths; and its largest error."""
    base = tangent if model == "radtan" else np.arctan(tangent)
    powers = (3, 5, 7) if model == "radtan" else (3, 5, 7, 9)
    columns = np.stack([base**power for power in powers], 1)
    # The weight is that of the pixels at a radius. Bounded, so that few samples do not give large coefficients.
    weight = np.sqrt(np.maximum(seen, 1e-6))[:, None]
    answer = scipy.optimize.lsq_linear(columns * weight, (seen - base) * weight[:, 0], bounds=(-2.0, 2.0)).x
    error = float(np.abs(columns @ answer + base - seen).max())
    found = [float(one) for one in answer]
    return (found[0], found[1], 0.0, 0.0, found[2]) if model == "radtan" else tuple(found), error
