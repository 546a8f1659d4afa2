"""Which loops can be true: how far each is off in units of its own uncertainty, and which agree with each other.

Residuals (L, 7) of L loops: turn, log scale or place as in `normal_equations`; covariance (7L, 7L) of what the chain
predicts of them; deviation (L, 7) of each loop alone; degrees: the first so many of the seven count; bound: of chi2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array


def mahalanobis_squared(residual: Array, covariance: Array, deviation: Array, degrees: int) -> Array:
    """(L,) squared residuals (L, 7) in units of their covariance (7L, 7L), own deviation added."""
    own = np.arange(len(residual))
    blocks = covariance.reshape(len(own), 7, len(own), 7)[own, :, own]
    blocks = blocks + deviation[:, :, None] ** 2 * np.eye(7)
    part, blocks = residual[:, :degrees], blocks[:, :degrees, :degrees]
    return np.asarray(np.einsum("ni,ni->n", part, np.linalg.solve(blocks, part[:, :, None])[:, :, 0]))


def greedy_joint_compatibility(
    residual: Array, covariance: Array, deviation: Array, degrees: int, bound: float
) -> NDArray[np.bool_]:
    """The loops that can be true together: one after the other, the least surprising first.

    Each that is taken updates what is expected of the others (a Kalman update in the linear model), so that
    after a few true ones a wrong one stands out however unsure the chain was before.
    """
    count = len(residual)
    taken = np.zeros(count, bool)
    residual, covariance = residual.copy(), covariance.copy()
    # A linear model misses a little of a large correction: 2 %.
    deviation = deviation.copy()
    deviation[:, 3:6] = np.hypot(deviation[:, 3:6], 0.02 * np.linalg.norm(residual[:, 3:6], axis=1)[:, None])
    for _ in range(count):
        distance = np.where(taken, np.inf, mahalanobis_squared(residual, covariance, deviation, degrees))
        best = int(np.argmin(distance))
        if not distance[best] < bound:
            break
        taken[best] = True
        mine = slice(best * 7, best * 7 + degrees)
        own = covariance[mine, mine] + np.diag(deviation[best, :degrees] ** 2)
        gain = np.linalg.solve(own, covariance[mine]).T
        residual -= (gain @ residual[best, :degrees]).reshape(count, 7)
        covariance -= gain @ covariance[mine]
    return taken


def corroborated(
    residual: Array,
    strict: Array,
    covariance: Array,
    deviation: Array,
    degrees: int,
    bound: float,
    accepted: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """The accepted loops without those that only a loose model of the chain allows.

    A loop that is possible without trends and inflated variance stands alone. Another needs witnesses: when the
    other accepted loops are believed, they must tell as much of it as the strict model would have. One wrong loop
    among none or few true ones is so held off; two would have to agree by chance.
    """
    alone = greedy_joint_compatibility(residual, strict, deviation, degrees, bound)
    least = alone.sum()
    own = np.arange(len(residual))[:, None] * 7 + np.arange(degrees)
    while True:
        backed = accepted.copy()
        for n in np.flatnonzero(accepted & ~alone):
            mine, others = own[n], own[accepted & (np.arange(len(residual)) != n)].ravel()
            heard = covariance[np.ix_(others, others)] + np.diag(deviation.ravel()[others] ** 2)
            told = covariance[np.ix_(mine, others)] @ np.linalg.solve(heard, covariance[np.ix_(others, mine)])
            left = np.diag(covariance)[mine] - np.diag(told)
            backed[n] = bool((left / (np.diag(strict)[mine] + deviation[n, :degrees] ** 2)).mean() <= 1)
        if (backed == accepted).all():
            return accepted if accepted.sum() >= least else alone
        accepted = backed
