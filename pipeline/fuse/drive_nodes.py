"""Drives as a graph: a Sim(3) a chunk, what holds the chunks of a drive together, and where frames are between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import cross_matrix, rotation_exp, rotation_log

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

# Deviations of a drive's own loop (a result does not keep what was measured): radians, share of a chunk's way, log.
_LOOP_TURN, _LOOP_PLACE, _LOOP_SCALE = 0.004, 0.02, 0.02
# An overlap's covariance of the turn takes both chunks' drift as known: measured turns between chunks are off by two to
# three times as much (KITTI 00 in five parts, 0.46 against 0.16 mrad).
_DRIFT_KNOWN = 2.0
_LEAST_WAY = 1e-9  # a standing chunk's way, world units


@dataclass(frozen=True, eq=False)
class State:
    """city_from_chunk of n chunks: scale (n,), rotation (n, 3, 3), translation (n, 3)."""

    scale: Array
    rotation: Array
    translation: Array


@dataclass(frozen=True, eq=False)
class Joints:
    """Measured transforms between chunks: first_from_second is (scale, rotation, translation in units of the first
    chunk's drive); unit (m,): the first chunk's scale in its drive; information (m, 7, 7) of turn, shift, log scale."""

    first: Numbers
    second: Numbers
    rotation: Array
    translation: Array
    log_scale: Array
    unit: Array
    information: Array

    def numbered_from(self, offset: int) -> Joints:
        """The same of chunks whose first has another number."""
        return replace(self, first=self.first + offset, second=self.second + offset)

    @staticmethod
    def joined(parts: Sequence[Joints]) -> Joints:
        """All of them in one."""
        names = ("first", "second", "rotation", "translation", "log_scale", "unit", "information")
        return Joints(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames between two chunks: node (n, 2), share (n, 2) of each in the frame's place; own_rotation (n, 2, 3, 3) and
    own_position (n, 2, 3): the camera in either chunk's gauge; log_unit (n, 2): log of the chunk's scale in its
    drive."""

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
        """Rotation (n, 3, 3), position (n, 3), log of city units a unit of the drive (n,)."""
        rotation = state.rotation[self.node] @ self.own_rotation
        turn = rotation_log(rotation[:, 0].transpose(0, 2, 1) @ rotation[:, 1])
        mean = rotation[:, 0] @ rotation_exp(turn * self.share[:, 1, None])
        position = (self.arm(state) + state.translation[self.node]) * self.share[:, :, None]
        log_scale = (np.log(state.scale[self.node]) - self.log_unit) * self.share
        return mean, position.sum(1), log_scale.sum(1)

    def arm(self, state: State) -> Array:
        """(n, 2, 3): from each chunk's origin to the frame, city units."""
        turned = np.einsum("nkij,nkj->nki", state.rotation[self.node], self.own_position)
        return np.asarray(state.scale[self.node][:, :, None] * turned)


def own_state(drive: JoinResult) -> State:
    """The drive's chunks in the drive's own frame."""
    chunks = drive.world_from_chunk
    return State(
        np.array([c.scale for c in chunks]),
        np.stack([c.rotation for c in chunks]),
        np.stack([c.translation for c in chunks]),
    )


def joints_of(drive: JoinResult, config: BackendConfig, looseness: float = 1.0) -> Joints:
    """What holds the drive's chunks together: its overlaps, with what they cannot show, and its own accepted loops.

    Both are taken as they were solved: alone the drive stays as it is. looseness: factor of the deviations of what
    overlaps cannot show.
    """
    state = own_state(drive)
    edges = np.array([(edge.first, edge.second) for edge in drive.edges], np.int64).reshape(-1, 2)
    given = np.array([edge.covariance for edge in drive.edges], np.float64).reshape(-1, 7, 7)
    covariance = _edge_covariances(given * drive.variance_inflation, edges, state, config, looseness)
    way = float(np.median(np.linalg.norm(np.diff(state.translation, axis=0), axis=1))) if len(state.scale) > 1 else 1.0
    pairs: list[tuple[int, int]] = []
    of_loops: list[Array] = []
    for loop in drive.loops:
        if loop.accepted and loop.chunks is not None and loop.chunks[0] != loop.chunks[1]:
            pairs.append(loop.chunks)
            place = np.hypot(loop.residual or 0.0, _LOOP_PLACE * max(way, _LEAST_WAY))
            of_loops.append(np.diag(np.array([_LOOP_TURN] * 3 + [place] * 3 + [_LOOP_SCALE]) ** 2))
    first, second = np.concatenate([edges, np.array(pairs, np.int64).reshape(-1, 2)]).T
    every = np.concatenate([covariance, np.array(of_loops, np.float64).reshape(-1, 7, 7)])
    return _as_solved(state, first, second, np.linalg.inv(every))


def _as_solved(state: State, first: Numbers, second: Numbers, information: Array) -> Joints:
    """Joints between chunks as they stand."""
    back = state.rotation[first].transpose(0, 2, 1)
    return Joints(
        first,
        second,
        back @ state.rotation[second],
        np.einsum("nij,nj->ni", back, state.translation[second] - state.translation[first]),
        np.log(state.scale[second] / state.scale[first]),
        state.scale[first],
        information,
    )


def _edge_covariances(given: Array, pairs: Numbers, state: State, config: BackendConfig, looseness: float) -> Array:
    """(m, 7, 7) of turn (the second's axes), shift (the first's axes, world units) and log scale of joints `pairs`
    (m, 2), of what their overlaps measured: given (m, 7, 7) in the order of an Edge, NaN or inf where that was nothing.

    To what an overlap measured comes what two chunks that see the same frames cannot show (BackendConfig.unseen_*).
    """
    order = [1, 2, 3, 4, 5, 6, 0]
    given = given[:, order][:, :, order]
    lost = ~np.isfinite(np.diagonal(given, axis1=1, axis2=2))
    given = np.where(np.isfinite(given) & ~lost[:, :, None] & ~lost[:, None, :], given, 0.0)
    given[:, :3] *= _DRIFT_KNOWN
    given[:, :, :3] *= _DRIFT_KNOWN
    first, second = pairs.T
    turned = np.tile(np.eye(7), (len(pairs), 1, 1))
    turned[:, 3:6, 3:6] = state.rotation[first].transpose(0, 2, 1)
    way = np.maximum(np.linalg.norm(state.translation[second] - state.translation[first], axis=1), _LEAST_WAY)
    deviation = np.empty((2, len(pairs), 7))  # what is unseen, and of what was not measured at all
    deviation[0, :, :3], deviation[0, :, 3:6] = config.unseen_turn, config.unseen_place * way[:, None]
    deviation[0, :, 6] = config.unseen_scale if config.scale else 1e-6
    deviation[1, :, :3], deviation[1, :, 3:6], deviation[1, :, 6] = np.pi, 10 * way[:, None], 1.0
    result = turned @ given @ turned.transpose(0, 2, 1)
    result[:, np.arange(7), np.arange(7)] += np.where(lost, deviation[1], looseness * deviation[0]) ** 2
    return np.asarray((result + result.transpose(0, 2, 1)) / 2)


def thinned(drive: JoinResult, joints: Joints, every: int) -> tuple[JoinResult, Joints]:
    """A drive of which only every so many-th chunk (and the last) is an unknown, for cities whose chunks are too many
    to be solved at once: what lies between is placed between them as the drive has it. joints: of the drive alone,
    numbered from 0; those that follow each other are chained, with their covariances carried to their common end."""
    state = own_state(drive)
    count = len(state.scale)
    kept = np.unique(np.append(np.arange(0, count, every), count - 1))
    thin = replace(
        drive,
        world_from_chunk=tuple(drive.world_from_chunk[n] for n in kept),
        chunk_frames=tuple(drive.chunk_frames[n] for n in kept),
    )
    chain = joints.second == joints.first + 1
    # the kept chunk that a link of the chain leads to
    end_of = np.searchsorted(kept, joints.first[chain], side="right")
    ends, number = np.unique(end_of, return_inverse=True)
    chained = np.zeros((len(ends), 7, 7))
    np.add.at(chained, number, _carried(state, joints, chain, kept[end_of], kept[end_of - 1]))
    near = [np.abs(end[~chain][:, None] - kept).argmin(1) for end in (joints.first, joints.second)]
    apart = near[0] != near[1]
    first, second = np.append(ends - 1, near[0][apart]), np.append(ends, near[1][apart])
    information = np.concatenate([np.linalg.inv(chained), joints.information[~chain][apart]])
    return thin, _as_solved(own_state(thin), first, second, information)


def _carried(state: State, joints: Joints, chain: NDArray[np.bool_], end: Numbers, start: Numbers) -> Array:
    """(m, 7, 7): covariances of joints of a chain, as errors of the joint from chunk `start` to chunk `end` (m,)."""
    first, second = joints.first[chain], joints.second[chain]
    arm = state.translation[end] - state.translation[second]
    back = state.rotation[start].transpose(0, 2, 1)
    turn = state.rotation[end].transpose(0, 2, 1) @ state.rotation[second]
    jacobian = np.zeros((len(first), 7, 7))
    jacobian[:, :3, :3] = turn
    jacobian[:, 3:6, :3] = -back @ cross_matrix(arm) @ state.rotation[second]
    jacobian[:, 3:6, 3:6] = back @ state.rotation[first]
    jacobian[:, 3:6, 6] = np.einsum("nij,nj->ni", back, arm)
    jacobian[:, 6, 6] = 1
    return np.asarray(jacobian @ np.linalg.inv(joints.information[chain]) @ jacobian.transpose(0, 2, 1))


def frames_of(drive: JoinResult, offset: int, place: Array | None = None) -> Frames:
    """Every frame of the drive between the reference frames of two chunks; place (m,): instead of all frames these,
    places in the drive's arrays, between two of them where they are no whole numbers."""
    state = own_state(drive)
    pose, number = np.asarray(drive.world_from_camera, np.float64), drive.frame_index.astype(np.float64)
    if place is not None:
        pose, number = _between(pose, place), np.interp(place, np.arange(len(number)), number)
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


def _between(pose: Array, place: Array) -> Array:
    """Poses (m, 4, 4) at places (m,) among poses (n, 4, 4), straight on between two."""
    low = np.clip(np.floor(place).astype(np.int64), 0, len(pose) - 1)
    high, share = np.minimum(low + 1, len(pose) - 1), place - low
    answer = pose[low].copy()
    turn = rotation_log(pose[low, :3, :3].transpose(0, 2, 1) @ pose[high, :3, :3])
    answer[:, :3, :3] = pose[low, :3, :3] @ rotation_exp(turn * share[:, None])
    answer[:, :3, 3] += share[:, None] * (pose[high, :3, 3] - pose[low, :3, 3])
    return answer
