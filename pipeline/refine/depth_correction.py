"""Brings the network's dense depth onto the adjusted points, frame by frame: a smooth factor over the picture.

log factor = s_f + B(x, y) c_f with low polynomials B of the place in the picture. Coefficients come from the points
of the frame and of its neighbours, robustly, and shrink to zero where there are few: with no point the scale is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TERMS = 6  # of the polynomial: 1, x, y, x^2, xy, y^2
_REACH = 3  # frames to either side whose points count
_FADE = 0.6  # weight of a neighbour's points, to the power of its distance
_PRIOR = (4.0, 12.0, 12.0, 40.0, 40.0, 40.0)  # points' worth of "no correction" for each term
_MOST = 0.7  # largest log factor that is believed
_ROUNDS = 4


def basis(xy: Array) -> Array:
    """(..., TERMS) of places (..., 2), which run from -1 to 1 over the grid."""
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)


def grid_places(height: int, width: int) -> Array:
    """(h, w, 2): places of the grid's pixel centres."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    return np.stack([2 * x - 1, 2 * y - 1], -1)


def fit_correction(frame: NDArray[np.int64], places: Array, log_ratio: Array, frames: int) -> Array:
    """Coefficients (F, TERMS) from observations (n,): their frame, place (n, 2), and log of adjusted over network's
    depth once the frame's scale is taken off; NaN rows have no say."""
    known = np.isfinite(log_ratio)
    frame, places, log_ratio = frame[known], places[known], log_ratio[known]
    terms = basis(places)
    weight = np.ones(len(frame))
    coefficients: Array = np.zeros((frames, TERMS))
    if not len(frame):
        return coefficients
    order = np.argsort(frame, kind="stable")
    frame, terms, log_ratio = frame[order], terms[order], log_ratio[order]
    starts = np.searchsorted(frame, np.arange(frames))
    stops = np.searchsorted(frame, np.arange(frames), side="right")
    kernel = _FADE ** np.abs(np.arange(-_REACH, _REACH + 1))
    for _ in range(_ROUNDS):
        weighted = terms * weight[:, None]
        matrices, rights = np.zeros((frames, TERMS, TERMS)), np.zeros((frames, TERMS))
        for f in range(frames):
            rows = slice(starts[f], stops[f])
            matrices[f] = weighted[rows].T @ terms[rows]
            rights[f] = weighted[rows].T @ log_ratio[rows]
        smooth_matrix, smooth_right = np.zeros_like(matrices), np.zeros_like(rights)
        for ahead, share in zip(range(-_REACH, _REACH + 1), kernel, strict=True):
            low, high = max(0, -ahead), min(frames, frames - ahead)
            smooth_matrix[low:high] += share * matrices[low + ahead : high + ahead]
            smooth_right[low:high] += share * rights[low + ahead : high + ahead]
        coefficients[:] = np.linalg.solve(smooth_matrix + np.diag(_PRIOR), smooth_right[:, :, None])[:, :, 0]
        error = log_ratio - (terms * coefficients[frame]).sum(1)
        spread = max(1.4826 * float(np.median(np.abs(error))), 1e-3)
        weight[:] = 1 / np.maximum(1, np.abs(error) / (1.5 * spread))
    return coefficients


def corrected(depth: NDArray[np.float32], log_scale: Array, coefficients: Array) -> NDArray[np.float32]:
    """Depth (F, h, w) times its frame's scale exp(s_f) (F,) and the smooth factor."""
    terms = basis(grid_places(*depth.shape[1:]))
    smooth = np.clip(np.einsum("hwt,ft->fhw", terms, coefficients), -_MOST, _MOST)
    return np.asarray(depth * np.exp(log_scale[:, None, None] + smooth), np.float32)
