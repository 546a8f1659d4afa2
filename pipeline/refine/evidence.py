"""Compares finished cameras and depth with tracks that no adjustment has used.

For frames i and i + 2: Sampson's distances of the tracks that both see, and the depth that the two cameras triangulate.
This depth is compared with dense depth, and with the depth that frames i + 2 and i + 4 triangulate of the same tracks.
Only the last comparison shows a step of scale in the middle of a trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.problem import inverse
from pipeline.refine.tracks import Tracks
from pipeline.refine.two_view import sampson

Array = NDArray[np.float64]

APART = 2  # second frame of a pair minus its first
CLOSE = 1.5  # pixels of the tracked picture: a track with a smaller Sampson distance agrees with the cameras
HELD_BACK = 6  # one track in so many is held back from adjustment
_MOVED = 1.0  # pixels of the tracked picture: a pair with less median motion has no usable epipolar geometry
_PARALLAX = 0.7  # degrees: two frames do not determine the depth of a track with less
_FEWEST = 8  # common tracks that a pair needs to be judged
_FEWEST_SCALES = 12  # tracks that two neighbouring pairs must both triangulate to judge a step of scale


def held_back(tracks: Tracks) -> NDArray[np.bool_]:
    """Which rows (n,) are of held-back tracks. A hash of the track's number decides, so it is the same everywhere."""
    mixed = (tracks.track.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.asarray(mixed % np.uint64(HELD_BACK) == 0)


@dataclass(frozen=True)
class PairEvidence:
    """Evidence of the frames `first` and `second`, which are numbered as `collect_evidence` says, with `tracks` common
    tracks.

    flow: median motion; distance: median Sampson distance, both in source pixels; share: of the tracks within CLOSE;
    depth: median log of triangulated over dense depth in the first frame; spread: robust deviation of the same; scale:
    median log of the depth that this pair triangulates over the depth that the pair two frames earlier triangulates of
    the same tracks in the same frame; scale_error: its standard error. judged: the pair has enough tracks and motion
    to judge the cameras. Figures are NaN where they are unknown.
    """

    first: int
    second: int
    tracks: int
    flow: float
    distance: float
    share: float
    depth: float
    spread: float
    scale: float
    scale_error: float
    judged: bool


def collect_evidence(
    world_from_camera: Array,
    cameras: Array,
    usable: NDArray[np.bool_],
    tracks: Tracks,
    log_depth: Array | None,
    picture_scale: float,
    first_place: int = 0,
    taking_turns: int = 1,
) -> list[PairEvidence]:
    """Evidence of each frame i and frame i + 2, of the same camera if several take turns.

    Args:
        world_from_camera: (N, 4, 4) of the frames at places first_place ... first_place + N - 1.
        cameras: (N, 4) fx fy cx cy in source pixels.
        usable: (N,) whether the frame has a pose of its own.
        tracks: of these frames, held back from adjustment.
        log_depth: (rows of tracks,) log of dense depth in world units at each row, NaN where unknown; None: only the
            cameras are judged.
        picture_scale: source pixels in a pixel of the tracked picture, at least 1.
        first_place: number of the first of these frames, for `tracks` and for the answer.
        taking_turns: the number of cameras whose frames take turns.
    """
    count = len(world_from_camera)
    order = np.lexsort((tracks.track, tracks.frame))
    frame, number = tracks.frame[order] - first_place, tracks.track[order]
    xy, dense = tracks.xy[order], None if log_depth is None else log_depth[order]
    camera_from_world = inverse(world_from_camera)
    begin = np.searchsorted(frame, np.arange(count + 1))
    pairs: list[PairEvidence] = []
    behind: tuple[NDArray[np.int64], Array] | None = None
    waiting: dict[int, tuple[NDArray[np.int64], Array]] = {}
    apart = APART * taking_turns
    for i in range(count - apart):
        j = i + apart
        rows_i, rows_j = slice(begin[i], begin[i + 1]), slice(begin[j], begin[j + 1])
        common, in_i, in_j = np.intersect1d(number[rows_i], number[rows_j], assume_unique=True, return_indices=True)
        a, b = xy[rows_i][in_i], xy[rows_j][in_j]
        flow = float(np.median(np.linalg.norm(a - b, axis=1))) if len(common) else 0.0
        judged = bool(len(common) >= _FEWEST and flow >= _MOVED * picture_scale and usable[i] and usable[j])
        distance = share = depth = spread = scale = error = float("nan")
        behind = waiting.pop(i, None)
        if judged:
            relative = camera_from_world[j] @ world_from_camera[i]
            off = sampson(a, b, relative, cameras[i], cameras[j])
            distance, share = float(np.median(off)), float((off < CLOSE * picture_scale).mean())
        if judged and dense is not None:
            z_i, z_j, good = _depths(a, b, relative, cameras[i], cameras[j])
            good &= off < 2 * CLOSE * picture_scale
            waiting[j] = (common[good], np.log(z_j[good]))
            ratio = np.log(np.where(good, z_i, 1.0)) - dense[rows_i][in_i]
            ratio = ratio[good & np.isfinite(ratio)]
            if len(ratio) >= _FEWEST:
                depth = float(np.median(ratio))
                spread = float(1.4826 * np.median(np.abs(ratio - depth)))
            if behind is not None:
                both, first, second = np.intersect1d(behind[0], common[good], return_indices=True)
                steps = np.log(z_i[good])[second] - behind[1][first]
                if len(both) >= _FEWEST_SCALES:
                    scale = float(np.median(steps))
                    error = float(1.86 * np.median(np.abs(steps - scale)) / np.sqrt(len(steps)))
        pairs.append(
            PairEvidence(
                first_place + i,
                first_place + j,
                len(common),
                flow,
                distance,
                share,
                depth,
                spread,
                scale,
                error,
                judged,
            )
        )
    return pairs


def _depths(
    first: Array, second: Array, second_from_first: Array, camera_first: Array, camera_second: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Depths (n,) of tracks in the first and in the second frame, where their rays are nearest to each other, and which
    of them (n,) are usable: in front of both cameras and with enough parallax."""
    a = np.concatenate([(first - camera_first[2:]) / camera_first[:2], np.ones((len(first), 1))], 1)
    b = np.concatenate([(second - camera_second[2:]) / camera_second[:2], np.ones((len(second), 1))], 1)
    turned, shift = a @ second_from_first[:3, :3].T, second_from_first[:3, 3]
    # z_b b = z_a turned + shift, least squares for both depths
    aa, bb, ab = (turned**2).sum(1), (b**2).sum(1), (turned * b).sum(1)
    a_shift, b_shift = turned @ shift, b @ shift
    determinant = np.maximum(aa * bb - ab**2, 1e-18)
    z_a = (ab * b_shift - bb * a_shift) / determinant
    z_b = (aa * b_shift - ab * a_shift) / determinant
    sine = np.sqrt(determinant / (aa * bb))
    good = (z_a > 0) & (z_b > 0) & (sine > np.sin(np.radians(_PARALLAX)))
    return np.where(good, z_a, 1.0), np.where(good, z_b, 1.0), good


def judged(pairs: list[PairEvidence]) -> Iterator[PairEvidence]:
    """The pairs with enough tracks and motion to judge the cameras."""
    return (pair for pair in pairs if pair.judged)
