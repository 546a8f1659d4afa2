"""A receiver's slow error: a first-order Gauss-Markov process per axis, sampled at knots between which fixes lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array

_KNOT_S = 2.0  # seconds between knots


@dataclass(frozen=True, eq=False)
class SlowError:
    """knot_s (k,): times on the receiver's clock; value (k, 3): error at the knots, metres; low (m,): number of the
    knot before each fix; share (m,): part of the interval to the next knot."""

    knot_s: Array
    value: Array
    low: NDArray[np.int64]
    share: Array

    @staticmethod
    def at(time_s: Array) -> SlowError:
        """Knots around fixes at time_s (m,), rising. Gaps between fixes contain no knots."""
        grid = np.floor((time_s - time_s[0]) / _KNOT_S).astype(np.int64)
        numbers = np.unique(np.concatenate([grid, grid + 1]))
        low = np.searchsorted(numbers, grid)
        share = (time_s - time_s[0]) / _KNOT_S - grid
        return SlowError(time_s[0] + numbers * _KNOT_S, np.zeros((len(numbers), 3)), low, share)

    def of_fixes(self) -> Array:
        """(m, 3): the slow error at each fix."""
        return (1 - self.share)[:, None] * self.value[self.low] + self.share[:, None] * self.value[self.low + 1]

    def information(self, deviation: Array, wander_s: Array) -> scipy.sparse.csc_matrix:
        """(3k, 3k): inverse covariance of the knots, for stationary deviations (3,) and correlation times (3,)."""
        total = scipy.sparse.csc_matrix((3 * len(self.knot_s),) * 2)
        for axis in range(3):
            keep = np.exp(-np.diff(self.knot_s) / wander_s[axis])
            gain = 1 / (1 - keep**2)
            diagonal = np.ones(len(self.knot_s))
            diagonal[1:] += gain - 1  # 1 / (1 - keep^2) of the step that ends here, for the stationary start elsewhere
            diagonal[:-1] += keep**2 * gain
            band = scipy.sparse.diags([-keep * gain, diagonal, -keep * gain], [-1, 0, 1])
            one = np.zeros((3, 3))
            one[axis, axis] = 1 / deviation[axis] ** 2
            total = total + scipy.sparse.kron(band, one)
        return total.tocsc()
