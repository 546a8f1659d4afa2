"""The frames of a rig in an adjustment: their poses follow from one pose of the rig at each instant.

Camera c has the pose cam_from_rig = (turn_c, -turn_c place_c), on the rig at the time of its picture: where it is later
than the reference's, between two instants (`pipeline.cameras.rig_time`). Normal equations are made for frames as if
each had a pose of its own, and then projected by the Jacobian of the frames' twists by the rig's unknowns: the adjoint
of cam_from_rig for the twist of an instant, or for those of the two instants, a rotation of a camera about its centre,
a shift of its centre.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pipeline.cameras.rig_time import between, cross_matrices, neighbours, turn_jacobian
from pipeline.refine.rotation import exp, log

Array = NDArray[np.float64]

FRAME_UNKNOWNS = 7  # of a frame: rotation 3, translation 3, log scale of its depth
_TERMS = 40  # most terms of a series, in which the last one of a half turn is 1e-28
_TURN = 0.2  # deviation of a free rotation from its start, radians


@dataclass(frozen=True, eq=False)
class Mount:
    """The cameras on the car, C of them; the first is the reference, whose pose is the rig's.

    turn (C, 3, 3): rotations cam_from_rig; free_turn (C,): which of them are adjusted. Places of the cameras in the
    rig's axes and in units of the window are the sum over Q of coefficient (Q,) times directions (Q, C, 3); expected,
    deviation (Q,): what is known of the coefficients. turn_start (C, 3, 3): what is known of free rotations. is_metric:
    the first coefficient is the length of a metre. late (C,): by how much the cameras' pictures are later than the
    reference's, as a share of a step between instants.
    """

    turn: Array
    free_turn: NDArray[np.bool_]
    directions: Array
    coefficient: Array
    expected: Array
    deviation: Array
    turn_start: Array
    is_metric: bool
    late: Array

    @staticmethod
    def of(known: Array, late: Array | None = None) -> Mount:
        """The mount of cameras with rig_from_camera known (C, 4, 4), metres, NaN where unknown: all of a camera's, or
        its position.

        Known positions share one unknown, the length of a metre; each unknown one has three. All begin at zero, and
        unknown rotations at the identity.
        """
        count = len(known)
        turned = np.asarray(np.isfinite(known[:, :3, :3]).all((1, 2)))
        placed = np.asarray(np.isfinite(known[:, :3, 3]).all(1))
        turn = np.where(turned[:, None, None], np.nan_to_num(known)[:, :3, :3].transpose(0, 2, 1), np.eye(3))
        metre = np.where(placed[:, None], np.nan_to_num(known)[:, :3, 3], 0.0)
        directions = [metre] if np.abs(metre).max() > 0 else []
        for camera in np.flatnonzero(~placed):
            for axis in range(3):
                one = np.zeros((count, 3))
                one[camera, axis] = 1
                directions.append(one)
        basis = np.array(directions).reshape(-1, count, 3)
        zero = np.zeros(len(basis))
        is_metric = bool(np.abs(metre).max() > 0)
        time = np.zeros(count) if late is None else np.asarray(late, np.float64)
        return Mount(turn, ~turned, basis, zero, zero, np.full(len(basis), np.inf), turn, is_metric, time)

    @property
    def place(self) -> Array:
        """Centres of the cameras (C, 3) in the rig's axes."""
        return np.einsum("q,qci->ci", self.coefficient, self.directions)

    @property
    def cam_from_rig(self) -> Array:
        """Poses (C, 4, 4)."""
        poses = np.tile(np.eye(4), (len(self.turn), 1, 1))
        poses[:, :3, :3] = self.turn
        poses[:, :3, 3] = -np.einsum("cij,cj->ci", self.turn, self.place)
        return poses

    def beyond(self, instants: int) -> NDArray[np.bool_]:
        """Which frames (F,) of so many instants are before the first or after the last one, so that no pose holds
        theirs on both sides."""
        at = np.arange(instants)
        return np.concatenate([(at + late < 0) | (at + late > instants - 1) for late in self.late.tolist()])

    def held(self) -> Mount:
        """The same with all rotations held."""
        return replace(self, free_turn=np.zeros(len(self.turn), np.bool_), turn_start=self.turn)


@dataclass(frozen=True, eq=False)
class RigFrames:
    """I instants of a rig of C cameras: frame camera * I + instant of a problem is this camera's at this instant.

    rig_from_window (I, 4, 4): poses of the reference camera; mount: the cameras; step_sigma (I - 1,): standard
    deviation of each step's length as a share of it, NaN for the usual one.
    """

    rig_from_window: Array
    mount: Mount
    step_sigma: Array

    @property
    def instants(self) -> int:
        """The number of instants I."""
        return len(self.rig_from_window)

    @property
    def frames(self) -> int:
        """The number of frames F = C * I."""
        return len(self.mount.turn) * self.instants

    @property
    def instant(self) -> NDArray[np.int64]:
        """The instant of each frame (F,)."""
        return np.arange(self.frames) % self.instants

    @property
    def camera(self) -> NDArray[np.int64]:
        """The camera of each frame (F,)."""
        return np.arange(self.frames) // self.instants

    @property
    def linked(self) -> NDArray[np.bool_]:
        """Which frames (F - 1,) are followed by a frame of the same camera."""
        return np.diff(self.camera) == 0

    @property
    def cam_from_window(self) -> Array:
        """Poses of all frames (F, 4, 4), each at the time of its picture."""
        poses = np.asarray(self.mount.cam_from_rig[self.camera] @ self.rig_from_window[self.instant])
        for camera in np.flatnonzero(self.mount.late).tolist():
            mine = slice(camera * self.instants, (camera + 1) * self.instants)
            poses[mine] = self.mount.cam_from_rig[camera] @ self._later(camera).rig_from_window
        return poses

    def _later(self, camera: int) -> _Later:
        return _Later.of(self.rig_from_window, float(self.mount.late[camera]))

    @property
    def own_unknowns(self) -> int:
        """The number of unknowns of the mount: three for each free rotation, and the coefficients."""
        return 3 * int(self.mount.free_turn.sum()) + len(self.mount.coefficient)

    @property
    def jacobian(self) -> scipy.sparse.csr_array:
        """Derivatives (F * 7 + 1, N) of the unknowns of frames and focal length by those of the rig: 6 of each instant,
        the log scale of each frame, those of the mount, the log focal length."""
        mount, frames, instants = self.mount, self.frames, self.instants
        row: list[NDArray[np.int64]] = []
        column: list[NDArray[np.int64]] = []
        value: list[Array] = []

        def add(rows: NDArray[np.int64], columns: NDArray[np.int64], values: Array) -> None:
            shape = np.broadcast_shapes(rows.shape, columns.shape, values.shape)
            row.append(np.broadcast_to(rows, shape).ravel())
            column.append(np.broadcast_to(columns, shape).ravel())
            value.append(np.broadcast_to(values, shape).ravel())

        begin = np.arange(frames) * FRAME_UNKNOWNS
        six = np.arange(6)
        to_camera = adjoints(mount.cam_from_rig)
        at_once = mount.late[self.camera] == 0
        add(
            (begin[at_once, None] + six)[:, :, None],
            (self.instant[at_once, None] * 6 + six)[:, None, :],
            to_camera[self.camera[at_once]],
        )
        for camera in np.flatnonzero(mount.late).tolist():
            mine, later = begin[camera * instants : (camera + 1) * instants], self._later(camera)
            for instant, by_twist in ((np.arange(instants), later.by_own), (later.other, later.by_other)):
                columns = (instant[:, None] * 6 + six)[:, None, :]
                add((mine[:, None] + six)[:, :, None], columns, to_camera[camera] @ by_twist)
        at = instants * 6
        add(begin + 6, at + np.arange(frames), np.ones(frames))
        at += frames
        for camera in np.flatnonzero(mount.free_turn).tolist():
            mine = begin[camera * instants : (camera + 1) * instants, None] + six[:3]
            add(mine, at + six[:3], np.ones(3))
            at += 3
        for direction in mount.directions:
            moved = -np.einsum("cij,cj->ci", mount.turn, direction)[self.camera]
            add(begin[:, None] + six[3:], np.array([[at]]), moved)
            at += 1
        add(np.array([frames * FRAME_UNKNOWNS]), np.array([at]), np.ones(1))
        triples = (np.concatenate(value), (np.concatenate(row), np.concatenate(column)))
        return scipy.sparse.coo_array(triples, shape=(frames * FRAME_UNKNOWNS + 1, at + 1)).tocsr()

    def prior(self) -> tuple[Array, Array]:
        """Residuals of the mount's unknowns in deviations, and the inverse deviations, both (own unknowns,)."""
        mount = self.mount
        free = mount.free_turn
        turned: Array = np.zeros(0)
        if free.any():
            turned = log(mount.turn[free] @ mount.turn_start[free].transpose(0, 2, 1)).ravel()
        inverse = np.concatenate([np.full(len(turned), 1 / _TURN), 1 / mount.deviation])
        return np.concatenate([turned, mount.coefficient - mount.expected]) * inverse, inverse

    def projected(self, matrix: Array, gradient: Array) -> tuple[Array, Array]:
        """Normal equations of the rig's unknowns, (N, N) and (N,), from those of frames and focal length."""
        jacobian = self.jacobian
        down = jacobian.T
        own, right = down @ (down @ matrix).T, down @ gradient
        residual, inverse = self.prior()
        places = np.arange(len(right) - 1 - len(residual), len(right) - 1)
        own[places, places] += inverse**2
        right[places] += residual * inverse
        return np.asarray(own), np.asarray(right)

    def moved(self, step: Array) -> RigFrames:
        """The rig after a step of its unknowns (N,)."""
        mount, instants = self.mount, self.instants
        twist = step[: instants * 6].reshape(-1, 6)
        turn = exp(twist[:, :3])
        poses = self.rig_from_window.copy()
        poses[:, :3, :3] = turn @ poses[:, :3, :3]
        poses[:, :3, 3] = np.einsum("nij,nj->ni", turn, poses[:, :3, 3]) + twist[:, 3:]
        own = step[len(step) - 1 - self.own_unknowns : -1]
        turned, count = mount.turn.copy(), 3 * int(mount.free_turn.sum())
        if count:
            turned[mount.free_turn] = exp(own[:count].reshape(-1, 3)) @ turned[mount.free_turn]
        return replace(
            self,
            rig_from_window=poses,
            mount=replace(mount, turn=turned, coefficient=mount.coefficient + own[count:]),
        )


@dataclass(frozen=True, eq=False)
class _Later:
    """A rig some time after each of I instants, on its way to another one of them.

    rig_from_window (I, 4, 4); other (I,): the numbers of the other instants; by_own, by_other (I, 6, 6): derivatives of
    the poses' twists by those of the instants and of the other instants.
    """

    rig_from_window: Array
    other: NDArray[np.int64]
    by_own: Array
    by_other: Array

    @staticmethod
    def of(rig_from_window: Array, late: float) -> _Later:
        """late: the time, as a share of a step; negative for earlier."""
        count = len(rig_from_window)
        other, share = neighbours(np.arange(count), np.ones(count, np.bool_), late)
        window_from_rig: Array = np.linalg.inv(rig_from_window).astype(np.float64)
        poses = np.asarray(np.linalg.inv(between(window_from_rig, window_from_rig[other], share)))
        step = rig_from_window[other] @ window_from_rig
        turn = log(step[:, :3, :3])
        move = np.linalg.solve(turn_jacobian(turn), step[:, :3, 3:])[:, :, 0]
        twist, share = np.concatenate([turn, move], 1), share[:, None]
        whole, part = _twist_jacobian(twist), _twist_jacobian(share * twist)
        by_other = share[:, None] * part @ np.linalg.inv(whole)
        by_own = adjoints(poses @ window_from_rig) - by_other @ adjoints(step)
        return _Later(poses, other, by_own, by_other)


def _twist_jacobian(twists: Array) -> Array:
    """The left Jacobians (n, 6, 6) of twists (n, 6), rotation and translation: exp(twist + d) is about
    exp(jacobian @ d) @ exp(twist). The series of ad(twist)^n / (n + 1)! is summed."""
    bracket = np.zeros((len(twists), 6, 6))
    bracket[:, :3, :3] = bracket[:, 3:, 3:] = cross_matrices(twists[:, :3])
    bracket[:, 3:, :3] = cross_matrices(twists[:, 3:])
    answer = term = np.tile(np.eye(6), (len(twists), 1, 1))
    for number in range(2, _TERMS):
        term = term @ bracket / number
        answer = answer + term
        if np.abs(term).max() < 1e-15:
            break
    return answer


def adjoints(poses: Array) -> Array:
    """Adjoint matrices (n, 6, 6) of rigid motions (n, 4, 4), for twists (rotation, translation)."""
    answer = np.zeros((len(poses), 6, 6))
    rotation, (x, y, z) = poses[:, :3, :3], poses[:, :3, 3].T
    cross = np.zeros((len(poses), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross -= cross.transpose(0, 2, 1)
    answer[:, :3, :3] = answer[:, 3:, 3:] = rotation
    answer[:, 3:, :3] = cross @ rotation
    return answer
