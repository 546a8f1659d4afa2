"""Greedy joint compatibility: which of some links can be true together and with the present solution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.common.chi_squared import chi_squared_quantile
from pipeline.fuse.city_equations import Rows
from pipeline.fuse.drive_nodes import Array

CONFIDENCE = 0.99999
"""A true link is rejected with a probability of one minus this."""
BOUND = chi_squared_quantile(CONFIDENCE, 7)
"""Largest squared Mahalanobis distance of an accepted link."""
_NONLINEAR = 0.02  # error of the linearised residual, as a share of its translation


def compatible(rows: Rows, covariance: Array, begin: int | None = None) -> tuple[NDArray[np.bool_], Array]:
    """Which rows (m,) can be true together, and the chi2 (m,) of each before any was accepted.

    The row with the least squared Mahalanobis distance is accepted first. Each accepted row updates residuals and
    covariances of the others (a Kalman update), so that after a few true rows a wrong one exceeds the bound (joint
    compatibility, Neira and Tardos 2001).

    Args:
        rows: m linearised residuals.
        covariance: (7m, 7m) of the residuals, from the uncertainty of the solution.
        begin: a row that is already part of the solution and is not tested.
    """
    number = len(rows.residual)
    residual, covariance = rows.residual.copy().ravel(), covariance.copy()
    own = np.linalg.inv(rows.information)
    miss = _NONLINEAR * np.linalg.norm(rows.residual[:, 3:6], axis=1)
    own[:, [3, 4, 5], [3, 4, 5]] += miss[:, None] ** 2
    taken = np.zeros(number, bool)
    if begin is not None:
        taken[begin] = True
    at = np.arange(number)[:, None] * 7 + np.arange(7)

    def chi2() -> Array:
        blocks = covariance[at[:, :, None], at[:, None, :]] + own
        part = residual.reshape(number, 7)
        return np.asarray(np.einsum("ni,ni->n", part, np.linalg.solve(blocks, part[:, :, None])[:, :, 0]))

    first = chi2()
    for _ in range(number):
        left = np.where(taken, np.inf, chi2())
        best = int(np.argmin(left))
        if not left[best] < BOUND:
            break
        taken[best] = True
        mine = slice(best * 7, best * 7 + 7)
        gain = np.linalg.solve(covariance[mine, mine] + own[best], covariance[mine]).T
        residual = residual - gain @ residual[mine]
        covariance = covariance - gain @ covariance[mine]
    return taken, first
