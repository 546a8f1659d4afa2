"""What two chunks say about the same frames: the evidence that joins them.

Equal pixels of equal frames look along the same ray, so two chunks can differ in three things only: how
the frame is turned, where it stands, and how deep it looks. That is 7 numbers a frame, kept instead of the
points: nothing is lost, far points do not turn small rotations into large residuals, and memory does not
grow with pixels.
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

    first_from_camera, second_from_camera (n, 4, 4): the frame's pose in either gauge; first_offset,
    second_offset (n,): frames from the chunk's reference frame, signed; first_moment, second_moment (n,
    3): see Chunk.moment; log_ratio (n,): log of first's depth over second's, robust mean over pixels;
    log_ratio_sigma (n,): its standard error, inf where no pixel counts; pixels: how many counted;
    inlier_share: share of counting pixels whose depths agree within `huber_delta` of the overlap's ratio;
    depth_spread: robust deviation of the pixels' log ratios. bridged: nothing is shared, the row continues
    the motion over the gap.
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
    bridged: bool = False

    def __len__(self) -> int:
        return len(self.frame_index)

    def rigid_guess(self, *, scale: bool = True) -> Sim3:
        """first_from_second by robust averages: a start for the joint solution, and its plain twin."""
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
    """Compare the frames that both chunks have (`only`: of these frame numbers); None if there is none."""
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
    )


def bridge_gap(first: Chunk, second: Chunk, numbers: tuple[int, int]) -> Overlap:
    """Chunks without a common usable frame: the last motion of `first` is continued to `second`'s start.

    One virtual frame: the last usable frame of `first` carried on at its last velocity, equated with the
    first usable frame of `second` behind it. Depth scale: the scenes' median depths are taken to be alike.
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
        # Huber at one deviation: of depth errors a third is in the tails (outliers, far points).
        robust = weight * np.minimum(1, spread / np.maximum(np.abs(ratio - mean[:, None]), 1e-12))
        total = robust.sum(1)
        mean = np.where(total > 0, (robust * ratio).sum(1) / np.maximum(total, 1e-12), centre)
    # Winsorised, so that a few outliers do not pass for ignorance; never surer than pixels on their own
    # allow.
    error = np.clip(ratio - mean[:, None], -3 * spread, 3 * spread)
    variance = (robust**2 * error**2).sum(1) / np.maximum(total, 1e-12) ** 2
    effective = np.where(total > 0, total**2 / np.maximum((robust**2).sum(1), 1e-12), 0)
    sigma = np.sqrt(variance + spread**2 / np.maximum(effective, 1e-12) * 0.1)
    inside = float((np.abs(ratio - mean[:, None])[counts] < config.huber_delta).mean())
    return mean, np.where(total > 0, sigma, np.inf), pixels, inside, spread


def slope_of(overlap: Overlap, span: float) -> tuple[Array, Array, Array] | None:
    """How the two chunks turn and stretch against each other along the overlap, per `span` frames.

    Returns (rate (4,): turn x y z in first's gauge and log depth ratio; variance of it (4,); residuals (n, 4)
    about the line), or None with fewer than five frames.
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
