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
NEARLY = 10.0
"""A link whose own chi2 is at most so many times the bound is where the solution has it, whatever its covariance."""
_BY_CHANCE = 0.02  # largest probability that a wrong link would have been accepted as well
_NONLINEAR = 0.02  # error of the linearised residual, as a share of its translation


def compatible(
    rows: Rows, covariance: Array, begin: int | None = None, asked: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], Array]:
    """Which rows (m,) can be true together, and the chi2 (m,) of each before any was accepted.

    The row with the least squared Mahalanobis distance is accepted first. Each accepted row updates residuals and
    covariances of the others (a Kalman update), so that after a few true rows a wrong one exceeds the bound (joint
    compatibility, Neira and Tardos 2001).

    Args:
        rows: m linearised residuals.
        covariance: (7m, 7m) of the residuals, from the uncertainty of the solution.
        begin: a row that is already part of the solution and is not tested.
        asked: which rows (m,) may be accepted; None: all.
    """
    number = len(rows.residual)
    residual, covariance = rows.residual.copy().ravel(), covariance.copy()
    own = _own_covariance(rows)
    barred = np.zeros(number, bool) if asked is None else ~asked
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
        left = np.where(taken | barred, np.inf, chi2())
        best = int(np.argmin(left))
        if not left[best] < BOUND:
            break
        taken[best] = True
        mine = slice(best * 7, best * 7 + 7)
        gain = np.linalg.solve(covariance[mine, mine] + own[best], covariance[mine]).T
        residual = residual - gain @ residual[mine]
        covariance = covariance - gain @ covariance[mine]
    return taken, first


def confirmed(
    rows: Rows, covariance: Array, reach: Array, begin: int | None = None
) -> tuple[NDArray[np.bool_], Array, bool]:
    """As `compatible`, without rows that a wrong link would satisfy too.

    Where the solution hardly determines the ends of a link relative to each other, nearly every link is compatible. A
    row is confirmed if, with all other accepted rows in the solution, at most one wrong link in fifty would be
    compatible by chance. A wrong link has any heading, and connects its frame with any place of the city.

    Args:
        rows, covariance, begin: as in `compatible`.
        reach: radius (m,) of the city in the units of the rows' translations.

    Returns:
        Which rows can be true together, the chi2 of each, and whether `begin` is confirmed too (True without one, and
        where no other row is accepted, so that there is nothing that could confirm it).
    """
    asked = np.ones(len(rows.residual), bool)
    while True:
        taken, chi2 = compatible(rows, covariance, begin, asked)
        chances = _chances(rows, covariance, reach, np.flatnonzero(taken), begin)
        doubtful = np.zeros(len(asked), bool)
        doubtful[np.flatnonzero(taken)] = chances > _BY_CHANCE
        begins_well = begin is None or int(taken.sum()) == 1 or not doubtful[begin]
        if begin is not None:
            doubtful[begin] = False
        if not begins_well or not doubtful.any():
            return taken & ~doubtful, chi2, begins_well
        asked &= ~doubtful


def _own_covariance(rows: Rows) -> Array:
    """Covariances (m, 7, 7) of the measurements, with the error of linearisation."""
    own = np.linalg.inv(rows.information)
    miss = _NONLINEAR * np.linalg.norm(rows.residual[:, 3:6], axis=1)
    own[:, [3, 4, 5], [3, 4, 5]] += miss[:, None] ** 2
    return np.asarray(own)


def _chances(rows: Rows, covariance: Array, reach: Array, taken: NDArray[np.int64], begin: int | None) -> Array:
    """For each of the rows `taken` (k,), the probability that a wrong link in its place would be compatible with the
    solution and the other ones."""
    own = _own_covariance(rows)
    rest = taken[taken != begin]
    at = (rest[:, None] * 7 + np.arange(7)).ravel()
    joint = covariance[np.ix_(at, at)]
    for n, row in enumerate(rest):
        joint[n * 7 : n * 7 + 7, n * 7 : n * 7 + 7] += own[row]
    inverse = np.linalg.inv(joint)
    answer = np.ones(len(taken))
    for n, row in enumerate(rest):  # its covariance if all other rows are known
        spread = np.linalg.inv(inverse[n * 7 : n * 7 + 7, n * 7 : n * 7 + 7])
        answer[taken == row] = _chance(spread, float(reach[row]))
    if begin is not None:
        mine = slice(begin * 7, begin * 7 + 7)
        after = covariance[mine, mine] - covariance[mine, at] @ inverse @ covariance[at, mine]
        # The row is part of the solution: what the solution would know without it follows from how much that adds.
        root = np.linalg.cholesky(np.linalg.inv(rows.information[begin]))
        back = np.linalg.inv(root)
        share, axes = np.linalg.eigh(back @ after @ back.T)
        axes = root @ axes / np.sqrt(np.maximum(1 - share, 1e-12))
        answer[taken == begin] = _chance(axes @ axes.T, float(reach[begin]))
    return answer


def _chance(spread: Array, reach: float) -> float:
    """The probability that a wrong link's residual is within the bound of a covariance (7, 7)."""
    turn = np.sqrt(BOUND * np.linalg.eigvalsh(spread[:3, :3])[-1]) / np.pi
    places = np.linalg.eigvalsh(spread[3:6, 3:6])
    area = BOUND * np.sqrt(max(places[-1] * places[-2], 0.0)) / max(reach, 1e-9) ** 2
    return float(min(turn, 1.0) * min(area, 1.0))
