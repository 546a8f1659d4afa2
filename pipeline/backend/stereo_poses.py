"""Replaces the network's steps within a chunk of a rig by the motions that two of its cameras measured.

The network's steps from instant to instant have errors of about 8 %, those of two calibrated cameras of less than 1 %
(`pipeline/refine/stereo_motion.py`). The chunk keeps its unit and its depth; its cameras get the measured path.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chunk import Chunk
from pipeline.backend.sim3 import Array, rotation_log
from pipeline.backend.stereo_scale import LEAST_M, StereoMotions

_FEWEST = 3  # motions that a chunk needs to relate its unit to a metre
_MOST_SPREAD = 0.3  # deviation of the log ratios of the chunk's steps and the motions; above it, one of both is wrong
_UNLIKE = 0.5  # largest difference of one log ratio from the chunk's median; it is larger if a bus fills the picture
_TURNED = np.radians(3.0)  # largest rotation between a measured motion and the chunk's step


def with_motions(chunk: Chunk, motions: StereoMotions) -> Chunk:
    """A chunk of a rig's reference camera with measured motions as steps between its instants, in the chunk's unit.

    Its reference frame keeps its pose. Steps without a measured motion, and steps that contradict it, do not change.
    The chunk is returned unchanged if fewer than 3 motions can be compared with it, or if they contradict it as a
    whole; `place_in_world` judges the scale in this case.
    """
    poses = chunk.chunk_from_camera
    own = np.linalg.inv(poses[:-1]) @ poses[1:]
    measured = [motions.steps.get(pair) for pair in pairwise(chunk.frame_index.tolist())]
    there = np.array([one is not None for one in measured], bool) & chunk.ok[:-1] & chunk.ok[1:]
    given = np.stack([np.eye(4) if one is None else one for one in measured] or [np.eye(4)])[: len(own)]
    length, metres = (np.linalg.norm(steps[:, :3, 3], axis=1) for steps in (own, given))
    moving = there & (metres > LEAST_M) & (length > 0)
    if moving.sum() < _FEWEST:
        return chunk
    ratio = np.log(length[moving] / metres[moving])
    middle = float(np.median(ratio))
    if 1.4826 * float(np.median(np.abs(ratio - middle))) > _MOST_SPREAD:
        return chunk
    there[moving] &= np.abs(ratio - middle) < _UNLIKE
    turned = rotation_log(own[:, :3, :3].transpose(0, 2, 1) @ given[:, :3, :3])
    there &= np.linalg.norm(turned, axis=1) < _TURNED
    given[:, :3, 3] *= np.exp(middle)
    return replace(
        chunk, chunk_from_camera=_chained(poses, np.where(there[:, None, None], given, own), chunk.reference)
    )


def _chained(poses: Array, steps: Array, reference: int) -> Array:
    """Poses (S, 4, 4) chained from the steps (S - 1, 4, 4), in both directions from the pose at `reference`."""
    chained: NDArray[np.float64] = poses.copy()
    for place in range(reference + 1, len(poses)):
        chained[place] = chained[place - 1] @ steps[place - 1]
    for place in range(reference - 1, -1, -1):
        chained[place] = chained[place + 1] @ np.linalg.inv(steps[place])
    return chained
