"""How much chunks bend and stretch inside (drift), estimated from the drive itself.

In this model a chunk is exact at its reference frame, and its error grows in proportion to the distance from it, at a
rate of its own. Two overlapping chunks measure the difference of their rates well, but not each rate alone. A prior
makes the rates of a whole drive determinable: it holds the standard deviation of the rates, and the correlation between
the rate before the reference frame and the rate behind it. Both are estimated here by maximum likelihood. For a network
whose chunks do not drift, the deviation comes out near zero and nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky_banded, solve_banded

from pipeline.backend.overlap import Overlap, slope_of
from pipeline.backend.sim3 import Array

# Candidate correlations of the rates before and behind the reference: 1 is a uniform curvature, 0 two independent
# rates, -1 a curvature that changes sign at the reference frame.
_PERSISTENCE = np.array([-0.99, -0.9, -0.5, 0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999])
_FACTORS = np.array([0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0])
_FEWEST = 8  # overlaps; with fewer, a correlation cannot be told from chance
_BLOCK = 6  # frames in a block, by which the correlation of neighbouring frames' errors is measured
MOST_UNLIKE = 5.0  # largest factor from the usual uncertainty of poses inside chunks that is used
_LEAST = 1e-5  # radians or log scale per span; smaller rates change nothing visible


@dataclass(frozen=True, eq=False)
class DriftPrior:
    """Rates of drift have a normal distribution with mean zero.

    rate (4,): standard deviations of the rotation about x, y, z (radians, axes of the reference camera) and of the log
    scale, per span; persistence (4,): correlation of the rates before and behind the reference frame; span: frames;
    looseness (K,): factor on each chunk's standard deviations, None for 1.
    """

    rate: Array
    persistence: Array
    span: float
    looseness: Array | None = None

    def information(self) -> Array:
        """(8, 8): inverse covariance of (before x y z scale, behind x y z scale)."""
        inverse = np.zeros((8, 8))
        for c in range(4):
            block = self.rate[c] ** 2 * np.array([[1, self.persistence[c]], [self.persistence[c], 1]])
            inverse[np.ix_([c, c + 4], [c, c + 4])] = np.linalg.inv(block)
        return inverse

    def informations(self, count: int) -> Array:
        """(count, 8, 8): `information` of each chunk."""
        if self.looseness is None:
            return np.broadcast_to(self.information(), (count, 8, 8))
        return np.asarray(self.information() / self.looseness[:, None, None] ** 2)

    def over_span(self) -> Array:
        """(4,): standard deviation of the drift between two frames one span apart, with the reference between them."""
        return np.asarray(self.rate * np.sqrt((1 + self.persistence) / 2))


def looseness_of(deviations: Sequence[Array | None]) -> Array | None:
    """Factors (K,) from the usual uncertainty of rotations inside a chunk to that inside each chunk; 1 for a chunk that
    does not know it, None if none does. deviations: see Chunk.pose_deviation."""
    known = [np.isfinite(one[:, 0]) if one is not None else np.zeros(0, np.bool_) for one in deviations]
    variance = np.array(
        [
            np.nan if one is None or not there.any() else float((one[there, 0] ** 2).mean())
            for one, there in zip(deviations, known, strict=True)
        ]
    )
    told = variance > 0
    if not told.any():
        return None
    factor = np.sqrt(np.where(told, variance, np.nan) / np.median(variance[told]))
    return np.clip(np.where(told, factor, 1.0), 1 / MOST_UNLIKE, MOST_UNLIKE)


def estimate_drift(overlaps: Sequence[Overlap], world_rotation: Array, span: float) -> DriftPrior:
    """The prior from consecutive overlaps.

    Args:
        overlaps: of neighbouring chunks, in order.
        world_rotation: (K, 3, 3), from each chunk's own axes to common ones.
        span: frames that rates refer to.
    """
    slopes = [slope_of(overlap, span) for overlap in overlaps]
    rates, variances, left, pair = [], [], [], []
    for number, (overlap, slope) in enumerate(zip(overlaps, slopes, strict=True)):
        usable = slope is not None and bool(np.isfinite(overlap.log_ratio_sigma).all())
        rates.append(slope[0] if slope is not None and usable else np.full(4, np.nan))
        variances.append(slope[1] if slope is not None and usable else np.ones(4))
        if slope is not None and usable:
            left.append(slope[2] / np.sqrt((slope[2] ** 2).mean(0) + 1e-30))
            pair.append(np.full(len(slope[2]), number))
    if left:
        every, of = np.concatenate(left), np.concatenate(pair)
        inflation = np.repeat([inflation_of(every[:, :3], of), inflation_of(every[:, 3:], of)], (3, 1))
        variances = [variance * inflation for variance in variances]
    rate, variance = np.array(rates).reshape(-1, 4), np.array(variances).reshape(-1, 4)
    known: NDArray[np.bool_] = np.isfinite(rate[:, 0])
    if not known.any():
        return DriftPrior(np.full(4, _LEAST), np.zeros(4), span)
    # One bad chunk must not determine the prior: rates are limited to three robust deviations.
    limit = 3 * 1.4826 * np.median(np.abs(rate[known]), axis=0)
    rate = np.clip(rate, -limit, limit)
    excess = (rate[known] ** 2).mean(0) - np.median(variance[known], axis=0)
    size = np.sqrt(np.maximum(excess / 2, _LEAST**2))
    persistence = np.zeros(4)
    if known.sum() >= _FEWEST:
        rotation = np.stack([world_rotation[o.first] for o in overlaps])
        common = np.einsum("nij,nj->ni", rotation, rate[:, :3])
        persistence[:3], factor = _likeliest(common, variance[:, :3], known)
        size[:3] *= factor
        persistence[3], factor = _likeliest(rate[:, 3:], variance[:, 3:], known)
        size[3] *= factor
    return DriftPrior(np.maximum(size, _LEAST), persistence, span)


def _likeliest(rate: Array, variance: Array, known: NDArray[np.bool_]) -> tuple[float, float]:
    """Maximum-likelihood correlation and factor on the deviation, for rate differences (n, c) along a chain.

    rate[k] = behind[k] - before[k + 1] + noise, so the covariance of neighbours is minus the covariance of one chunk's
    two rates. The factor is relative to the method-of-moments estimate. Gaps split the chain (no covariance across).
    """
    filled = np.where(known[:, None], rate, 0.0)
    moment = np.maximum(((filled[known] ** 2).mean(0) - np.median(variance[known], axis=0)) / 2, _LEAST**2)
    linked = known[1:] & known[:-1]
    best, answer = -np.inf, (0.0, 1.0)
    for persistence in _PERSISTENCE:
        for factor in _FACTORS:
            total = 0.0
            for c in range(rate.shape[1]):
                size = moment[c] * factor**2
                band = np.zeros((2, len(rate)))
                band[1] = np.where(known, 2 * size + variance[:, c], 1.0)
                band[0, 1:] = np.where(linked, -persistence * size, 0.0)
                try:
                    root = cholesky_banded(band)
                except LinAlgError:
                    total = -np.inf
                    break
                # root is upper: covariance = root.T @ root; solve root.T z = rate (a lower band).
                lower = np.zeros_like(root)
                lower[0], lower[1, :-1] = root[1], root[0, 1:]
                z = solve_banded((1, 0), lower, filled[:, c])
                total -= 0.5 * float(z @ z) + float(np.log(root[1]).sum())
            if total > best:
                best, answer = total, (float(persistence), float(factor))
    return answer


def inflation_of(values: Array, pair: NDArray[np.int64]) -> float:
    """How much larger the variance of a mean over neighbouring frames is than with independent errors, at least 1.

    By the method of batch means. values (n, c): residuals; pair (n,): the number of the overlap of each, rising.
    """
    starts = np.nonzero(np.diff(pair, prepend=-1))[0]
    length = np.diff([*starts, len(pair)])
    whole = np.where(length // _BLOCK >= 4, length // _BLOCK, 0)
    block = (np.arange(len(pair)) - np.repeat(starts, length)) // _BLOCK
    inside = block < np.repeat(whole, length)
    if not inside.any():
        return 1.0
    of = np.repeat(np.arange(len(starts)), length)[inside]
    part = values[inside].astype(np.float64)
    part = part - _means(part, of)[of]
    _, number = np.unique(of * 10**6 + block[inside], return_inverse=True)
    means = _means(part, number)
    # The level and slope of each overlap were fitted: two degrees of freedom.
    used = whole[whole > 0]
    blocks = float((means**2).sum()) * _BLOCK / float((used - 2).sum())
    singles = float((part**2).sum()) / float((used * _BLOCK - 2).sum())
    return max(1.0, blocks / singles) if singles > 0 else 1.0


def _means(values: Array, of: NDArray[np.int64]) -> Array:
    """Means (max(of) + 1, c) of values (n, c) by the number in `of` (n,); 0 where a number does not occur."""
    count = np.maximum(np.bincount(of), 1)
    return np.stack([np.bincount(of, column) / count for column in values.T], 1)
