"""Lens models as plain functions: rays of the camera's frame to normalised image coordinates and back.

Normalised coordinates (..., 2) are pixels less the principal point, over the focal lengths. Rays (..., 3) have any
length but zero, OpenCV axes; `*_rays` give unit length. NaN marks what a lens does not see.
Sources: radial-tangential and fisheye (Kannala and Brandt, PAMI 2006) as OpenCV's calib3d writes them, where the
coefficients come in the order k1 k2 p1 p2 k3 k4 k5 k6 and k1 k2 k3 k4; EUCM from Khomutenko et al., RA-L 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 30  # of Newton's method, which needs five or so away from a lens' rim
_EXACT = 1e-12  # normalised units left over when an inversion counts as done


def pinhole(rays: Floats) -> Floats:
    """Rays to (x / z, y / z)."""
    z = np.where(rays[..., 2:] > 0, rays[..., 2:], np.nan)
    return np.asarray(rays[..., :2] / z)


def pinhole_rays(xy: Floats) -> Floats:
    """The inverse of `pinhole`."""
    return _unit(np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], -1))


def radtan_limit(coefficients: Sequence[float]) -> float:
    """The largest |(x / z, y / z)| up to which the distorted radius grows: beyond it the formula folds back."""
    k1, k2, _, _, k3, k4, k5, k6 = _eight(coefficients)
    over, under = np.array([1, k1, k2, k3]), np.array([1, k4, k5, k6])  # in r^2
    # d/dr of r * over / under, times under^2: over * under + 2 s (over' under - over under'), s = r^2
    slope = polynomial.polyadd(
        polynomial.polymul(over, under),
        2
        * polynomial.polymulx(
            polynomial.polysub(
                polynomial.polymul(polynomial.polyder(over), under),
                polynomial.polymul(over, polynomial.polyder(under)),
            )
        ),
    )
    return math.sqrt(min(_first_root(slope), _first_root(under)))


def radtan(rays: Floats, coefficients: Sequence[float]) -> Floats:
    """Rays through a lens with radial and tangential distortion, 4, 5 or 8 coefficients."""
    xy = pinhole(rays)
    xy = np.where(np.hypot(xy[..., 0], xy[..., 1])[..., None] <= radtan_limit(coefficients), xy, np.nan)
    return _distorted(xy, _eight(coefficients))[0]


def radtan_rays(xy: Floats, coefficients: Sequence[float]) -> Floats:
    """The inverse of `radtan`, by Newton's method."""
    eight, limit = _eight(coefficients), radtan_limit(coefficients)
    guess = np.array(xy, np.float64)
    radius = np.hypot(guess[..., 0], guess[..., 1])
    # A start inside the part where the formula is one to one.
    guess *= np.minimum(1.0, 0.9 * limit / np.maximum(radius, 1e-300))[..., None]
    with np.errstate(all="ignore"):
        for _ in range(_STEPS):
            bent, jacobian = _distorted(guess, eight)
            missing = xy - bent
            determinant = jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
            step = np.stack(
                [
                    jacobian[..., 1, 1] * missing[..., 0] - jacobian[..., 0, 1] * missing[..., 1],
                    jacobian[..., 0, 0] * missing[..., 1] - jacobian[..., 1, 0] * missing[..., 0],
                ],
                -1,
            )
            guess = guess + step / determinant[..., None]
            # Near the rim a step can jump over it, where the slope has the other sign.
            radius = np.hypot(guess[..., 0], guess[..., 1])
            guess *= np.where(radius > limit, 0.999 * limit / radius, 1.0)[..., None]
            if not np.nanmax(np.abs(step), initial=0.0) > _EXACT:
                break
        left = np.abs(_distorted(guess, eight)[0] - xy).max(-1)
    return pinhole_rays(np.where((left < 1e-9)[..., None], guess, np.nan))


def fisheye_limit(coefficients: Sequence[float]) -> float:
    """The largest angle (radians, at most pi) off the axis up to which the image radius grows."""
    k1, k2, k3, k4 = coefficients
    return min(math.sqrt(_first_root(np.array([1, 3 * k1, 5 * k2, 7 * k3, 9 * k4]))), math.pi)


def fisheye(rays: Floats, coefficients: Sequence[float]) -> Floats:
    """Rays through a Kannala-Brandt lens of four coefficients; they may come from behind."""
    radius = np.hypot(rays[..., 0], rays[..., 1])
    angle = np.arctan2(radius, rays[..., 2])
    bent = np.where(angle <= fisheye_limit(coefficients), _bent(angle, coefficients), np.nan)
    scale = np.where(radius > 0, bent / np.where(radius > 0, radius, 1), np.where(rays[..., 2] > 0, 1.0, np.nan))
    return np.asarray(rays[..., :2] * scale[..., None])


def fisheye_rays(xy: Floats, coefficients: Sequence[float]) -> Floats:
    """The inverse of `fisheye`, by Newton's method."""
    radius = np.hypot(xy[..., 0], xy[..., 1])
    limit = fisheye_limit(coefficients)
    slope_of = np.array([1, *(k * n for k, n in zip(coefficients, (3, 5, 7, 9), strict=True))])
    angle = np.minimum(radius, 0.9 * limit)
    for _ in range(_STEPS):
        missing = radius - _bent(angle, coefficients)
        step = missing / np.maximum(polynomial.polyval(angle**2, slope_of), 1e-9)
        angle = np.clip(angle + step, 0, limit)
        if not np.nanmax(np.abs(missing), initial=0.0) > _EXACT:
            break
    angle = np.where(np.abs(_bent(angle, coefficients) - radius) < 1e-9, angle, np.nan)
    sine = np.where(radius > 0, np.sin(angle) / np.where(radius > 0, radius, 1), 1.0)
    return np.concatenate([xy * sine[..., None], np.cos(angle)[..., None]], -1)


def eucm(rays: Floats, coefficients: Sequence[float]) -> Floats:
    """Rays through an extended unified camera of alpha (0 to 1) and beta (above 0)."""
    alpha, beta = coefficients
    x, y, z = np.moveaxis(rays, -1, 0)
    distance = np.sqrt(beta * (x * x + y * y) + z * z)
    steepest = (alpha if alpha <= 0.5 else 1 - alpha) / max(alpha, 1 - alpha)
    below = np.where(z > -steepest * distance, alpha * distance + (1 - alpha) * z, np.nan)
    return np.asarray(rays[..., :2] / below[..., None])


def eucm_rays(xy: Floats, coefficients: Sequence[float]) -> Floats:
    """The inverse of `eucm`, in closed form."""
    alpha, beta = coefficients
    square = (xy * xy).sum(-1)
    root = 1 - (2 * alpha - 1) * beta * square
    root = np.sqrt(np.where(root >= 0, root, np.nan))
    z = (1 - beta * alpha * alpha * square) / (alpha * root + 1 - alpha)
    return _unit(np.concatenate([xy, z[..., None]], -1))


def equirectangular(rays: Floats) -> Floats:
    """Rays to longitude (right positive) and latitude (down positive), radians."""
    x, y, z = np.moveaxis(rays, -1, 0)
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], -1)


def equirectangular_rays(xy: Floats) -> Floats:
    """The inverse of `equirectangular`; NaN beyond the poles and the back."""
    inside = (np.abs(xy[..., 0]) <= math.pi + 1e-12) & (np.abs(xy[..., 1]) <= math.pi / 2 + 1e-12)
    longitude, latitude = np.moveaxis(np.where(inside[..., None], xy, np.nan), -1, 0)
    level = np.cos(latitude)
    return np.stack([level * np.sin(longitude), np.sin(latitude), level * np.cos(longitude)], -1)


def _distorted(xy: Floats, eight: Sequence[float]) -> tuple[Floats, Floats]:
    """Distorted coordinates (..., 2) and their Jacobian (..., 2, 2)."""
    k1, k2, p1, p2, k3, k4, k5, k6 = eight
    x, y = xy[..., 0], xy[..., 1]
    s = x * x + y * y
    over, under = 1 + s * (k1 + s * (k2 + s * k3)), 1 + s * (k4 + s * (k5 + s * k6))
    radial = over / under
    slope = ((k1 + s * (2 * k2 + 3 * k3 * s)) - radial * (k4 + s * (2 * k5 + 3 * k6 * s))) / under  # d radial / d s
    bent = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (s + 2 * x * x),
            y * radial + p1 * (s + 2 * y * y) + 2 * p2 * x * y,
        ],
        -1,
    )
    mixed = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    jacobian = np.stack(
        [
            np.stack([radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, mixed], -1),
            np.stack([mixed, radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x], -1),
        ],
        -2,
    )
    return bent, jacobian


def _bent(angle: Floats, coefficients: Sequence[float]) -> Floats:
    return np.asarray(angle * polynomial.polyval(angle**2, np.array([1, *coefficients])))


def _eight(coefficients: Sequence[float]) -> tuple[float, ...]:
    return (*coefficients, *(0.0,) * (8 - len(coefficients)))


def _first_root(ascending: NDArray[np.floating]) -> float:
    """The smallest real root above zero of a polynomial; infinite where it has none."""
    trimmed = polynomial.polytrim(np.asarray(ascending, np.float64), 1e-12)  # a root beyond 1e6 is none
    roots = polynomial.polyroots(trimmed) if len(trimmed) > 1 else np.zeros(0)
    real = roots.real[(np.abs(roots.imag) < 1e-9 * np.maximum(1, np.abs(roots))) & (roots.real > 0)]
    return float(real.min(initial=math.inf))


def _unit(rays: Floats) -> Floats:
    return np.asarray(rays / np.linalg.norm(rays, axis=-1, keepdims=True))
