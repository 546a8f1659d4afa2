"""More unknowns for a drive than it has chunks: nodes between the middles of its chunks, and at both ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import Sim3
from pipeline.fuse.drive_nodes import Array, Joints, Numbers, as_solved, own_state, poses_between

FEWEST_NODES = 12
"""Drives with fewer chunks get more nodes, until they have about so many."""

_LEAST_PLACE = 0.1  # share of a joint's variance of place that is not that of its rotation and scale


def finer(drive: JoinResult, joints: Joints) -> tuple[JoinResult, Joints]:
    """A drive of few chunks with more nodes: one of three chunks is nearly rigid, though its scale changes along each.

    joints: of the drive alone, numbered from 0. The error of the joint between two chunks is taken for a random walk
    along the frames between their middles, so its covariance is divided among the new joints in proportion to their
    frames. Correlations of neighbouring joints are not used; with many chunks they matter more than more nodes do. A
    drive of one chunk stays as it is: nothing is known of its errors.
    """
    count = len(drive.world_from_chunk)
    chain = np.flatnonzero((joints.second == joints.first + 1) & (np.arange(len(joints.first)) < count - 1))
    if not 2 <= count < FEWEST_NODES or len(chain) != count - 1:
        return drive, joints
    state = own_state(drive)
    number = drive.frame_index.astype(np.float64)
    middle = np.array([(first + last) / 2 for first, last in drive.chunk_frames])
    if (np.diff(middle) <= 0).any():
        return drive, joints
    frame, home = _places(middle, number[0], number[-1], (number[-1] - number[0]) / (FEWEST_NODES - 1))
    pose = poses_between(
        np.asarray(drive.world_from_camera, np.float64), np.interp(frame, number, np.arange(len(number)))
    )
    scale = np.exp(np.interp(frame, middle, np.log(state.scale)))
    nodes = tuple(Sim3(float(size), one[:3, :3], one[:3, 3]) for size, one in zip(scale, pose, strict=True))
    spans = np.stack([np.floor(frame), np.ceil(frame)], 1).astype(int).tolist()
    finest = replace(drive, world_from_chunk=nodes, chunk_frames=tuple((low, high) for low, high in spans))
    first = np.arange(len(frame) - 1)
    between = np.clip(np.searchsorted(middle, (frame[1:] + frame[:-1]) / 2, side="right") - 1, 0, count - 2)
    share = np.diff(frame) / np.diff(middle)[between]
    own = _divided(np.asarray(np.linalg.inv(joints.information[chain]), np.float64), state.translation)
    turned = np.tile(np.eye(7), (len(first), 1, 1))
    turned[:, :3, :3] = pose[1:, :3, :3].transpose(0, 2, 1) @ state.rotation[between + 1]
    turned[:, 3:6, 3:6] = pose[:-1, :3, :3].transpose(0, 2, 1) @ state.rotation[between]
    covariance = turned @ (own[between] * share[:, None, None]) @ turned.transpose(0, 2, 1)
    others = np.setdiff1d(np.arange(len(joints.first)), chain)
    new = own_state(finest)
    return finest, as_solved(
        new,
        np.append(first, home[joints.first[others]]),
        np.append(first + 1, home[joints.second[others]]),
        np.concatenate([np.linalg.inv(covariance), joints.information[others]]),
    )


def _places(middle: Array, begin: float, end: float, most_frames: float) -> tuple[Array, Numbers]:
    """Frame numbers of the nodes, rising, whole or half; and the index among them of each chunk's middle."""
    stops = np.unique(np.concatenate([[min(begin, middle[0])], middle, [max(end, middle[-1])]]))
    parts = [
        np.linspace(low, high, max(int(np.ceil((high - low) / most_frames)), 1), endpoint=False)
        for low, high in pairwise(stops)
    ]
    # Half frames, as the middles of chunks: so a node is exactly the middle of its `chunk_frames`.
    frame = np.unique(np.round(2 * np.append(np.concatenate(parts), stops[-1])) / 2)
    return frame, np.searchsorted(frame, middle)


def _divided(covariance: Array, translation: Array) -> Array:
    """Covariances (m, 7, 7) of joints without what a random walk of rotation and scale along the way does to the place
    at its end, a third of its square, because the new joints contain it; and without covariances between parts."""
    answer = np.zeros_like(covariance)
    answer[:, :3, :3], answer[:, 6, 6] = covariance[:, :3, :3], covariance[:, 6, 6]
    way = np.linalg.norm(np.diff(translation, axis=0), axis=1)
    lever = way**2 / 3 * np.maximum(covariance[:, 6, 6], np.linalg.eigvalsh(covariance[:, :3, :3])[:, -1])
    values, axes = np.linalg.eigh(covariance[:, 3:6, 3:6])
    values = np.maximum(values - lever[:, None], _LEAST_PLACE * values)
    answer[:, 3:6, 3:6] = (axes * values[:, None, :]) @ axes.transpose(0, 2, 1)
    return answer
