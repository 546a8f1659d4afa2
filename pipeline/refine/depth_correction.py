"""Corrects the network's dense depth by adjusted points: one factor, one for each frame, or one smooth in each picture.

log factor = c + B(x, y, log d) c_f. B are polynomials of second degree of the place in the picture, and the log of the
network's depth d. The last term is for pictures unlike those that the network was trained on: there it makes the range
of depths too small or too large (on the real clip the error of held-back tracks is 0.38 without that term and 0.24 with
it). The coefficients of a frame are a robust fit to its points and its neighbours'; where points are few they shrink to
zero.

Corners are not a fair sample of a picture: a model that fits them best can make the pixels between them worse. So a
model with more terms is used only if it clearly lowers the error at tracks that no adjustment has seen. With the
simplest model depth keeps its shape.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.depth_ratios import DepthRatios

Array = NDArray[np.float64]

TERMS = 7  # 1, x, y, x^2, xy, y^2, log of depth
_REACH = 3  # frames to either side whose points are used
_FADE = 0.6  # weight of points that are one frame away; its square for two frames, and so on
_PRIOR = (4.0, 12.0, 12.0, 40.0, 40.0, 40.0, 12.0)  # weight of a coefficient of zero, in numbers of points
_MOST = 1.0  # largest absolute log of the smooth factor
_FLATTEST = -0.8  # least coefficient of log depth: the nearer of two points must stay the nearer one
_ROUNDS = 6  # of the robust fit
_BETTER = 0.9  # a model with more terms must have less than this share of the simpler one's median error
_FEWEST = 30  # with fewer held-back observations only the simplest model is used


def basis(xy: Array, log_depth: Array) -> Array:
    """Terms (..., TERMS) at places xy (..., 2), which run from -1 to 1 over the grid, with log depth (...) there."""
    x, y = xy[..., 0], xy[..., 1]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, log_depth], -1)


def grid_places(height: int, width: int) -> Array:
    """Places (h, w, 2), from -1 to 1, of the centres of the grid's pixels."""
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    return np.stack([2 * x - 1, 2 * y - 1], -1)


def fit_depth(
    seen: DepthRatios, witness: DepthRatios, frames: int, *, each_frame: bool = False, by_depth: bool = True
) -> tuple[Array, Array]:
    """Log factors (F,) and coefficients (F, TERMS) fitted to `seen`; `witness` (held-back tracks) chooses the model.

    frames: F. each_frame: the simplest model has a factor for each frame, so that the scale of depth follows that of
    the steps. by_depth: whether the log of depth is a term of the smooth model.
    """
    seen, witness = seen.known(), witness.known()
    coefficients: Array = np.zeros((frames, TERMS))
    if not len(seen.frame):
        return np.zeros(frames), coefficients
    one = float(np.median(seen.log_ratio))
    usual = float(np.median(seen.log_depth))  # where coefficients shrink to zero, the usual depth is not corrected
    about = replace(seen, log_ratio=seen.log_ratio - one, log_depth=seen.log_depth - usual)
    if each_frame:
        coefficients = fit_terms(about, frames, 1)
    if len(witness.frame) >= _FEWEST:
        terms = basis(witness.places, witness.log_depth - usual)
        least = float(np.median(np.abs(witness.log_ratio - one - (terms * coefficients[witness.frame]).sum(1))))
        for count in (1, TERMS if by_depth else TERMS - 1):
            tried = fit_terms(about, frames, count)
            smooth = np.clip((terms * tried[witness.frame]).sum(1), -_MOST, _MOST)
            error = float(np.median(np.abs(witness.log_ratio - one - smooth)))
            if error < _BETTER * least:
                least, coefficients = error, tried
    coefficients[:, 0] -= usual * coefficients[:, -1]
    return np.full(frames, one), coefficients


def fit_terms(seen: DepthRatios, frames: int, count: int = TERMS) -> Array:
    """Coefficients (F, TERMS) of the first `count` terms; the others are 0. frames: F.

    Weights are Cauchy's from the first round on, when all coefficients are zero. So points far from "no correction"
    have little weight even where there are many.
    """
    coefficients: Array = np.zeros((frames, TERMS))
    seen = seen.known()
    if not len(seen.frame):
        return coefficients
    order = np.argsort(seen.frame, kind="stable")
    frame, log_ratio = seen.frame[order], seen.log_ratio[order]
    terms = basis(seen.places[order], seen.log_depth[order])[:, :count]
    starts = np.searchsorted(frame, np.arange(frames))
    stops = np.searchsorted(frame, np.arange(frames), side="right")
    kernel = _FADE ** np.abs(np.arange(-_REACH, _REACH + 1))
    for _ in range(_ROUNDS):
        error = log_ratio - (terms * coefficients[frame, :count]).sum(1)
        spread = max(1.4826 * float(np.median(np.abs(error))), 1e-3)
        weighted = terms / (1 + (error / (1.5 * spread)) ** 2)[:, None]
        matrices, rights = np.zeros((frames, count, count)), np.zeros((frames, count))
        for f in range(frames):
            rows = slice(starts[f], stops[f])
            matrices[f] = weighted[rows].T @ terms[rows]
            rights[f] = weighted[rows].T @ log_ratio[rows]
        smooth_matrix, smooth_right = np.zeros_like(matrices), np.zeros_like(rights)
        for ahead, share in zip(range(-_REACH, _REACH + 1), kernel, strict=True):
            low, high = max(0, -ahead), min(frames, frames - ahead)
            smooth_matrix[low:high] += share * matrices[low + ahead : high + ahead]
            smooth_right[low:high] += share * rights[low + ahead : high + ahead]
        prior = np.diag(_PRIOR[:count])
        coefficients[:, :count] = np.linalg.solve(smooth_matrix + prior, smooth_right[:, :, None])[:, :, 0]
    coefficients[:, -1] = np.maximum(coefficients[:, -1], _FLATTEST)
    return coefficients


def corrected(depth: NDArray[np.float32], log_scale: Array, coefficients: Array) -> NDArray[np.float32]:
    """Depth (F, h, w) times its frame's factor exp(log_scale) (F,) and the smooth factor of coefficients (F, TERMS)."""
    places = grid_places(*depth.shape[1:])
    terms = basis(places, np.zeros(places.shape[:2]))[..., :-1]
    known = np.where(np.isfinite(depth) & (depth > 0), depth, 1.0)
    by_depth = coefficients[:, -1, None, None] * np.log(known)
    smooth = np.clip(np.einsum("hwt,ft->fhw", terms, coefficients[:, :-1]) + by_depth, -_MOST, _MOST)
    return np.asarray(depth * np.exp(log_scale[:, None, None] + smooth), np.float32)
