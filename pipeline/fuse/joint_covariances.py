"""Covariances of the transforms between neighbouring chunks of a drive, and cross-covariances of consecutive ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import JoinResult

Array = NDArray[np.float64]

# The covariance of an overlap's rotation does not contain the drift inside the two chunks. Measured rotations between
# chunks have two to three times its deviation (KITTI 00 in five parts: 0.46 instead of 0.16 mrad).
_DRIFT_KNOWN = 2.0
_FLOOR = 1e-9  # least deviation: with config.scale off, the deviation of the log scale is zero
_LEAST_LOOSENESS = 0.02  # least looseness of overlaps whose covariance after joining is not known
LEAST_WAY = 1e-9
"""Least distance between two chunks in world units, because the car may stand."""


@dataclass(frozen=True, eq=False)
class JointCovariances:
    """Covariances of the m overlaps of a drive: rotation (radians, in the second chunk's axes), translation (in the
    first chunk's axes, world units), log scale.

    covariance (m, 7, 7); follows (m,): the error is correlated with that of the overlap before. Then its expected value
    is gain (m, 7, 7) times the other error, and left (m, 7, 7) is the covariance of the difference.
    """

    covariance: Array
    follows: NDArray[np.bool_]
    gain: Array
    left: Array


def covariances_of(
    drive: JoinResult, scale: Array, rotation: Array, translation: Array, config: BackendConfig, looseness: float
) -> JointCovariances:
    """Covariances after joining (JoinResult.joint_errors) where they are known, else those of each overlap alone.

    scale (n,), rotation (n, 3, 3), translation (n, 3): world_from_chunk. looseness times BackendConfig.unseen_* is
    added, for errors that two chunks with the same frames have in common. Consecutive errors are modelled as a
    first-order Markov chain: on KITTI 00 the correlation of rotations about the optical axis is 0.75 for neighbouring
    joints and 0.5 for joints two apart.
    """
    pairs = np.array([(edge.first, edge.second) for edge in drive.edges], np.int64).reshape(-1, 2)
    first, second = pairs.T
    way = np.maximum(np.linalg.norm(translation[second] - translation[first], axis=1), LEAST_WAY)
    unseen = np.empty((len(pairs), 7))
    unseen[:, :3], unseen[:, 3:6] = config.unseen_turn, config.unseen_place * way[:, None]
    unseen[:, 6] = config.unseen_scale if config.scale else 1e-6
    given = np.array([edge.covariance for edge in drive.edges], np.float64).reshape(-1, 7, 7)
    least = max(looseness, _LEAST_LOOSENESS)
    covariance = _of_overlaps(given * drive.variance_inflation, rotation[first], way, least * unseen)
    count = len(pairs)
    follows, gain, left = np.zeros(count, bool), np.zeros((count, 7, 7)), covariance.copy()
    told = drive.joint_errors
    if told is None or not count:
        return JointCovariances(covariance, follows, gain, left)
    units = np.ones((count, 7))
    units[:, 3:6] = scale[first, None]
    units *= np.sqrt(drive.variance_inflation)
    own = told.covariance[first] * units[:, :, None] * units[:, None, :]
    known = np.array([not edge.bridged for edge in drive.edges]) & np.isfinite(given).all((1, 2))
    known &= np.isfinite(own).all((1, 2))
    covariance[known] = own[known]
    covariance[:, np.arange(7), np.arange(7)] += np.where(known[:, None], (looseness * unseen) ** 2 + _FLOOR**2, 0.0)
    with_next = told.with_next[first[:-1]] * units[:-1, :, None] * units[1:, None, :]
    follows[1:] = known[1:] & known[:-1] & (first[1:] == second[:-1]) & np.isfinite(with_next).all((1, 2))
    after = np.flatnonzero(follows)
    cross = with_next[after - 1]
    gain[after] = np.linalg.solve(covariance[after - 1], cross).transpose(0, 2, 1)
    left = covariance.copy()
    left[after] -= gain[after] @ cross
    return JointCovariances(covariance, follows, gain, (left + left.transpose(0, 2, 1)) / 2)


def _of_overlaps(given: Array, rotation: Array, way: Array, unseen: Array) -> Array:
    """Covariances (m, 7, 7) of overlaps alone. given (m, 7, 7): in the order of an Edge, NaN or inf where nothing was
    measured; rotation (m, 3, 3): of the first chunk; way (m,): distance to the second one; unseen (m, 7): additional
    deviations."""
    order = [1, 2, 3, 4, 5, 6, 0]
    given = given[:, order][:, :, order]
    lost = ~np.isfinite(np.diagonal(given, axis1=1, axis2=2))
    given = np.where(np.isfinite(given) & ~lost[:, :, None] & ~lost[:, None, :], given, 0.0)
    given[:, :3] *= _DRIFT_KNOWN
    given[:, :, :3] *= _DRIFT_KNOWN
    turned = np.tile(np.eye(7), (len(given), 1, 1))
    turned[:, 3:6, 3:6] = rotation.transpose(0, 2, 1)
    blind = np.empty((len(given), 7))  # deviations where nothing was measured
    blind[:, :3], blind[:, 3:6], blind[:, 6] = np.pi, 10 * way[:, None], 1.0
    result = turned @ given @ turned.transpose(0, 2, 1)
    result[:, np.arange(7), np.arange(7)] += np.where(lost, blind, unseen) ** 2
    return np.asarray((result + result.transpose(0, 2, 1)) / 2)
