"""The lens of a drive without calibration, by the tracks of some windows: focal length, principal point, distortion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera
from pipeline.refine.adjustment import camera_covariance
from pipeline.refine.grid import Grid
from pipeline.refine.problem import Sigmas
from pipeline.refine.radial_lens import RadialLens
from pipeline.refine.refinement import adjust_window
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_STEPS = (4, 4, 7)  # most steps of each round
_TRIES = 4  # each try begins with the lens of the one before, with the tracks that then fit
_SETTLED = 0.5  # no further try where every number has changed by less than this many deviations
_STRETCHED = 4.0  # where straightening stretches the picture by more (60 degrees from the axis), tracks are not used
_FEWEST = 300  # tracks that a window must have
_SIGNIFICANT = 36.0  # squared Mahalanobis distance from a pinhole above which there is a lens
_BENT = 0.02  # share of its distance from the centre by which a pixel at the picture's side must move
_AGREE = 0.5  # share of that by which windows may differ, in the median
_ALIKE = 2.0  # errors of a corner in a track are alike, so deviations are larger by this factor


@dataclass(frozen=True, eq=False)
class LensEvidence:
    """The camera that fits tracks best: found (5,): log focal length, cx and cy in pixels, k1 and k2 of RadialLens;
    covariance (5, 5); points: number of tracks that fit."""

    found: Array
    covariance: Array
    points: int


def window_lens(window: Window, tracks: Tracks, camera: Array, radius: float, grid: Grid) -> LensEvidence | None:
    """The lens that fits a window's tracks best; None where the tracks do not determine it.

    camera (4,): fx fy cx cy in source pixels, the start, which is a pinhole; radius: unit of k1 and k2, pixels.
    """
    cv2.setNumThreads(1)
    camera, bend = camera.astype(np.float64), np.zeros(2)
    camera[:2] = np.sqrt(camera[0] * camera[1])
    answer: LensEvidence | None = None
    try:
        for _ in range(_TRIES):
            lens = RadialLens(camera[2:], radius, bend)
            adjusted = adjust_window(
                window,
                tracks.select(lens.stretch(tracks.xy) < _STRETCHED),
                camera,
                grid,
                free_focal=True,
                free_principal=True,
                with_depth=False,
                steps=_STEPS,
                lens=lens,
            )
            if adjusted is None or adjusted.problem.lens is None:
                return answer
            before = answer
            camera, bend = adjusted.problem.camera, adjusted.problem.lens.bend
            covariance = camera_covariance(adjusted.problem)
            if not (np.linalg.eigvalsh(covariance) > 0).all():
                return before
            answer = LensEvidence(np.array([np.log(camera[0]), *camera[2:], *bend]), covariance, len(adjusted.track))
            if before is not None:
                moved = np.abs(answer.found - before.found) / np.sqrt(np.diag(covariance))
                if (moved < _SETTLED).all():
                    break
    except (np.linalg.LinAlgError, cv2.error):
        return answer
    return answer


@dataclass(frozen=True, eq=False)
class CommonLens:
    """The lens that windows agree on: focal length and lens in source pixels."""

    focal: float
    lens: RadialLens

    def camera(self, width: int, height: int) -> Camera:
        """The camera of pictures of width x height pixels."""
        return self.lens.camera(self.focal, width, height, _STRETCHED)[0]


def common_lens(found: Sequence[LensEvidence | None], start: Array, radius: float) -> CommonLens | None:
    """The lens of a drive by some windows; None where they do not agree on one that differs from a pinhole.

    start (2,): the picture's centre, around which the principal point has a prior (`Sigmas.principal`); radius: the
    unit of the coefficients, pixels. Each window counts with its own covariance, so those whose tracks determine little
    have no influence.
    """
    known = [one for one in found if one is not None and one.points >= _FEWEST]
    if not known:
        return None
    prior = np.zeros((5, 5))
    prior[[1, 2], [1, 2]] = (Sigmas.principal * 2 * start[0]) ** -2
    centre = np.array([0, *start, 0, 0])
    total, pull = prior.copy(), prior @ centre
    for one in known:
        own = np.linalg.inv(one.covariance) - prior  # each window's estimate contains the prior, which counts once
        values, axes = np.linalg.eigh((own + own.T) / 2)
        own = (axes * np.maximum(values, 0)) @ axes.T
        total += own / _ALIKE**2
        pull += (own @ one.found + prior @ (one.found - centre)) / _ALIKE**2
    covariance = np.linalg.inv(total)
    answer = covariance @ pull
    lens = RadialLens(answer[1:3], radius, answer[3:])
    bend = answer[3:]
    significance = float(bend @ np.linalg.solve(covariance[3:, 3:], bend))
    sides = [_at_the_side(one.found[3:]) for one in known]
    agreed = np.median(np.abs(np.array(sides) - _at_the_side(bend))) < _AGREE * abs(_at_the_side(bend))
    if significance < _SIGNIFICANT or abs(_at_the_side(bend)) < _BENT or not agreed:
        return None
    return CommonLens(float(np.exp(answer[0])), lens)


def _at_the_side(bend: Array) -> float:
    """By what share of its distance from the centre the lens moves a pixel at the radius, outwards in the straightened
    picture."""
    return float(1 / max(1 + bend.sum(), 0.05) - 1)
