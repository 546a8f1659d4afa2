"""Colours of points, chunks and verdicts: the same ones in the viewer, the figures and the pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = {"pass": (76, 195, 138), "warn": (240, 180, 70), "fail": (236, 92, 92)}
"""Colour of a verdict, sRGB."""
PATH = (88, 166, 255)
"""Colour of the result's own trajectory."""
TRUTH = (230, 230, 230)
"""Colour of the ground truth."""
OTHERS = ((240, 136, 62), (188, 140, 255), (86, 211, 194), (255, 123, 172), (210, 200, 90))
"""Colours of results that are compared with, in turn."""

_GOLDEN = 0.618033988749895  # difference of hue between neighbours, 1 is a full circle: near chunks differ most
# Eight stops of viridis (CC0), from low to high.
_STOPS = np.array(
    [
        (68, 1, 84),
        (70, 50, 127),
        (54, 92, 141),
        (39, 127, 142),
        (31, 161, 135),
        (74, 194, 109),
        (159, 218, 58),
        (253, 231, 37),
    ],
    np.float64,
)


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def chunk_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3): one colour for each chunk; neighbours differ much in hue."""
    hue = (np.arange(count) * _GOLDEN) % 1.0
    # HSV with a saturation of 0.6 and a value of 245, written out to avoid importing matplotlib
    part = (hue[:, None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    ramp = np.clip(np.minimum(part, 4 - part), 0, 1)
    return np.round(245 * (1 - 0.6 * ramp)).astype(np.uint8)


def confidence_range(confidence: NDArray[np.floating]) -> tuple[float, float]:
    """The confidences at the ends of the colour scale: the 2nd and 98th percentile of (n,)."""
    if not len(confidence):
        return 1.0, 2.0
    low, high = (float(value) for value in np.percentile(confidence, (2, 98)))
    return low, high if high > low else low + 1.0


def confidence_colours(confidence: NDArray[np.floating], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """(n, 3): viridis over the logarithm of confidence (n,), from limits[0] to limits[1]."""
    low, high = np.log(limits[0]), np.log(limits[1])
    place = np.clip((np.log(np.maximum(confidence, 1e-6)) - low) / (high - low), 0, 1) * (len(_STOPS) - 1)
    below = np.minimum(place.astype(np.int64), len(_STOPS) - 2)
    part = (place - below)[:, None]
    return np.round(_STOPS[below] * (1 - part) + _STOPS[below + 1] * part).astype(np.uint8)


def scale_css() -> str:
    """The confidence scale as a CSS gradient, low to high."""
    return "linear-gradient(90deg," + ",".join(hexadecimal(tuple(int(v) for v in stop)) for stop in _STOPS) + ")"  # type: ignore[arg-type]
