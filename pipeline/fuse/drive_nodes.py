"""Drives as a graph: a Sim(3) for each chunk, joints between the chunks of a drive, and frames between two chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import cross_matrix, rotation_exp, rotation_log
from pipeline.fuse.joint_covariances import LEAST_WAY, covariances_of

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

# Deviations of a drive's own loop: radians, share of the distance between chunks, log scale. A published result does
# not contain the measured covariance.
_LOOP_TURN, _LOOP_PLACE, _LOOP_SCALE = 0.004, 0.02, 0.02


@dataclass(frozen=True, eq=False)
class State:
    """city_from_chunk of n chunks: scale (n,), rotation (n, 3, 3), translation (n, 3)."""

    scale: Array
    rotation: Array
    translation: Array


@dataclass(frozen=True, eq=False)
class Joints:
    """m measured transforms between two chunks of a drive.

    first, second (m,): numbers of the chunks; first_from_second as rotation (m, 3, 3), translation (m, 3) in units of
    the drive, log_scale (m,); unit (m,): the first chunk's scale in its drive; information (m, 7, 7) of rotation,
    translation, log scale.

    Errors of consecutive joints may be correlated. follows (m,): the error of this joint is correlated with that of the
    joint before it in the list, which ends where this one begins. Its expected value is then gain (m, 7, 7) times the
    error of the joint before, and given (m, 7, 7) is the information of the difference.
    """

    first: Numbers
    second: Numbers
    rotation: Array
    translation: Array
    log_scale: Array
    unit: Array
    information: Array
    follows: NDArray[np.bool_]
    gain: Array
    given: Array

    def __getitem__(self, which: Numbers) -> Joints:
        """The joints with these numbers, which rise. A joint without the one before it follows none."""
        some = {name: getattr(self, name)[which] for name in Joints.__dataclass_fields__}
        some["follows"] = some["follows"] & (np.diff(which, prepend=-2) == 1)
        return Joints(**some)

    def numbered_from(self, offset: int) -> Joints:
        """The same joints with `offset` added to the numbers of the chunks."""
        return replace(self, first=self.first + offset, second=self.second + offset)

    @staticmethod
    def joined(parts: Sequence[Joints]) -> Joints:
        """All parts in one."""
        return Joints(*(np.concatenate([getattr(part, n) for part in parts]) for n in Joints.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Frames:
    """n frames, each between two chunks, whose poses are interpolated.

    node (n, 2): the two chunks; share (n, 2): their weights; own_rotation (n, 2, 3, 3), own_position (n, 2, 3): the
    camera's pose in each chunk; log_unit (n, 2): log of each chunk's scale in its drive.
    """

    node: Numbers
    share: Array
    own_rotation: Array
    own_position: Array
    log_unit: Array

    def __getitem__(self, which: NDArray[np.int64] | slice) -> Frames:
        return Frames(
            self.node[which],
            self.share[which],
            self.own_rotation[which],
            self.own_position[which],
            self.log_unit[which],
        )

    def place(self, state: State) -> tuple[Array, Array, Array]:
        """Rotations (n, 3, 3) and positions (n, 3) of the frames in the city, and the log (n,) of city units per unit
        of the drive."""
        rotation = state.rotation[self.node] @ self.own_rotation
        turn = rotation_log(rotation[:, 0].transpose(0, 2, 1) @ rotation[:, 1])
        mean = rotation[:, 0] @ rotation_exp(turn * self.share[:, 1, None])
        position = (self.arm(state) + state.translation[self.node]) * self.share[:, :, None]
        log_scale = (np.log(state.scale[self.node]) - self.log_unit) * self.share
        return mean, position.sum(1), log_scale.sum(1)

    def arm(self, state: State) -> Array:
        """Vectors (n, 2, 3) from each chunk's origin to the frame, in city units and axes."""
        turned = np.einsum("nkij,nkj->nki", state.rotation[self.node], self.own_position)
        return np.asarray(state.scale[self.node][:, :, None] * turned)


def own_state(drive: JoinResult) -> State:
    """The state of a drive's chunks in the drive's own frame."""
    chunks = drive.world_from_chunk
    return State(
        np.array([c.scale for c in chunks]),
        np.stack([c.rotation for c in chunks]),
        np.stack([c.translation for c in chunks]),
    )


def joints_of(drive: JoinResult, config: BackendConfig, looseness: float = 1.0) -> Joints:
    """The joints of a drive's chunks: its overlaps and its own accepted loops.

    The joints are taken from the drive's solution, so that without links the drive does not change. looseness: factor
    of the deviations config.unseen_*, which cover the errors that an overlap cannot show.
    """
    state = own_state(drive)
    edges = np.array([(edge.first, edge.second) for edge in drive.edges], np.int64).reshape(-1, 2)
    weights = covariances_of(drive, state.scale, state.rotation, state.translation, config, looseness)
    way = float(np.median(np.linalg.norm(np.diff(state.translation, axis=0), axis=1))) if len(state.scale) > 1 else 1.0
    pairs: list[tuple[int, int]] = []
    of_loops: list[Array] = []
    for loop in drive.loops:
        if loop.accepted and loop.chunks is not None and loop.chunks[0] != loop.chunks[1]:
            pairs.append(loop.chunks)
            place = np.hypot(loop.residual or 0.0, _LOOP_PLACE * max(way, LEAST_WAY))
            of_loops.append(np.diag(np.array([_LOOP_TURN] * 3 + [place] * 3 + [_LOOP_SCALE]) ** 2))
    first, second = np.concatenate([edges, np.array(pairs, np.int64).reshape(-1, 2)]).T
    every = np.concatenate([weights.covariance, np.array(of_loops, np.float64).reshape(-1, 7, 7)])
    joints = as_solved(state, first, second, np.linalg.inv(every))
    after = np.flatnonzero(weights.follows)
    joints.follows[after], joints.gain[after] = True, weights.gain[after]
    joints.given[after] = np.linalg.inv(weights.left[after])
    return joints


def as_solved(state: State, first: Numbers, second: Numbers, information: Array) -> Joints:
    """Joints whose measured transforms are those of the state."""
    back = state.rotation[first].transpose(0, 2, 1)
    return Joints(
        first,
        second,
        back @ state.rotation[second],
        np.einsum("nij,nj->ni", back, state.translation[second] - state.translation[first]),
        np.log(state.scale[second] / state.scale[first]),
        state.scale[first],
        information,
        np.zeros(len(first), bool),
        np.zeros((len(first), 7, 7)),
        information.copy(),
    )


def thinned(drive: JoinResult, joints: Joints, every: int) -> tuple[JoinResult, Joints]:
    """A drive with fewer chunks as unknowns, for cities that have too many chunks to be solved at once.

    Only every `every`-th chunk and the last one stay; frames between them are interpolated as the drive has them.
    joints: of the drive alone, numbered from 0. Consecutive joints are chained, and their covariances are propagated to
    the end of the chain.
    """
    state = own_state(drive)
    count = len(state.scale)
    kept = np.unique(np.append(np.arange(0, count, every), count - 1))
    thin = replace(
        drive,
        world_from_chunk=tuple(drive.world_from_chunk[n] for n in kept),
        chunk_frames=tuple(drive.chunk_frames[n] for n in kept),
    )
    chain = joints.second == joints.first + 1
    chain &= np.arange(len(chain)) < count - 1  # a drive's loops are after its overlaps
    # Index in `kept` of the next kept chunk after each joint of the chain.
    end_of = np.searchsorted(kept, joints.first[chain], side="right")
    ends, number = np.unique(end_of, return_inverse=True)
    chained = _chained(state, joints[np.flatnonzero(chain)], kept[end_of], kept[end_of - 1], number)
    near = [np.abs(end[~chain][:, None] - kept).argmin(1) for end in (joints.first, joints.second)]
    apart = near[0] != near[1]
    first, second = np.append(ends - 1, near[0][apart]), np.append(ends, near[1][apart])
    information = np.concatenate([np.linalg.inv(chained), joints.information[~chain][apart]])
    return thin, as_solved(own_state(thin), first, second, information)


def _chained(state: State, joints: Joints, end: Numbers, start: Numbers, number: Numbers) -> Array:
    """Covariances (n, 7, 7) of chains of joints. joints: m joints of all chains; start, end (m,): first and last chunk
    of each joint's chain; number (m,): of its chain, rising."""
    carried = _carriers(state, joints, end, start)
    own = np.linalg.inv(joints.information)
    place = np.arange(len(number)) - np.searchsorted(number, number)
    total = np.zeros((int(number.max(initial=-1)) + 1, 7, 7))
    known = np.zeros_like(total)  # cross-covariance of the last joint and the sum so far
    for turn in range(int(place.max(initial=-1)) + 1):
        mine = np.flatnonzero(place == turn)
        of, by = number[mine], carried[mine]
        known[of] = joints.gain[mine] @ known[of]
        mixed = by @ known[of]
        total[of] += mixed + mixed.transpose(0, 2, 1) + by @ own[mine] @ by.transpose(0, 2, 1)
        known[of] += own[mine] @ by.transpose(0, 2, 1)
    return total


def _carriers(state: State, joints: Joints, end: Numbers, start: Numbers) -> Array:
    """Jacobians (m, 7, 7) of the joint from chunk `start` (m,) to chunk `end` (m,) by the errors of joints between."""
    first, second = joints.first, joints.second
    arm = state.translation[end] - state.translation[second]
    back = state.rotation[start].transpose(0, 2, 1)
    turn = state.rotation[end].transpose(0, 2, 1) @ state.rotation[second]
    jacobian = np.zeros((len(first), 7, 7))
    jacobian[:, :3, :3] = turn
    jacobian[:, 3:6, :3] = -back @ cross_matrix(arm) @ state.rotation[second]
    jacobian[:, 3:6, 3:6] = back @ state.rotation[first]
    jacobian[:, 3:6, 6] = np.einsum("nij,nj->ni", back, arm)
    jacobian[:, 6, 6] = 1
    return jacobian


def frames_of(drive: JoinResult, offset: int, place: Array | None = None) -> Frames:
    """The frames of a drive, each between the middle frames of two chunks.

    offset: number of the drive's first chunk; place (m,): only these frames, as indices of the drive's arrays, with
    fractions between two frames; None: all frames.
    """
    state = own_state(drive)
    pose, number = np.asarray(drive.world_from_camera, np.float64), drive.frame_index.astype(np.float64)
    if place is not None:
        pose, number = poses_between(pose, place), np.interp(place, np.arange(len(number)), number)
    middle = np.array([(first + last) / 2 for first, last in drive.chunk_frames])
    after = np.clip(np.searchsorted(middle, number, side="right"), 1, max(len(middle) - 1, 1))
    node = np.stack([after - 1, np.minimum(after, len(middle) - 1)], 1)
    gap = np.maximum(middle[node[:, 1]] - middle[node[:, 0]], 1.0)
    share = np.clip((number - middle[node[:, 0]]) / gap, 0.0, 1.0)
    share = np.where(node[:, 0] == node[:, 1], 0.0, share)
    back = state.rotation[node].transpose(0, 1, 3, 2)
    away = pose[:, None, :3, 3] - state.translation[node]
    return Frames(
        node + offset,
        np.stack([1 - share, share], 1),
        back @ pose[:, None, :3, :3],
        np.einsum("nkij,nkj->nki", back, away) / state.scale[node][:, :, None],
        np.log(state.scale[node]),
    )


def poses_between(pose: Array, place: Array) -> Array:
    """Poses (m, 4, 4) interpolated at indices `place` (m,), which may have fractions, among poses (n, 4, 4)."""
    low = np.clip(np.floor(place).astype(np.int64), 0, len(pose) - 1)
    high, share = np.minimum(low + 1, len(pose) - 1), place - low
    answer = pose[low].copy()
    turn = rotation_log(pose[low, :3, :3].transpose(0, 2, 1) @ pose[high, :3, :3])
    answer[:, :3, :3] = pose[low, :3, :3] @ rotation_exp(turn * share[:, None])
    answer[:, :3, 3] += share[:, None] * (pose[high, :3, 3] - pose[low, :3, 3])
    return answer
