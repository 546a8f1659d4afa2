"""Compares what two chunks predicted for the same frames: the measurement by which they are joined.

The same pixel of the same frame has the same ray in both chunks. Two chunks can therefore differ in three things only:
the frame's rotation, its position and its depth scale. These are 7 numbers per frame, which are kept instead of points:
no information is lost, distant points do not turn small rotation errors into large residuals, and the size of the data
does not depend on the number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chunk import Chunk, Shared
from pipeline.backend.config import BackendConfig
from pipeline.backend.sim3 import Array, Sim3, nearest_rotation, rotation_log


@dataclass(frozen=True, eq=False)
class Overlap:
    """n frames seen by chunks `first` and `second` (numbers), usable ones only.

    first_from_camera, second_from_camera (n, 4, 4): the frame's pose in either gauge; first_offset, second_offset (n,):
    signed frames from the chunk's reference frame; first_moment, second_moment (n, 3): see Chunk.moment; log_ratio
    (n,): log of the first chunk's depth over the second's, robust mean over pixels; log_ratio_sigma (n,): its standard
    error, inf where no pixel was used; pixels: how many were used; inlier_share: share of these whose depths agree
    within `huber_delta` of the frame's ratio; depth_spread: robust deviation of the pixels' log ratios;
    first_deviation, second_deviation (n, 2): see Chunk.pose_deviation; bridged: the chunks share no usable frame, and
    the one row here continues the motion over the gap.
    """

    first: int
    second: int
    frame_index: NDArray[np.int64]
    first_from_camera: Array
    second_from_camera: Array
    first_offset: Array
    second_offset: Array
    first_moment: Array
    second_moment: Array
    log_ratio: Array
    log_ratio_sigma: Array
    pixels: int
    inlier_share: float
    depth_spread: float
    first_deviation: Array
    second_deviation: Array
    bridged: bool = False

    def __len__(self) -> int:
        return len(self.frame_index)

    def rigid_guess(self, *, scale: bool = True) -> Sim3:
        """first_from_second by robust averages: the start of the joint solution, and its plain twin in tests."""
        rotation = nearest_rotation(
            np.einsum("nij,nkj->ik", self.first_from_camera[:, :3, :3], self.second_from_camera[:, :3, :3])
        )
        a, b = self.first_from_camera[:, :3, 3], self.second_from_camera[:, :3, 3]
        ratio = 1.0
        if scale:
            known = np.isfinite(self.log_ratio_sigma)
            spread_a, spread_b = (float(np.linalg.norm(x - x.mean(0))) for x in (a, b))
            if known.any():
                ratio = float(np.exp(np.median(self.log_ratio[known])))
            elif min(spread_a, spread_b) > 1e-9:
                ratio = spread_a / spread_b
        return Sim3(ratio, rotation, np.median(a - ratio * b @ rotation.T, axis=0))


def measure_overlap(
    first: Chunk,
    second: Chunk,
    numbers: tuple[int, int],
    config: BackendConfig,
    only: NDArray[np.int64] | None = None,
) -> Overlap | None:
    """Compare the usable frames that both chunks have; None if there are none.

    numbers: of the two chunks in the drive; only: restricts the comparison to these frame numbers.
    """
    shared = Shared.of(first, second)
    keep = first.ok[shared.in_first] & second.ok[shared.in_second]
    if only is not None:
        keep &= np.isin(shared.frame_index, only)
    shared = Shared(shared.frame_index[keep], shared.in_first[keep], shared.in_second[keep])
    if not len(shared):
        return None
    mean, sigma, pixels, inliers, spread = _depth_ratios(first, second, shared, config)
    return Overlap(
        *numbers,
        shared.frame_index,
        first.chunk_from_camera[shared.in_first],
        second.chunk_from_camera[shared.in_second],
        first.offset[shared.in_first],
        second.offset[shared.in_second],
        first.moment[shared.in_first],
        second.moment[shared.in_second],
        mean,
        sigma,
        pixels,
        inliers,
        spread,
        first.pose_deviation[shared.in_first],
        second.pose_deviation[shared.in_second],
    )


def bridge_gap(first: Chunk, second: Chunk, numbers: tuple[int, int]) -> Overlap:
    """Joins chunks without a common usable frame: the last motion of `first` is continued to the start of `second`.

    Gives one virtual frame: the last usable frame of `first`, moved on at its last velocity, is set equal to the first
    usable frame of `second`. The depth scale assumes that the median depths of both frames are equal.
    """
    a, b = (np.nonzero(c.ok)[0] if c.ok.any() else np.arange(len(c.ok)) for c in (first, second))
    end, start = a[-1], b[0]
    ahead = int(second.time[start] - first.time[end])
    last = first.chunk_from_camera[end].copy()
    if len(a) > 1 and ahead > 0:
        before = first.chunk_from_camera[a[-2]]
        frames = float(first.time[end] - first.time[a[-2]])
        last[:3, 3] += (last[:3, 3] - before[:3, 3]) * ahead / frames
    medians = []
    for chunk, position in ((first, end), (second, start)):
        good = chunk.confidence[position] > 0
        medians.append(float(np.median(np.log(chunk.depth[position][good]))) if good.any() else np.nan)
    ratio = medians[0] - medians[1]
    known = np.isfinite(ratio)
    return Overlap(
        *numbers,
        second.frame_index[[start]],
        last[None],
        second.chunk_from_camera[[start]],
        first.offset[[end]],
        second.offset[[start]],
        first.moment[[end]],
        second.moment[[start]],
        np.array([ratio if known else 0.0]),
        np.array([0.5 if known else np.inf]),
        0,
        0.0,
        np.inf,
        np.full((1, 2), np.nan),
        np.full((1, 2), np.nan),
        True,
    )


def _depth_ratios(
    first: Chunk, second: Chunk, shared: Shared, config: BackendConfig
) -> tuple[Array, Array, int, float, float]:
    """Per frame: robust mean of log(depth_first / depth_second) and its standard error; see Overlap."""
    confidence_a, confidence_b = first.confidence[shared.in_first], second.confidence[shared.in_second]
    floor = config.confidence_floor * min(float(np.median(confidence_a)), float(np.median(confidence_b)))
    counts = (confidence_a > floor) & (confidence_b > floor)
    weight = np.where(counts, np.sqrt(confidence_a * confidence_b), 0.0)
    ratio = np.log(first.depth[shared.in_first]) - np.log(second.depth[shared.in_second])
    pixels = int(counts.sum())
    frames = len(shared)
    if not pixels:
        return np.zeros(frames), np.full(frames, np.inf), 0, 0.0, np.inf
    centre = float(np.median(ratio[counts]))
    spread = max(1.4826 * float(np.median(np.abs(ratio[counts] - centre))), 1e-6)
    mean = np.full(frames, centre)
    for _ in range(config.rounds):
        # Huber's limit is one deviation: about a third of the depth errors lies in the tails (outliers, far points).
        robust = weight * np.minimum(1, spread / np.maximum(np.abs(ratio - mean[:, None]), 1e-12))
        total = robust.sum(1)
        mean = np.where(total > 0, (robust * ratio).sum(1) / np.maximum(total, 1e-12), centre)
    # Winsorised, so that a few outliers do not inflate the error; the second term is a lower bound from the pixels'
    # spread.
    error = np.clip(ratio - mean[:, None], -3 * spread, 3 * spread)
    variance = (robust**2 * error**2).sum(1) / np.maximum(total, 1e-12) ** 2
    effective = np.where(total > 0, total**2 / np.maximum((robust**2).sum(1), 1e-12), 0)
    sigma = np.sqrt(variance + spread**2 / np.maximum(effective, 1e-12) * 0.1)
    inside = float((np.abs(ratio - mean[:, None])[counts] < config.huber_delta).mean())
    return mean, np.where(total > 0, sigma, np.inf), pixels, inside, spread


def slope_of(overlap: Overlap, span: float) -> tuple[Array, Array, Array] | None:
    """How fast the relative rotation and depth ratio of the two chunks change along the overlap, per `span` frames.

    Returns rate (4,): rotation x y z (radians, first chunk's axes) and log depth ratio; its variance (4,); residuals
    (n, 4) of the fitted line. None with fewer than five frames.
    """
    if len(overlap) < 5:
        return None
    relative = np.einsum("nij,nkj->nik", overlap.first_from_camera[:, :3, :3], overlap.second_from_camera[:, :3, :3])
    turn = rotation_log(relative @ nearest_rotation(relative.mean(0)).T)
    values = np.concatenate([turn, overlap.log_ratio[:, None]], 1)
    along = overlap.first_offset / span
    along = along - along.mean()
    leverage = float(along @ along)
    if leverage < 1e-12:
        return None
    rate = along @ values / leverage
    residual = values - values.mean(0) - along[:, None] * rate
    variance = (residual**2).sum(0) / (len(overlap) - 2) / leverage
    return rate, variance, residual
