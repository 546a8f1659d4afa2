"""Fixes as factors in the pose graph: a trajectory in metres, east-north-up, with its clock offset and deviations.

Unknowns beside those of the chunks: the receiver's slow error (a first-order Gauss-Markov process an axis, sampled on
knots), the clock offset and, where asked for, the antenna's lever arm. A fix a second is no new witness a second: what
fixes have in common over a minute goes into the slow error, not into the trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.frame_track import FrameTrack, Placed, placed_at
from pipeline.backend.normal_equations import WIDTH, Group, State, assemble, damped, factorised, retract
from pipeline.backend.pose_graph import Solution
from pipeline.backend.sim3 import Array, Sim3, cross_matrix

# Times after which a receiver's slow error has forgotten most of itself. The atmosphere's share, slowest, goes upwards.
WANDER_S = np.array([60.0, 60.0, 100.0])
_LAG_S, _LONGEST_S = 10.0, 300.0  # of a receiver that claims nothing: where its residuals tell how long that lasts
_CENTRED = 0.5  # share of the fixes' plain mean in where the drive lies as a whole
VERTICAL = 1.8  # a receiver's vertical error over its horizontal, where it claims none
_MINUTE_S = 60.0  # fixes nearer than this have most of their error in common
_KNOT_S = 2.0  # between samples of the slow error
_WHITE_SHARE = 0.35  # of a claimed accuracy, until the fixes themselves have shown their noise
_LEAST_WHITE_M = 0.02
_JITTER_S = 0.01  # by which stamps of fixes scatter, whatever they were made by; it is worth metres at speed
_LEAST_SLOW_M = 0.5  # slow error of a receiver that claims nothing, at least
# Where a drive says little of the clocks' offset (a straight road at one speed) it is near zero, give or take this, or
# the offset that the search along the whole drive began with, where that is more.
_CLOCK_DEVIATION_S = 0.2
_OUTLIER = 3.5  # deviations beyond which a fix is none
_ROLL = np.radians(2.0)  # deviation of the camera's mount from level, about its axis of view, over a whole drive
_COARSE_ROUNDS, _FINE_ROUNDS = 6, 5
_STRAY_M = 3.0  # moves of chunks after which overlaps are linearised again
_DONE_M = 0.01  # a step that moves no camera by more is the last


@dataclass(frozen=True, eq=False)
class SlowError:
    """knot_s (k,): times on the receiver's clock; value (k, 3): metres; low (m,), share (m,): a fix's knots."""

    knot_s: Array
    value: Array
    low: NDArray[np.int64]
    share: Array

    @staticmethod
    def at(time_s: Array) -> SlowError:
        """Knots about the fixes at time_s (m,), rising; a gap has none."""
        grid = np.floor((time_s - time_s[0]) / _KNOT_S).astype(np.int64)
        numbers = np.unique(np.concatenate([grid, grid + 1]))
        low = np.searchsorted(numbers, grid)
        share = (time_s - time_s[0]) / _KNOT_S - grid
        return SlowError(time_s[0] + numbers * _KNOT_S, np.zeros((len(numbers), 3)), low, share)

    def of_fixes(self) -> Array:
        """(m, 3): the slow error at each fix."""
        return (1 - self.share)[:, None] * self.value[self.low] + self.share[:, None] * self.value[self.low + 1]

    def information(self, deviation: Array, wander_s: Array) -> scipy.sparse.csc_matrix:
        """(3k, 3k): inverse covariance of the knots for stationary deviations (3,), forgotten after wander_s (3,)."""
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


@dataclass(frozen=True, eq=False)
class Fused:
    """solution: its state is in metres, east-north-up about the fixes' origin; offset_s: receiver minus drive; used
    (m,); residual (m, 3): fix minus antenna; white, wander (3,): deviations of the quick and slow error, metres;
    lever (3,); deviation (n, 3): of the track's frames, metres; offset_deviation_s."""

    solution: Solution
    offset_s: float
    offset_deviation_s: float
    used: NDArray[np.bool_]
    residual: Array
    white: Array
    wander: Array
    lever: Array
    deviation: Array


class PositionFusion:
    """One drive's fixes against one solution. enu (m, 3) at fix_time_s (m,), rising; accuracy, vertical (m,): m."""

    def __init__(
        self,
        solution: Solution,
        track: FrameTrack,
        fix_time_s: Array,
        enu: Array,
        accuracy: Array,
        vertical: Array,
        config: BackendConfig,
        *,
        window_s: float,
        lever: Array,
        claims: bool = True,
    ) -> None:
        self.solution, self.track, self.config = solution, track, config
        self.fix_time_s, self.enu = fix_time_s, enu
        self.claimed = np.stack([accuracy, accuracy, vertical], 1)
        self.flat = ~np.isfinite(enu[:, 2])
        self.enu = np.where(np.isfinite(enu), enu, 0.0)
        self.window_s, self.lever, self.claims = window_s, lever, claims
        self.slow = SlowError.at(fix_time_s)
        self.offset_s, self.searched_s, self.wander_s = 0.0, 0.0, WANDER_S
        self.last: tuple[State, float, Placed] | None = None
        self.chain: tuple[scipy.sparse.csc_matrix, Array] | None = None
        self.strayed = 0.0
        count = np.maximum(np.bincount(track.chunk, minlength=len(solution.state.scale)), 1)
        self.across = np.stack(  # the mean of the cameras' x axes in each chunk's own frame
            [np.bincount(track.chunk, track.pose[:, c, 0], len(count)) / count for c in range(3)], 1
        )
        gap = float(np.median(np.diff(fix_time_s))) if len(fix_time_s) > 1 else _MINUTE_S
        self.crowding = max(1.0, 2 * _MINUTE_S / max(gap, 1e-3))  # fixes that are worth one, at most
        # Claims differ by chance; one that is twice the usual means it.
        self.doubt = np.maximum(1.0, self.claimed / (2 * np.median(self.claimed, axis=0))) ** 2
        self.rate_excess = max(1.0, 1.0 / max(gap, 1e-3))  # receivers smooth over a second or so

    def run(self, enu_from_world: Sim3, offset_s: float) -> Fused:
        """Start from a similarity and an offset; coarse rounds find the outliers, fine ones the answer."""
        state = moved(self.solution.state, enu_from_world)
        self.offset_s = self.searched_s = offset_s
        share = _WHITE_SHARE * np.median(self.claimed, axis=0)
        white, wander = share, np.sqrt(np.maximum(np.median(self.claimed, axis=0) ** 2 - share**2, share**2))
        gate = np.ones(len(self.enu))
        for _ in range(_COARSE_ROUNDS):
            residual = self._residual(state)
            gate = self._gate(residual)
            state, step = self._step(state, gate[:, None] / (self.claimed**2 * self.crowding), None)
            if step < 0.3:
                break
        weight = np.ones((len(self.enu), 3))
        for number in range(_FINE_ROUNDS):
            residual = self._residual(state)
            gate = (self._gate(residual) > 0.25).astype(float)
            white = self._white(residual, gate > 0)
            wander = self._wander(residual, gate > 0, white)
            if not self.claims:
                self.wander_s = self._wander_s(residual, gate > 0, white, wander)
            scaled = (residual - self.slow.of_fixes()) / white
            weight = np.minimum(1.0, 3 / np.maximum(np.abs(scaled), 1e-9)) if number else np.ones_like(scaled)
            information = gate[:, None] * weight / (white**2 * self.rate_excess * self.doubt)
            state, step = self._step(state, information, wander)
            if number > 1 and step < _DONE_M:
                break
        residual = self._residual(state)
        used = (self._gate(residual) > 0.25) & self._inside()
        state, residual = self._centred(state, residual, used)
        deviation, offset_deviation = self._deviations(state)
        return Fused(
            replace(self.solution, state=state),
            self.offset_s,
            offset_deviation,
            used,
            residual,
            white,
            wander,
            self.lever,
            deviation,
        )

    def _centred(self, state: State, residual: Array, used: NDArray[np.bool_]) -> tuple[State, Array]:
        """Moved sideways as a whole half way to the fixes' mean. What is best by the slow error's model leans on the
        first and last fixes for its place; it is hardly surer than the mean, and the two err differently."""
        shift = np.zeros(3)
        shift[:2] = _CENTRED * residual[used, :2].mean(0) if used.any() else 0.0
        residual = residual - shift
        return moved(state, Sim3(1.0, np.eye(3), shift)), residual

    def _inside(self) -> NDArray[np.bool_]:
        return self.track.between(self.fix_time_s - self.offset_s)[2]

    def _placed(self, state: State) -> Placed:
        if self.last is None or self.last[0] is not state or self.last[1] != self.offset_s:
            placed = placed_at(state, self.track, self.fix_time_s - self.offset_s, self.lever)
            self.last = state, self.offset_s, placed
        return self.last[2]

    def _residual(self, state: State) -> Array:
        """(m, 3): fix minus antenna; zero upwards where a fix has no altitude."""
        residual = self.enu - self._placed(state).place
        residual[self.flat, 2] = 0.0
        return residual

    def _gate(self, residual: Array) -> Array:
        """(m,): Geman-McClure weights of whole residuals over what fixes of this drive are usually off by."""
        return gate_of(residual, self.claimed, self._inside())

    def _white(self, residual: Array, kept: NDArray[np.bool_]) -> Array:
        """(3,): quick error, from differences of fixes that follow each other; no less than the scatter of stamps."""
        near = kept[1:] & kept[:-1] & (np.diff(self.fix_time_s) < 0.1 * _MINUTE_S)
        claimed = np.median(self.claimed, axis=0)
        assert self.last is not None
        speed = float(np.median(np.linalg.norm(self.last[2].velocity, axis=1)))
        least = np.array([1.0, 1.0, 0.1]) * max(_LEAST_WHITE_M, _JITTER_S * speed)  # roads are level
        if near.sum() < 20:
            return np.maximum(_WHITE_SHARE * claimed, least)
        steps = np.diff(residual, axis=0)[near]
        return np.clip(1.4826 * np.median(np.abs(steps), axis=0) / np.sqrt(2), least, np.maximum(2 * claimed, least))

    def _wander(self, residual: Array, kept: NDArray[np.bool_], white: Array) -> Array:
        """(3,): slow error; as claimed, or as the residuals show where that is more, or nothing is claimed."""
        claimed = np.median(self.claimed, axis=0)
        seen = 1.4826 * np.median(np.abs(residual[kept]), axis=0) if kept.sum() > 20 else claimed
        if self.claims:
            least = np.maximum(0.3 * claimed, _LEAST_WHITE_M)
            return np.sqrt(np.maximum(np.maximum(claimed, seen) ** 2 - white**2, least**2))
        slow = np.sqrt(np.maximum(seen**2 - white**2, _LEAST_SLOW_M**2))
        return np.array([slow[0], slow[1], max(slow[2], float(claimed[2]))])  # upwards the images say little

    def _wander_s(self, residual: Array, kept: NDArray[np.bool_], white: Array, wander: Array) -> Array:
        """(3,): how long the slow error lasts, from how much residuals change in _LAG_S; sideways only, and never
        shorter than it is for all receivers."""
        time_s, value = self.fix_time_s[kept], residual[kept, :2]
        later = np.searchsorted(time_s, time_s + _LAG_S)
        first = np.flatnonzero(later < len(time_s))
        later = later[first]
        near = time_s[later] - time_s[first] < 1.5 * _LAG_S
        if near.sum() < 20:
            return WANDER_S
        change = 1.4826**2 * np.median((value[later] - value[first])[near] ** 2, axis=0)
        change = np.clip((change - 2 * white[:2] ** 2) / (2 * wander[:2] ** 2), 1e-3, 0.999)
        lasting = np.clip(_LAG_S / -np.log1p(-change), WANDER_S[:2], _LONGEST_S)
        return np.array([*np.full(2, lasting.min()), WANDER_S[2]])

    def _chain(self, state: State) -> tuple[scipy.sparse.csc_matrix, Array]:
        """What overlaps, drift and loops say, linearised."""
        config, solution = self.config, self.solution
        groups = []
        if len(solution.rows):
            groups.append(Group.of(state, solution.rows, solution.weight / solution.softness))
        if solution.closing is not None:
            groups.append(Group.of(state, *solution.closing))
        matrix, gradient = assemble(
            state,
            groups,
            solution.prior,
            scale=True,
            drift=config.drift,
            common=bool(len(solution.rows)),
            variance_inflation=solution.softness,
            anchored=False,
            heights=solution.heights,
        )
        return matrix, gradient.ravel()

    def _system(
        self, state: State, information: Array, wander: Array | None
    ) -> tuple[scipy.sparse.csc_matrix, Array, int]:
        """Normal equations of chunks, offset and slow error: matrix, gradient, unknowns of chunks."""
        if self.chain is None or self.strayed > _STRAY_M:
            self.chain, self.strayed = self._chain(state), 0.0
        matrix, gradient = self.chain
        size, fixes, knots = matrix.shape[0], len(self.enu), len(self.slow.knot_s)
        placed = self._placed(state)
        residual = self._residual(state)
        information = information * self._inside()[:, None]
        information = np.where(self.flat[:, None] & (np.arange(3) == 2), 0.0, information)
        rows = [np.repeat(np.arange(3 * fixes).reshape(fixes, 3, 1), placed.columns.shape[1], 2).ravel()]
        columns = [np.repeat(placed.columns[:, None], 3, 1).ravel()]
        values = [placed.jacobian.ravel()]
        rows.append(np.arange(3 * fixes))
        columns.append(np.full(3 * fixes, size))
        values.append(-placed.velocity.ravel())
        total = size + 1
        if wander is not None:
            residual = residual - self.slow.of_fixes()
            for ahead, part in ((0, 1 - self.slow.share), (1, self.slow.share)):
                rows.append(np.arange(3 * fixes))
                columns.append((total + 3 * (self.slow.low + ahead)[:, None] + np.arange(3)).ravel())
                values.append(np.repeat(part, 3))
            total += 3 * knots
        jacobian = scipy.sparse.csc_matrix(
            (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(3 * fixes, total)
        )
        weighted = jacobian.multiply(information.ravel()[:, None]).tocsc()
        full = np.zeros(total)
        full[:size] = gradient
        full -= np.asarray(weighted.T @ residual.ravel()).ravel()
        # The clock: near zero where the drive does not tell, held where no window is asked for.
        held = 1e-9 if self.window_s <= 0 else float(np.hypot(_CLOCK_DEVIATION_S, self.searched_s))
        full[size] += self.offset_s / held**2
        blocks = [matrix, scipy.sparse.csc_matrix([[1 / held**2]])]
        if wander is not None:
            slow = self.slow.information(wander, self.wander_s)
            full[size + 1 :] += slow @ self.slow.value.ravel()
            blocks.append(slow)
        system = scipy.sparse.block_diag(blocks, format="csc") + (jacobian.T @ weighted)
        level, pull = self._level(state, total)
        return (system + level).tocsc(), full + pull, size

    def _level(self, state: State, total: int) -> tuple[scipy.sparse.csc_matrix, Array]:
        """The cameras' x axes lie level on the mean over the drive: what holds a straight drive's roll."""
        count = len(state.scale)
        has = np.bincount(self.track.chunk, minlength=count) > 0
        mean = np.einsum("nij,nj->ni", state.rotation, self.across)
        # d(up . x) = up . (turn cross x), the turn being rotation @ d in the chunk's own axes
        by_turn = np.einsum("nij,ni->nj", state.rotation, -cross_matrix(mean)[:, 2, :])
        information = has / (_ROLL**2 * has.sum())
        index = np.arange(count)[:, None] * WIDTH + np.arange(1, 4)
        block = information[:, None, None] * by_turn[:, :, None] * by_turn[:, None, :]
        rows, columns = np.repeat(index, 3, 1).ravel(), np.tile(index, (1, 3)).ravel()
        gradient = np.zeros(total)
        gradient[index] = information[:, None] * by_turn * mean[:, 2:]
        return scipy.sparse.csc_matrix((block.ravel(), (rows, columns)), shape=(total, total)), gradient

    def _step(self, state: State, information: Array, wander: Array | None) -> tuple[State, float]:
        """One Gauss-Newton step; returns how far it moved a chunk at most, metres."""
        system, gradient, size = self._system(state, information, wander)
        self.factor = factorised(system)
        self.size = size
        step = -self.factor.solve(gradient)
        own = step[:size].reshape(-1, WIDTH)
        short = damped(own)
        state = retract(state, short)
        moved_by = float(np.abs(short[:-1, 4:7]).max())
        assert self.chain is not None
        matrix, before = self.chain
        # Until it has moved far, what overlaps say is linear in the step.
        self.chain = matrix, before + matrix @ short.ravel()
        self.strayed += moved_by
        self.offset_s = float(np.clip(self.offset_s + step[size], -self.window_s, self.window_s))
        if wander is not None:
            value = self.slow.value + step[size + 1 :].reshape(-1, 3)
            self.slow = replace(self.slow, value=value)
        return state, moved_by

    def _deviations(self, state: State) -> tuple[Array, float]:
        """(n, 3): deviations of the cameras' positions, from about a hundred moments of the drive; and the offset's."""
        track = self.track
        some = np.unique(np.linspace(0, len(track) - 1, 100).astype(int))
        placed = placed_at(state, track, track.time_s[some], np.zeros(3))
        total = self.factor.shape[0]
        right = np.zeros((total, 3 * len(some) + 1))
        for n in range(len(some)):
            np.add.at(right[:, 3 * n : 3 * n + 3], placed.columns[n], placed.jacobian[n].T)
        right[self.size, -1] = 1
        solved = self.factor.solve(right)
        variance = np.maximum((right * solved).sum(0), 0)
        spread = np.sqrt(variance[:-1]).reshape(-1, 3)
        every = [np.interp(track.time_s, track.time_s[some], spread[:, c]) for c in range(3)]
        return np.stack(every, 1), float(np.sqrt(variance[-1]))


def gate_of(residual: Array, claimed: Array, inside: NDArray[np.bool_]) -> Array:
    """(m,): Geman-McClure weights of whole residuals (m, 3) over what fixes of this drive are usually off by, and over
    their claimed deviations (m, 3)."""
    ratio = claimed[:, 2] / claimed[:, 0]
    length = np.sqrt(residual[:, 0] ** 2 + residual[:, 1] ** 2 + (residual[:, 2] / ratio) ** 2)
    usual = float(np.median(length[inside])) / 1.538 if inside.any() else 1.0
    limit = _OUTLIER * np.maximum(usual, claimed[:, 0]) * 1.25
    return np.asarray(inside / (1 + (length / limit) ** 2) ** 2)


def moved(state: State, transform: Sim3) -> State:
    """A state seen from another frame: rates and chaining belong to the chunks and stay."""
    return replace(
        state,
        scale=state.scale * transform.scale,
        rotation=transform.rotation @ state.rotation,
        translation=transform.apply(state.translation),
        log_height=state.log_height + float(np.log(transform.scale)),
    )
