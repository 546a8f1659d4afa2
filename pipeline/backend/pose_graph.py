"""The pose graph: overlaps place every chunk in one frame; loops are accepted and bend the trajectory, or rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.drift import DriftPrior, estimate_drift, inflation_of
from pipeline.backend.loop_selection import corroborated, greedy_joint_compatibility, mahalanobis_squared
from pipeline.backend.normal_equations import (
    LinearisedRows,
    NormalEquations,
    State,
    height_residuals,
    linearised,
    place,
    residuals,
    retract,
    units,
)
from pipeline.backend.overlap import Overlap
from pipeline.backend.pose_residuals import PoseResiduals
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Array, Sim3, cross_matrix
from pipeline.common.chi_squared import chi_squared_quantile

_FEWEST = 4  # loops; with fewer, the chain's variance is not judged by them
_LOOSEST = 10.0  # largest factor on the chain's variance that loops may cause
_SOFTEST = 1e4  # largest factor by which the chain's weight is lowered so that accepted loops can bend it
_ROUNDS = 12  # times that the set of accepted loops may change


@dataclass(frozen=True, eq=False)
class Noise:
    """Errors of the overlaps' rows. deviation (3,): of one frame's rotation (radians), position (world units) and
    depth (in its standard errors); inflation (3,): factor on the variance of a mean over frames, because errors of
    neighbouring frames are correlated."""

    deviation: Array
    inflation: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """A state, and what it was computed from.

    rows: of the overlaps; weight (n, 7): their information as used; variance_inflation: factor by which loops showed
    the chain's variance to be too small; softness: factor on the chain's variance when loops were closed; closing: the
    rows of loops and their information, zero where rejected, None without loops; heights: above the road, None if they
    are not used.
    """

    state: State
    rows: PoseResiduals
    weight: Array
    noise: Noise
    prior: DriftPrior
    variance_inflation: float = 1.0
    softness: float = 1.0
    closing: tuple[PoseResiduals, Array] | None = None
    heights: Heights | None = None


@dataclass(frozen=True)
class LoopVerdict:
    """accepted; residual: distance that remains between both placements, world units; chi2: squared residual in units
    of its variance (7 degrees of freedom, 6 without scale); reason in words."""

    accepted: bool
    residual: float
    chi2: float
    reason: str


def chain_guess(overlaps: Sequence[Overlap], count: int, *, scale: bool = True) -> State:
    """Each chunk is placed relative to the one before by robust averages, without drift: the start of Gauss-Newton, and
    the plain twin of `solve_chain`."""
    placed = [Sim3.identity()]
    for overlap in overlaps:
        placed.append(placed[-1] @ overlap.rigid_guess(scale=scale))
    return State(
        np.array([p.scale for p in placed]),
        np.stack([p.rotation for p in placed]),
        np.stack([p.translation for p in placed]),
        np.zeros((count, 2, 4)),
        np.zeros((2, 4)),
        0.5,
    )


def solve_chain(
    overlaps: Sequence[Overlap],
    count: int,
    span: float,
    config: BackendConfig,
    heights: Heights | None = None,
    looseness: Array | None = None,
) -> Solution:
    """Place all chunks by the overlaps of neighbours (`count` chunks, `count - 1` overlaps in order) and, if given, by
    the heights above the road. span: frames that rates of drift refer to; looseness: see `DriftPrior`."""
    state = chain_guess(overlaps, count, scale=config.scale)
    if heights is not None and len(heights):
        state = replace(state, log_height=float(np.median(height_residuals(state, heights))))
    if not overlaps:
        return replace(_without_overlaps(state, span), heights=heights)
    rows = PoseResiduals.of(overlaps, span, state.scale)
    prior = replace(estimate_drift(overlaps, state.rotation, span), looseness=looseness)
    weight = np.ones((len(rows), 7))
    for iteration in range(config.iterations):
        residual, jacobian = linearised(state, rows)
        weight = _weights(residual, rows, _noise(residual, state, rows))
        group = LinearisedRows(rows, weight, residual, jacobian)
        step = NormalEquations(state, [group], prior, scale=config.scale, drift=config.drift, heights=heights).step
        state = retract(state, step)
        if iteration > 1 and np.abs(step[:-1, :4]).max() < 1e-5:
            break
    noise = _noise(residuals(state, rows), state, rows)
    return Solution(state, rows, weight, noise, prior, heights=heights)


def _without_overlaps(state: State, span: float) -> Solution:
    """The solution of a drive of one chunk."""
    nothing = np.zeros(0)
    number = np.zeros(0, np.int64)
    poses, moments = np.zeros((0, 4, 4)), np.zeros((0, 3))
    rows = PoseResiduals(
        number,
        number,
        number,
        poses,
        poses,
        nothing,
        nothing,
        moments,
        moments,
        nothing,
        np.zeros((0, 7)),
        nothing,
    )
    noise = Noise(np.full(3, 1e-3), np.ones(3))
    return Solution(state, rows, np.zeros((0, 7)), noise, DriftPrior(np.full(4, 1e-5), np.zeros(4), span))


def close_loops(chain: Solution, rows: PoseResiduals, config: BackendConfig) -> tuple[Solution, list[LoopVerdict]]:
    """Bend the chain to the loops (one row each) that can be true; reject the others, each with a reason."""
    degrees = 7 if config.scale else 6
    bound = chi_squared_quantile(config.loop_confidence, degrees)
    state = chain.state
    normal = NormalEquations(
        state,
        [LinearisedRows.of(state, chain.rows, chain.weight)],
        chain.prior,
        scale=config.scale,
        drift=config.drift,
        common=True,
        heights=chain.heights,
    )
    residual = residuals(state, rows)
    known = normal.covariance(state, rows)
    strict, trends = _unseen_covariances(state, rows, config)
    strict += known
    covariance = strict + trends
    squared = mahalanobis_squared(residual, covariance, rows.deviation, degrees)
    accepted, variance_inflation = _select(residual, squared, covariance, rows.deviation, degrees, bound)
    accepted = corroborated(residual, strict, variance_inflation * covariance, rows.deviation, degrees, bound, accepted)
    softness = _softness(residual, known, covariance, rows.deviation, accepted, degrees, variance_inflation)
    plausible = squared < bound * variance_inflation
    bent = _bend(chain, rows, accepted, plausible, softness, degrees, bound, config)
    solution = replace(
        chain,
        state=bent.state,
        variance_inflation=variance_inflation,
        softness=softness,
        closing=(rows, bent.information),
    )
    return solution, _verdicts(bent, rows, bound)


def _select(
    residual: Array, squared: Array, covariance: Array, deviation: Array, degrees: int, bound: float
) -> tuple[NDArray[np.bool_], float]:
    """(L,) loops that can be true together, and the factor on the chain's variance with which they can."""
    # If even the best quarter of the loops has too large residuals, the chain's own variance is too small. A few loops
    # are not enough to conclude this, and beyond a limit the loops are wrong.
    variance_inflation = 1.0
    if len(squared) >= _FEWEST:
        quarter = chi_squared_quantile(0.25, degrees)
        variance_inflation = float(np.clip(np.quantile(squared, 0.25) / quarter, 1.0, _LOOSEST))
    accepted = greedy_joint_compatibility(residual, variance_inflation * covariance, deviation, degrees, bound)
    if variance_inflation > 1 and accepted.sum() < 0.25 * len(squared):
        # The loops of that quarter do not agree with each other, so they are no evidence against the chain.
        variance_inflation = 1.0
        accepted = greedy_joint_compatibility(residual, covariance, deviation, degrees, bound)
    return accepted, variance_inflation


@dataclass(frozen=True, eq=False)
class _Bent:
    """The chain after loops were closed. accepted (L,); residual (L, 7) and chi2 (L,) of every loop in the new state,
    chi2 relative to the accepted loops' own level; information (L, 7): as used, zero for rejected loops."""

    state: State
    accepted: NDArray[np.bool_]
    residual: Array
    chi2: Array
    information: Array


def _bend(
    chain: Solution,
    rows: PoseResiduals,
    accepted: NDArray[np.bool_],
    plausible: NDArray[np.bool_],
    softness: float,
    degrees: int,
    bound: float,
    config: BackendConfig,
) -> _Bent:
    """Solve chain and accepted loops together, and revise which loops are accepted until that does not change."""
    state = chain.state
    information = 1 / rows.deviation**2
    if not config.scale:
        information[:, 6] = 0
    coarse = 1.0  # factor by which accepted loops are less exact than their deviations say
    residual, chi2 = np.zeros((len(rows), 7)), np.zeros(len(rows))
    softened = chain.weight / softness
    for _ in range(_ROUNDS):
        for _ in range(config.iterations):
            chained = LinearisedRows.of(state, chain.rows, softened)
            closing = LinearisedRows.of(state, rows, information * (accepted / coarse)[:, None])
            normal = NormalEquations(
                state,
                [chained, closing],
                chain.prior,
                scale=config.scale,
                drift=config.drift,
                common=True,
                variance_inflation=softness,
                heights=chain.heights,
            )
            state = retract(state, normal.step)
            if np.abs(normal.step[:-1, :4]).max() < 1e-4:
                break
        residual = residuals(state, rows)
        chi2 = (residual**2 * information).sum(1)
        before = accepted
        if accepted.any():
            coarse = max(1.0, float(np.median(chi2[accepted])) / chi_squared_quantile(0.5, degrees))
            # The worst are removed first: they may have bent the trajectory away from the others.
            limit = max(bound * coarse, float(chi2[accepted].max()) / 4)
            accepted = accepted & (chi2 <= limit)
        if (accepted == before).all():
            accepted = plausible & (chi2 <= bound * coarse)
            if (accepted == before).all():
                break
    return _Bent(state, accepted, residual, chi2 / coarse, information * (accepted / coarse)[:, None])


def _verdicts(bent: _Bent, rows: PoseResiduals, bound: float) -> list[LoopVerdict]:
    """One verdict per loop, with its reason."""
    world_unit = units(bent.state, rows)
    verdicts = []
    for n in range(len(rows)):
        distance = float(np.linalg.norm(bent.residual[n, 3:6]) / world_unit[n])
        if bent.accepted[n]:
            reason = "agrees with the chain and the other loops"
        else:
            turn = float(np.degrees(np.linalg.norm(bent.residual[n, :3])))
            reason = (
                f"contradicts the trajectory by {distance:.3g} units, {turn:.3g} degrees and a scale of "
                f"{np.exp(bent.residual[n, 6]):.3g}: chi2 {bent.chi2[n]:.3g}, at most {bound:.3g} allowed"
            )
        verdicts.append(LoopVerdict(bool(bent.accepted[n]), distance, float(bent.chi2[n]), reason))
    return verdicts


def _unseen_covariances(state: State, rows: PoseResiduals, config: BackendConfig) -> tuple[Array, Array]:
    """Twice (7n, 7n): covariance of the loops' residuals from errors that overlaps do not show, random ones and trends.

    Neighbouring chunks see the same frames and make similar errors, so their agreement underestimates the error of
    both. Therefore each joint between two chunks on the path between the ends of a loop gets an independent random
    error: a rotation about the joint, a change of scale from there on, a translation. Two loops whose paths have joints
    in common are correlated by them. Trends are errors that are equal at all joints (`_trends`).
    """
    joint = state.translation[1:]
    length = np.linalg.norm(np.diff(state.translation, axis=0), axis=1)
    sigma = np.concatenate(
        [
            np.full((len(joint), 3), config.unseen_turn),
            np.repeat(config.unseen_place * length[:, None], 3, axis=1),
            np.full((len(joint), 1), config.unseen_scale if config.scale else 0.0),
        ],
        axis=1,
    )
    ends = [
        place(state, rows.first, rows.pose_first, rows.along_first, rows.moment_first)[1],
        place(state, rows.second, rows.pose_second, rows.along_second, rows.moment_second)[1],
    ]
    later = np.where((rows.first > rows.second)[:, None], *ends)
    low, high = np.minimum(rows.first, rows.second), np.maximum(rows.first, rows.second)
    number = np.arange(len(joint))
    on_path = (number >= low[:, None]) & (number < high[:, None])
    arm = later[:, None] - joint
    moves = np.zeros((len(rows), len(joint), 7, 7))
    moves[:, :, :3, :3] = np.eye(3)
    moves[:, :, 3:6, :3] = -cross_matrix(arm)
    moves[:, :, 3:6, 3:6] = np.eye(3)
    moves[:, :, 3:6, 6] = arm
    moves[:, :, 6, 6] = 1
    moves[:, :, 3:6] *= units(state, rows)[:, None, None, None]
    moves *= np.where(rows.first > rows.second, 1, -1)[:, None, None, None] * on_path[:, :, None, None]
    walk = (moves * sigma[:, None]).transpose(0, 2, 1, 3).reshape(7 * len(rows), -1)
    trend = np.einsum("njik,jkt->nit", moves, _trends(state, config)).reshape(7 * len(rows), -1)
    return np.asarray(walk @ walk.T), np.asarray(trend @ trend.T)


def _trends(state: State, config: BackendConfig) -> Array:
    """(joints, 7, 4): errors of one standard deviation that are equal at all joints: each chunk is rotated about its
    own axes by the same angle against the one before, or larger by the same factor."""
    before = state.rotation[:-1]
    trends = np.zeros((len(before), 7, 4))
    trends[:, :3, :3] = config.unseen_lean * before
    trends[:, 6, 3] = config.unseen_growth if config.scale else 0.0
    return trends


def _softness(
    residual: Array,
    known: Array,
    covariance: Array,
    deviation: Array,
    accepted: NDArray[np.bool_],
    degrees: int,
    least: float,
) -> float:
    """Factor on the chain's variance when loops bend it: so large that the accepted loops' residuals are as expected,
    but at most the ratio of the full covariance to the part that overlaps show."""
    if not accepted.any():
        return least
    squared = mahalanobis_squared(residual, known, deviation, degrees)[accepted]
    own = np.arange(len(residual))[accepted]
    with np.errstate(divide="ignore"):
        ratios = [
            np.trace(covariance[n * 7 : n * 7 + 3, n * 7 : n * 7 + 3])
            / np.trace(known[n * 7 : n * 7 + 3, n * 7 : n * 7 + 3])
            for n in own
        ]
    needed = float(np.median(squared)) / chi_squared_quantile(0.5, degrees)
    return float(np.clip(min(needed, float(np.median(ratios))), least, _SOFTEST))


def _noise(residual: Array, state: State, rows: PoseResiduals) -> Noise:
    """Robust deviations of the residuals (n, 7), and how correlated the errors of neighbouring frames are."""
    residual = residual / rows.deviation
    deviation, inflation = np.empty(3), np.ones(3)
    for g, part in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
        values = residual[:, part]
        known = np.isfinite(rows.deviation[:, 6])
        values = values[known] if g == 2 else values
        pair = rows.pair[known] if g == 2 else rows.pair
        spread = 1.4826 * float(np.median(np.abs(values))) if values.size else 1.0
        deviation[g] = max(spread, (1e-6, 1e-9 * float(np.abs(state.translation).max()) + 1e-12, 1e-3)[g])
        inflation[g] = inflation_of(np.clip(values, -3 * deviation[g], 3 * deviation[g]), pair)
    return Noise(deviation, inflation)


def _weights(residual: Array, rows: PoseResiduals, noise: Noise) -> Array:
    """(n, 7) information of each row: by the noise of all overlaps, lower in overlaps that are noisier than the others,
    and with Huber weights beyond 3 deviations."""
    deviation = rows.deviation * np.repeat(noise.deviation, (3, 3, 1))
    score = np.abs(residual) / deviation
    starts = np.nonzero(np.diff(rows.pair, prepend=-1))[0]
    length = np.diff([*starts, len(rows)])
    number = np.repeat(np.arange(len(starts)), length)
    padded = np.full((len(starts), length.max(), 7), np.nan)
    padded[number, np.arange(len(rows)) - np.repeat(starts, length)] = score
    for part in (slice(0, 3), slice(3, 6), slice(6, 7)):
        width = part.stop - part.start
        own = 1.4826 * _medians(padded[:, :, part].reshape(len(starts), -1), length * width)
        own = np.where((length > 4) & np.isfinite(own) & (own > 1.5), own, 1.0)[number, None]
        score[:, part] /= own
        deviation[:, part] *= own
    robust = np.minimum(1, 3 / np.maximum(score, 1e-12))
    with np.errstate(invalid="ignore"):
        weight = robust / (deviation**2 * np.repeat(noise.inflation, (3, 3, 1)))
    weight[:, 6] = np.where(np.isfinite(deviation[:, 6]), weight[:, 6], 0.0) + 1.0
    return np.asarray(weight)


def _medians(values: Array, count: NDArray[np.int64]) -> Array:
    """(k,) medians of the rows of values (k, n), each of which has `count` (k,) numbers and otherwise NaN."""
    ordered, row = np.sort(values, axis=1), np.arange(len(values))
    return np.asarray((ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2)
