"""The camera of a drive without calibration, by the tracks of some windows: focal length and principal point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import camera_deviation
from pipeline.refine.grid import Grid
from pipeline.refine.problem import Sigmas
from pipeline.refine.refinement import adjust_window
from pipeline.refine.tracks import Tracks
from pipeline.refine.verdict import FocalEvidence
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_FOCAL_STEPS = (4, 4, 7)  # most steps of each round
_FOCAL_TRIES = 3  # each try begins at the focal length of the one before, with the tracks that then fit
_SETTLED_FOCAL = 1.0  # no further try where the focal length has changed by less than this many deviations
_USABLE_FOCAL = 0.15  # largest deviation of the log focal length with which a window's estimate is used
_CONTRADICTS = 3.0  # deviations by which a guess of the focal length may differ from what the tracks say
_LEAST_PRINCIPAL = 0.05  # smallest deviation of a window's principal point that is assumed, as a share of the prior's
_ALIKE = 2.0  # errors of a corner in a track are alike, so deviations are larger by this factor


@dataclass(frozen=True, eq=False)
class PrincipalEvidence:
    """The principal point that fits tracks best: asked (2,), and its standard deviations (2,), source pixels."""

    asked: Array
    deviation: Array


def window_focal(window: Window, tracks: Tracks, camera: Array, grid: Grid) -> FocalEvidence | None:
    """The focal length that fits a window's tracks best; None where the tracks do not determine it.

    camera (4,): fx fy cx cy in source pixels, the start. All tracks are used, also the held-back ones: these judge
    poses, and a single number cannot fit their noise.
    """
    cv2.setNumThreads(1)
    begin, deviation = camera.astype(np.float64), np.inf
    begin[:2] = np.sqrt(camera[0] * camera[1])
    try:
        for _ in range(_FOCAL_TRIES):
            adjusted = adjust_window(window, tracks, begin, grid, free_focal=True, with_depth=False, steps=_FOCAL_STEPS)
            if adjusted is None:
                return None
            before, begin = begin, adjusted.problem.camera
            deviation = float(camera_deviation(adjusted.problem)[0])
            if abs(np.log(begin[0] / before[0])) < _SETTLED_FOCAL * deviation:
                break
    except (np.linalg.LinAlgError, cv2.error):
        return None
    if not np.isfinite(deviation) or deviation > _USABLE_FOCAL:
        return None
    return FocalEvidence(float(np.sqrt(camera[0] * camera[1])), float(begin[0]), deviation)


def common_focal(found: list[FocalEvidence | None], least_deviation: float = 0.02) -> FocalEvidence | None:
    """One focal length from those of some windows: the weighted mean of their logs; None if no window has one.

    least_deviation: is added in quadrature to each window's deviation.
    """
    known = [one for one in found if one is not None]
    if not known:
        return None
    logs = np.log([one.asked for one in known])
    weight = 1 / (np.array([one.deviation for one in known]) ** 2 + least_deviation**2)
    centre = float(weight @ logs / weight.sum())
    scatter = float(np.sqrt(weight @ (logs - centre) ** 2 / weight.sum() / len(known)))
    return FocalEvidence(known[0].used, float(np.exp(centre)), max(float(weight.sum() ** -0.5), scatter))


def used_focal(told: FocalEvidence, guess: float, deviation: float) -> float:
    """The focal length that a drive without calibration uses: the weighted mean, in logarithms, of a guess with its
    deviation and of what the tracks say; the tracks' alone if the guess contradicts them."""
    apart = np.log(told.asked / guess)
    if abs(apart) > _CONTRADICTS * np.hypot(told.deviation, deviation):
        return told.asked
    trust = 1 / (1 + (told.deviation / deviation) ** 2)
    return float(guess * np.exp(trust * apart))


def window_principal(window: Window, tracks: Tracks, camera: Array, grid: Grid) -> PrincipalEvidence | None:
    """The principal point that fits a window's tracks best, with the focal length that goes with it; None where the
    window cannot be adjusted. camera (4,): fx fy cx cy in source pixels, the start.

    Only turns determine it: in a straight drive a wrong principal point looks like a camera that is mounted obliquely.
    """
    cv2.setNumThreads(1)
    try:
        adjusted = adjust_window(
            window, tracks, camera, grid, free_focal=True, free_principal=True, with_depth=False, steps=_FOCAL_STEPS
        )
        if adjusted is None:
            return None
        deviation = camera_deviation(adjusted.problem)[1:]
    except (np.linalg.LinAlgError, cv2.error):
        return None
    if not np.isfinite(deviation).all():
        return None
    return PrincipalEvidence(adjusted.problem.camera[2:], deviation)


def used_principal(found: Sequence[PrincipalEvidence | None], start: Array) -> Array:
    """The principal point (2,) that a drive uses: that of the windows, as far as they determine it better than what is
    known of cameras in general, else `start` (2,), the picture's centre.

    Each window's estimate contains `start` as a prior (`Sigmas.principal`); it is taken out, so that it counts once.
    """
    prior = Sigmas.principal * 2 * start[0]
    total, pull = np.full(2, prior**-2), np.zeros(2)
    for one in found:
        if one is None:
            continue
        variance = np.maximum(one.deviation, _LEAST_PRINCIPAL * prior) ** 2
        own = np.maximum(1 / variance - prior**-2, 0.0)
        # The windows' estimate is a mean of what the tracks say and of the prior.
        said = start + (one.asked - start) / np.maximum(own * variance, 1e-9)
        weight = own / _ALIKE**2
        total += weight
        pull += weight * (said - start)
    return np.asarray(start + pull / total)
