"""Overlaps -> every chunk in one frame; loops -> accepted, with the trajectory bent to them, or thrown
out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from pipeline.backend.config import BackendConfig
from pipeline.backend.drift import DriftPrior, estimate_drift, inflation_of
from pipeline.backend.loop_selection import corroborated, greedy_joint_compatibility, mahalanobis_squared
from pipeline.backend.normal_equations import (
    Group,
    NormalEquations,
    PoseResiduals,
    State,
    height_residuals,
    linearised,
    place,
    residuals,
    retract,
    units,
)
from pipeline.backend.overlap import Overlap
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Array, Sim3, cross_matrix

_FEWEST = 4  # loops that can say something of the chain as a whole
_LOOSEST = 10.0  # most by which they may call the chain's variance too small
_SOFTEST = 1e4  # most by which the chain's weight falls so that accepted loops can bend it
_ROUNDS = 12  # times the set of accepted loops may change


@dataclass(frozen=True, eq=False)
class Noise:
    """How far rows of overlaps are off: deviation (3,) of one frame's turn, place (world units), depth (in
    its own standard errors); inflation (3,): variance by which a mean of many is worse than of independent
    ones."""

    deviation: Array
    inflation: Array


@dataclass(frozen=True, eq=False)
class Solution:
    """State with what it was made from; `variance_inflation` is the factor by which loops found the chain too sure.

    weight (n, 7): information of `rows` as it was used; softness: what the drift prior's variance was raised by;
    closing: the rows of loops and their information, zero where rejected; None without loops. heights: above the road,
    None where they have no say.
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
    """accepted; residual: distance in world units left between both ways to the place; chi2: squared
    residual in its deviations (7 degrees of freedom); reason in words."""

    accepted: bool
    residual: float
    chi2: float
    reason: str


def chain_guess(overlaps: Sequence[Overlap], count: int, *, scale: bool = True) -> State:
    """The plain twin: each chunk set onto the one before by robust averages, no drift."""
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
    overlaps: Sequence[Overlap], count: int, span: float, config: BackendConfig, heights: Heights | None = None
) -> Solution:
    """All chunks from the overlaps of neighbours (`count` chunks, `count - 1` overlaps in order), and from the heights
    above the road of those that see one."""
    state = chain_guess(overlaps, count, scale=config.scale)
    if heights is not None and len(heights):
        state = replace(state, log_height=float(np.median(height_residuals(state, heights))))
    if not overlaps:
        return replace(_alone(state, span), heights=heights)
    rows = PoseResiduals.of(overlaps, span, state.scale)
    prior = estimate_drift(overlaps, state.rotation, span)
    weight = np.ones((len(rows), 7))
    for iteration in range(config.iterations):
        residual, jacobian = linearised(state, rows)
        weight = _weights(residual, rows, _noise(residual, state, rows))
        group = Group(rows, weight, residual, jacobian)
        step = NormalEquations(state, [group], prior, scale=config.scale, drift=config.drift, heights=heights).step
        state = retract(state, step)
        if iteration > 1 and np.abs(step[:-1, :4]).max() < 1e-5:
            break
    noise = _noise(residuals(state, rows), state, rows)
    return Solution(state, rows, weight, noise, prior, heights=heights)


def _alone(state: State, span: float) -> Solution:
    """The one chunk of a drive that needs no other."""
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
    """Bend the chain to the loops (one row each) that can be true; the others are rejected with a reason."""
    degrees = 7 if config.scale else 6
    bound = float(chi2_distribution.ppf(config.loop_confidence, degrees))
    quarter = float(chi2_distribution.ppf(0.25, degrees))
    state = chain.state
    information = 1 / rows.deviation**2
    if not config.scale:
        information[:, 6] = 0
    normal = NormalEquations(
        state,
        [Group.of(state, chain.rows, chain.weight)],
        chain.prior,
        scale=config.scale,
        drift=config.drift,
        common=True,
        heights=chain.heights,
    )
    residual = residuals(state, rows)
    known = normal.covariance(state, rows)
    strict, trends = _unseen(state, rows, config)
    strict += known
    covariance = strict + trends
    squared = mahalanobis_squared(residual, covariance, rows.deviation, degrees)
    # If even the quarter of the loops that fits best is surprising, the chain is less sure than it believes:
    # but a few loops do not say so, and beyond a limit it is the loops that are wrong.
    variance_inflation = 1.0
    if len(rows) >= _FEWEST:
        variance_inflation = float(np.clip(np.quantile(squared, 0.25) / quarter, 1.0, _LOOSEST))
    accepted = greedy_joint_compatibility(residual, variance_inflation * covariance, rows.deviation, degrees, bound)
    if variance_inflation > 1 and accepted.sum() < 0.25 * len(rows):
        # That quarter does not even agree among itself: it is no witness against the chain.
        variance_inflation = 1.0
        accepted = greedy_joint_compatibility(residual, covariance, rows.deviation, degrees, bound)
    accepted = corroborated(residual, strict, variance_inflation * covariance, rows.deviation, degrees, bound, accepted)
    plausible = squared < bound * variance_inflation
    coarse, chi2 = 1.0, squared
    softness = _softness(residual, known, covariance, rows.deviation, accepted, degrees, variance_inflation)
    softened = chain.weight / softness
    for _ in range(_ROUNDS):
        for _ in range(config.iterations):
            chained = Group.of(state, chain.rows, softened)
            closing = Group.of(state, rows, information * (accepted / coarse)[:, None])
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
            coarse = max(1.0, float(np.median(chi2[accepted])) / float(chi2_distribution.ppf(0.5, degrees)))
            # The worst go first: what they bend may be all that is wrong with the others.
            limit = max(bound * coarse, float(chi2[accepted].max()) / 4)
            accepted = accepted & (chi2 <= limit)
        if (accepted == before).all():
            accepted = plausible & (chi2 <= bound * coarse)
            if (accepted == before).all():
                break
    verdicts = []
    for n in range(len(rows)):
        distance = float(np.linalg.norm(residual[n, 3:6]) / units(state, rows)[n])
        if accepted[n]:
            reason = "agrees with the chain and the other loops"
        else:
            turn = float(np.degrees(np.linalg.norm(residual[n, :3])))
            reason = (
                f"contradicts the trajectory by {distance:.3g} units, {turn:.3g} degrees and a scale of "
                f"{np.exp(residual[n, 6]):.3g}: chi2 {chi2[n] / coarse:.3g}, at most {bound:.3g} allowed"
            )
        verdicts.append(LoopVerdict(bool(accepted[n]), distance, float(chi2[n] / coarse), reason))
    used = information * (accepted / coarse)[:, None]
    solution = replace(
        chain,
        state=state,
        variance_inflation=variance_inflation,
        softness=softness,
        closing=(rows, used),
    )
    return solution, verdicts


def _unseen(state: State, rows: PoseResiduals, config: BackendConfig) -> tuple[Array, Array]:
    """Twice (7n, 7n): covariance of the loops' residuals from what overlaps cannot show, at random and by trends.

    Two chunks see the same frames and err alike, so that their agreement says too little of how far both are off. Each
    joint on the way between the ends of a loop is given an error of its own, a random walk: a turn about the joint, a
    stretch from there on, a shift. Loops share the joints that they share. Trends go through all joints (`_trends`).
    """
    joint = state.translation[1:]
    way = np.linalg.norm(np.diff(state.translation, axis=0), axis=1)
    sigma = np.concatenate(
        [
            np.full((len(joint), 3), config.unseen_turn),
            np.repeat(config.unseen_place * way[:, None], 3, axis=1),
            np.full((len(joint), 1), config.unseen_scale if config.scale else 0.0),
        ],
        axis=1,
    )
    at = [
        place(state, rows.first, rows.pose_first, rows.along_first, rows.moment_first)[1],
        place(state, rows.second, rows.pose_second, rows.along_second, rows.moment_second)[1],
    ]
    later = np.where((rows.first > rows.second)[:, None], *at)
    low, high = np.minimum(rows.first, rows.second), np.maximum(rows.first, rows.second)
    number = np.arange(len(joint))
    on_way = (number >= low[:, None]) & (number < high[:, None])
    arm = later[:, None] - joint
    moves = np.zeros((len(rows), len(joint), 7, 7))
    moves[:, :, :3, :3] = np.eye(3)
    moves[:, :, 3:6, :3] = -cross_matrix(arm)
    moves[:, :, 3:6, 3:6] = np.eye(3)
    moves[:, :, 3:6, 6] = arm
    moves[:, :, 6, 6] = 1
    moves[:, :, 3:6] *= units(state, rows)[:, None, None, None]
    moves *= np.where(rows.first > rows.second, 1, -1)[:, None, None, None] * on_way[:, :, None, None]
    walk = (moves * sigma[:, None]).transpose(0, 2, 1, 3).reshape(7 * len(rows), -1)
    trend = np.einsum("njik,jkt->nit", moves, _trends(state, config)).reshape(7 * len(rows), -1)
    return np.asarray(walk @ walk.T), np.asarray(trend @ trend.T)


def _trends(state: State, config: BackendConfig) -> Array:
    """(joints, 7, 4): errors of one deviation that go through a whole drive: every chunk leans the same way about its
    own axes, or is seen larger than the one before."""
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
    """By how much the chain's variance is raised when loops bend it: as the accepted ones ask, and no more than what
    overlaps cannot show is worth over the known."""
    if not accepted.any():
        return least
    asked = mahalanobis_squared(residual, known, deviation, degrees)[accepted]
    own = np.arange(len(residual))[accepted]
    with np.errstate(divide="ignore"):
        worth = [
            np.trace(covariance[n * 7 : n * 7 + 3, n * 7 : n * 7 + 3])
            / np.trace(known[n * 7 : n * 7 + 3, n * 7 : n * 7 + 3])
            for n in own
        ]
    wanted = min(float(np.median(asked)) / float(chi2_distribution.ppf(0.5, degrees)), float(np.median(worth)))
    return float(np.clip(wanted, least, _SOFTEST))


def _noise(residual: Array, state: State, rows: PoseResiduals) -> Noise:
    """Robust deviations of the residuals (n, 7), and how alike neighbouring frames err."""
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
    """(n, 7) information of each row: pooled noise, overlaps that are noisier than the rest, Huber at 3."""
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
    """(k,) medians of the first-sorted `count` numbers of each row of values (k, n), padded with NaN."""
    ordered, row = np.sort(values, axis=1), np.arange(len(values))
    return np.asarray((ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / 2)
