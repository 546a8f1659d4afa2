"""Fixes as factors in the pose graph: a trajectory in metres, east-north-up, with its clock offset and deviations.

Unknowns besides those of the chunks: the receiver's slow error, the clock offset, the factor and the delay of a speed,
and the antenna's lever arm if the fixes determine it. Fixes a second apart are not independent: the error that they
share over a minute is estimated as the slow error and does not bend the trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.frame_track import FrameTrack, Placed, placed_at
from pipeline.backend.normal_equations import WIDTH, LinearisedRows, State, assemble, damped, factorised, retract
from pipeline.backend.pose_graph import Solution
from pipeline.backend.receiver_noise import (
    MINUTE_S,
    SCATTER_S,
    WANDER_S,
    WHITE_SHARE,
    gate_of,
    quick_deviation,
    slow_deviation,
    slow_lasts,
    wrong_upwards,
)
from pipeline.backend.sim3 import Array, Sim3, cross_matrix, rotation_exp
from pipeline.backend.slow_error import SlowError
from pipeline.backend.speed_factors import WHEEL, SpeedFactors
from pipeline.common.fixes import Speed

_CENTRED, _TURNED = 0.5, 0.15  # weights of the plain fit in the drive's position, and in its heading and scale
# Prior deviation of the clock offset. It matters if the drive hardly determines the offset (a straight road at one
# speed). If the search over the whole drive found a larger offset, that one is the deviation.
_CLOCK_DEVIATION_S = 0.2
BEYOND_S = 0.25  # an offset may leave the window by this much, so that one at its border differs from one beyond it
_ROLL = np.radians(2.0)  # deviation of the camera's mount from level, about its axis of view, over a whole drive
_COARSE_ROUNDS, _FINE_ROUNDS = 6, 5
_OWN = 6  # unknowns of the drive, placed between those of the chunks and the slow error: see `_system`
_LEVER = slice(3, 6)
_LEVER_M = 2.0  # prior deviation of the lever arm
_LEVER_SEEN_M = 0.3  # posterior deviation of a component of the lever arm; above it, the component is held at zero
_LEVER_CERTAIN = 4.0  # deviations by which some component must differ from zero; otherwise all are held at zero
_NO_ALTITUDE_M = 1e4  # deviation of an altitude that is not known: the height of the drive stays where it started
_HELD = 1e-9  # deviation that holds an unknown at its value
_STRAY_M = 3.0  # distance that chunks move before overlaps are linearised again
_DONE_M = 0.01  # a step that moves no chunk farther is the last one


@dataclass(frozen=True, eq=False)
class Fused:
    """solution: its state is in metres, east-north-up about the fixes' origin; offset_s: receiver minus drive; used
    (m,); residual (m, 3): fix minus antenna; white, wander (3,): deviations of the quick and slow error, metres;
    lever (3,), lever_estimated; deviation (n, 3): of the track's frames, metres; offset_deviation_s; speed_factor:
    distances by the speed over true ones, NaN if the speed was not used."""

    solution: Solution
    offset_s: float
    offset_deviation_s: float
    used: NDArray[np.bool_]
    residual: Array
    white: Array
    wander: Array
    lever: Array
    lever_estimated: bool
    deviation: Array
    speed_factor: float


class PositionFusion:
    """One drive's fixes and its solution. enu (m, 3) at fix_time_s (m,), rising; accuracy, vertical (m,): metres; lever
    (3,): None if it is to be estimated; claims: the receiver claims deviations; scatter_s: deviation of the times;
    speed: the car's, None if unknown."""

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
        lever: Array | None = None,
        claims: bool = True,
        scatter_s: float = SCATTER_S,
        speed: Speed | None = None,
    ) -> None:
        self.solution, self.track, self.config = solution, track, config
        self.fix_time_s, self.enu = fix_time_s, enu
        self.claimed = np.stack([accuracy, accuracy, vertical], 1)
        self.scatter_s = scatter_s
        self.no_altitude = ~np.isfinite(enu[:, 2])
        self.flat = self.no_altitude  # and altitudes that contradict the images
        self.enu = np.where(np.isfinite(enu), enu, 0.0)
        self.window_s, self.claims = window_s, claims
        self.lever, self.lever_given = np.zeros(3) if lever is None else lever, lever is not None
        self.lever_free = np.zeros(3, bool)
        self.speed, self.speed_factor, self.speed_lag_s = SpeedFactors.of(speed), 1.0, 0.0
        self.slow = SlowError.at(fix_time_s)
        self.offset_s, self.searched_s, self.wander_s = 0.0, 0.0, WANDER_S
        self.last: tuple[State, float, Array, Placed] | None = None
        self.chain: tuple[scipy.sparse.csc_matrix, Array] | None = None
        self.strayed = 0.0
        count = np.maximum(np.bincount(track.chunk, minlength=len(solution.state.scale)), 1)
        self.across = np.stack(  # the mean of the cameras' x axes in each chunk's own frame
            [np.bincount(track.chunk, track.pose[:, c, 0], len(count)) / count for c in range(3)], 1
        )
        gap = float(np.median(np.diff(fix_time_s))) if len(fix_time_s) > 1 else MINUTE_S
        self.crowding = max(1.0, 2 * MINUTE_S / max(gap, 1e-3))  # at most so many fixes count as one
        # Claimed deviations vary by chance. Only those above twice the usual one count as larger.
        self.doubt = np.maximum(1.0, self.claimed / (2 * np.median(self.claimed, axis=0))) ** 2
        self.rate_excess = max(1.0, 1.0 / max(gap, 1e-3))  # receivers smooth over about a second

    def run(self, enu_from_world: Sim3, offset_s: float) -> Fused:
        """Start from a similarity and an offset; coarse rounds find the outliers, fine ones the answer."""
        state = state_in_frame(self.solution.state, enu_from_world)
        self.offset_s = self.searched_s = offset_s
        share = WHITE_SHARE * np.median(self.claimed, axis=0)
        white, wander = share, np.sqrt(np.maximum(np.median(self.claimed, axis=0) ** 2 - share**2, share**2))
        gate = np.ones(len(self.enu))
        for _ in range(_COARSE_ROUNDS):
            residual = self._residual(state)
            gate = self._gate(residual)
            state, step = self._step(state, gate[:, None] / (self.claimed**2 * self.crowding), None)
            if step < 0.3:
                break
        if self.speed is not None and not self.speed.agrees(state, self.track, self.offset_s, self.lever):
            self.speed = None
        state, white, wander, information = self._fine(state, _FINE_ROUNDS)
        if not self.lever_given and self._sees_lever(state, information, wander):
            state, white, wander, information = self._fine(state, _FINE_ROUNDS)
        residual = self._residual(state)
        used = (self._gate(residual) > 0.25) & self._inside()
        state = self._towards_plain_fit(state, residual, used)
        residual = self._residual(state)
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
            bool(self.lever_free.any()),
            deviation,
            self.speed_factor if self.speed is not None else np.nan,
        )

    def _fine(self, state: State, rounds: int) -> tuple[State, Array, Array, Array]:
        """Rounds with the slow error; also the quick and the slow error's deviations (3,), and the fixes' information
        (m, 3), of the last."""
        started = bool(self.slow.value.any())
        for number in range(rounds):
            residual = self._residual(state)
            gate = (self._gate(residual) > 0.25).astype(float)
            speed = float(np.median(np.linalg.norm(self._placed(state).velocity, axis=1)))
            white = quick_deviation(self.fix_time_s, residual, gate > 0, self.claimed, self.scatter_s * speed)
            wander = slow_deviation(residual, gate > 0, self.claimed, white, claims=self.claims)
            if not self.claims:
                self.wander_s = slow_lasts(self.fix_time_s, residual, gate > 0, white, wander)
            scaled = (residual - self.slow.of_fixes()) / white
            weight = np.minimum(1.0, 3 / np.maximum(np.abs(scaled), 1e-9))
            weight = weight if number or started else np.ones_like(scaled)
            information = gate[:, None] * weight / (white**2 * self.rate_excess * self.doubt)
            state, step = self._step(state, information, wander)
            if number > 1 and step < _DONE_M:
                break
        return state, white, wander, information

    def _sees_lever(self, state: State, information: Array, wander: Array) -> bool:
        """Free the components of the lever arm that the fixes determine, if they show that it is not zero. Turns
        determine how far the antenna is ahead and aside; its height is determined only if the car pitches."""
        self.lever_free = np.ones(3, bool)
        system, gradient, size = self._system(state, information, wander)
        own = slice(size + _LEVER.start, size + _LEVER.stop)
        right = np.zeros((len(gradient), 4))
        right[own, :3], right[:, 3] = np.eye(3), -gradient
        solved = factorised(system).solve(right)[own]
        deviation = np.sqrt(np.maximum(np.diag(solved[:, :3]), 0))
        self.lever_free = deviation < _LEVER_SEEN_M
        return bool((self.lever_free & (np.abs(solved[:, 3]) > _LEVER_CERTAIN * deviation)).any()) or self._hold_lever()

    def _hold_lever(self) -> bool:
        self.lever_free = np.zeros(3, bool)
        return False

    def _towards_plain_fit(self, state: State, residual: Array, used: NDArray[np.bool_]) -> State:
        """Move position, heading and scale from the estimate with the slow error's model towards plain least squares
        over the fixes, by the weights `_CENTRED` and `_TURNED`. The model depends much on the first and last fixes. Its
        deviation is hardly smaller than that of the plain fit, and their errors differ."""
        if not used.any():
            return state
        off = residual[used, :2]
        place = self.enu[used, :2] - off
        middle, shift = place.mean(0), off.mean(0)
        arm, off = place - middle, off - shift
        size = max(float((arm**2).sum()), 1e-9)
        turn = _TURNED * float((arm[:, 0] * off[:, 1] - arm[:, 1] * off[:, 0]).sum()) / size
        # If the car's speed determines the scale, fixes do not improve it.
        grown = _TURNED * float((arm * off).sum()) / size if self.speed is None else 0.0
        rotation = rotation_exp(np.array([[0.0, 0.0, turn]]))[0]
        centre = np.array([*middle, 0.0])
        moved = centre + np.array([*_CENTRED * shift, 0.0])
        scale = float(np.exp(grown))
        return state_in_frame(state, Sim3(scale, rotation, moved - scale * rotation @ centre))

    def _inside(self) -> NDArray[np.bool_]:
        return self.track.between(self.fix_time_s - self.offset_s)[2]

    def _placed(self, state: State) -> Placed:
        last = self.last
        if last is None or last[0] is not state or last[1] != self.offset_s or last[2] is not self.lever:
            placed = placed_at(state, self.track, self.fix_time_s - self.offset_s, self.lever)
            last = self.last = state, self.offset_s, self.lever, placed
        return last[3]

    def _residual(self, state: State) -> Array:
        """(m, 3): fix minus antenna; zero upwards where a fix has no altitude."""
        residual = self.enu - self._placed(state).place
        residual[self.no_altitude, 2] = 0.0
        return residual

    def _gate(self, residual: Array) -> Array:
        """(m,): Geman-McClure weights of residuals, in units of the usual residual of this drive. An altitude that
        alone disagrees is left out."""
        inside = self._inside()
        self.flat = self.no_altitude | wrong_upwards(residual, self.claimed, inside)
        return gate_of(np.where(self.flat[:, None] & (np.arange(3) == 2), 0.0, residual), self.claimed, inside)

    def _chain(self, state: State) -> tuple[scipy.sparse.csc_matrix, Array]:
        """Normal equations of overlaps, drift and loops."""
        config, solution = self.config, self.solution
        groups = []
        if len(solution.rows):
            groups.append(LinearisedRows.of(state, solution.rows, solution.weight / solution.softness))
        if solution.closing is not None:
            groups.append(LinearisedRows.of(state, *solution.closing))
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
        """Normal equations, gradient, and the number of the chunks' unknowns. These are followed by the clock's offset,
        the speed's factor and delay, the lever arm (`_OWN` in all), and the slow error's knots if wander is given."""
        if self.chain is None or self.strayed > _STRAY_M:
            self.chain, self.strayed = self._chain(state), 0.0
        matrix, gradient = self.chain
        size, fixes = matrix.shape[0], len(self.enu)
        placed = self._placed(state)
        residual = self._residual(state)
        information = np.where(self.flat[:, None] & (np.arange(3) == 2), _NO_ALTITUDE_M**-2, information)
        residual = np.where(self.flat[:, None] & (np.arange(3) == 2), 0.0, residual)
        information = information * self._inside()[:, None]
        by_own = np.zeros((fixes, 3, _OWN))
        by_own[:, :, 0], by_own[:, :, _LEVER] = -placed.velocity, placed.rotation
        own = np.broadcast_to(size + np.arange(_OWN), (fixes, _OWN))
        known, away = self._own_prior()
        blocks, pull = [matrix, known], [gradient, away]
        columns, values = [placed.columns, own], [placed.jacobian, by_own]
        if wander is not None:
            residual = residual - self.slow.of_fixes()
            slow = self.slow.information(wander, self.wander_s)
            blocks.append(slow)
            pull.append(slow @ self.slow.value.ravel())
            for ahead, part in ((0, 1 - self.slow.share), (1, self.slow.share)):
                columns.append(size + _OWN + 3 * (self.slow.low + ahead)[:, None] + np.arange(3))
                values.append(part[:, None, None] * np.eye(3))
        full = np.concatenate(pull)
        rows = np.repeat(np.arange(3 * fixes), sum(part.shape[1] for part in columns))
        wide = np.repeat(np.concatenate(columns, 1)[:, None], 3, 1).ravel()
        jacobian = scipy.sparse.csc_matrix(
            (np.concatenate(values, 2).ravel(), (rows, wide)), shape=(3 * fixes, len(full))
        )
        weighted = jacobian.multiply(information.ravel()[:, None]).tocsc()
        full -= np.asarray(weighted.T @ residual.ravel()).ravel()
        system = scipy.sparse.block_diag(blocks, format="csc") + (jacobian.T @ weighted)
        if wander is not None:
            system, full = self._with_speed(state, system, full, size)
        level, upright = self._level(state, len(full))
        return (system + level).tocsc(), full + upright, size

    def _own_prior(self) -> tuple[scipy.sparse.csc_matrix, Array]:
        """(_OWN, _OWN) and (_OWN,): prior information of the drive's own unknowns, and its gradient."""
        # The clock offset is held if the window is zero.
        clock = _HELD if self.window_s <= 0 else float(np.hypot(_CLOCK_DEVIATION_S, self.searched_s))
        lag = self.speed.lag_s if self.speed is not None else 0.0
        free = np.where(self.lever_free, _LEVER_M, _HELD)
        information = 1 / np.array([clock, WHEEL, lag or _HELD, *free]) ** 2
        away = np.array([self.offset_s, self.speed_factor - 1, self.speed_lag_s, *(self.lever * self.lever_free)])
        return scipy.sparse.diags(information).tocsc(), information * away

    def _with_speed(
        self, state: State, system: scipy.sparse.csc_matrix, gradient: Array, size: int
    ) -> tuple[scipy.sparse.csc_matrix, Array]:
        """The same with the distances of the speed."""
        if self.speed is None:
            return system, gradient
        told = self.speed.rows(state, self.track, self.offset_s, self.speed_lag_s, self.speed_factor, self.lever)
        if told is None:
            return system, gradient
        count = len(told.residual)
        values = np.concatenate([told.jacobian, np.stack([told.by_offset, told.length, told.by_offset], 1)], 1)
        columns = np.concatenate([told.columns, np.broadcast_to(size + np.arange(3), (count, 3))], 1)
        rows = np.repeat(np.arange(count), values.shape[1])
        jacobian = scipy.sparse.csc_matrix((values.ravel(), (rows, columns.ravel())), shape=(count, len(gradient)))
        weighted = jacobian.multiply(told.weight[:, None]).tocsc()
        return system + jacobian.T @ weighted, gradient - np.asarray(weighted.T @ told.residual).ravel()

    def _level(self, state: State, total: int) -> tuple[scipy.sparse.csc_matrix, Array]:
        """The mean of the cameras' x axes over the drive is level. This determines the roll of a straight drive."""
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
        short = damped(step[:size].reshape(-1, WIDTH))
        state = retract(state, short)
        moved_by = float(np.abs(short[:-1, 4:7]).max())
        assert self.chain is not None
        matrix, before = self.chain
        # Until chunks have moved far, the equations of overlaps are linear in the step.
        self.chain = matrix, before + matrix @ short.ravel()
        self.strayed += moved_by
        own = step[size : size + _OWN]
        most = self.window_s + BEYOND_S if self.window_s > 0 else 0.0
        self.offset_s = float(np.clip(self.offset_s + own[0], -most, most))
        if self.lever_free.any():
            self.lever = self.lever + own[_LEVER] * self.lever_free
        if wander is not None:
            self.speed_factor, self.speed_lag_s = self.speed_factor + float(own[1]), self.speed_lag_s + float(own[2])
            value = self.slow.value + step[size + _OWN :].reshape(-1, 3)
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


def state_in_frame(state: State, transform: Sim3) -> State:
    """A state in another frame, to which `transform` leads: rates and chaining belong to the chunks and stay."""
    return replace(
        state,
        scale=state.scale * transform.scale,
        rotation=transform.rotation @ state.rotation,
        translation=transform.apply(state.translation),
        log_height=state.log_height + float(np.log(transform.scale)),
    )
