"""Selects the loops that can be true: how large each residual is against its uncertainty, and which loops agree.

Arguments of all functions: residual (L, 7) of L loops: rotation, position, log depth as in `normal_equations`;
covariance (7L, 7L): of these residuals as the chain predicts them; deviation (L, 7): of each loop's own measurement;
degrees: how many of the seven numbers are used (without scale six); bound: largest accepted chi2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Array


def mahalanobis_squared(residual: Array, covariance: Array, deviation: Array, degrees: int) -> Array:
    """(L,) squared Mahalanobis distances; each loop's own variance is added to its covariance."""
    own = np.arange(len(residual))
    blocks = covariance.reshape(len(own), 7, len(own), 7)[own, :, own]
    blocks = blocks + deviation[:, :, None] ** 2 * np.eye(7)
    part, blocks = residual[:, :degrees], blocks[:, :degrees, :degrees]
    return np.asarray(np.einsum("ni,ni->n", part, np.linalg.solve(blocks, part[:, :, None])[:, :, 0]))


def greedy_joint_compatibility(
    residual: Array, covariance: Array, deviation: Array, degrees: int, bound: float
) -> NDArray[np.bool_]:
    """(L,) bool: loops that can be true together. They are accepted one by one, the smallest distance first.

    Each accepted loop updates the expected residuals of the others (a Kalman update in the linear model). After a few
    true loops, a wrong one has a large distance even if the chain was uncertain before.
    """
    count = len(residual)
    taken = np.zeros(count, bool)
    residual, covariance = residual.copy(), covariance.copy()
    # The linear model is off by about 2 % of a large correction.
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
    """The accepted loops without those that only the wider model of the chain allows and no other loop confirms.

    strict: the covariance without trends and inflated variance. A loop that is possible with it needs no confirmation.
    For any other loop, the other accepted loops must predict it at least as precisely as the strict model would. This
    keeps out a single wrong loop among few true ones; two wrong loops would have to agree by chance.
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
