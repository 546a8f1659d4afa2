"""Which of some links can be true together with each other and with what is known already."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.common.chi_squared import chi_squared_quantile
from pipeline.fuse.city_equations import Rows
from pipeline.fuse.drive_nodes import Array

CONFIDENCE = 0.99999
"""A link is rejected when its residual is less likely than one minus this, were it true."""
BOUND = chi_squared_quantile(CONFIDENCE, 7)
_NONLINEAR = 0.02  # share of a shift that a linear model misses


def compatible(rows: Rows, covariance: Array, begin: int | None = None) -> tuple[NDArray[np.bool_], Array]:
    """The rows that can be true together, the least surprising first, and the chi2 (m,) each had before any was taken.

    Each that is taken updates what is expected of the others (a Kalman update), so that after a few true ones a wrong
    one stands out. begin: believed already, so that it is not asked.
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
