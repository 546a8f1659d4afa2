"""A loop chunk (two windows of frames, predicted together) -> one residual between the two chunks that it connects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.overlap import Overlap, measure_overlap
from pipeline.backend.pose_graph import Solution
from pipeline.backend.pose_residuals import PoseResiduals
from pipeline.backend.sim3 import Sim3
from pipeline.errors import AlignmentError


@dataclass(frozen=True, eq=False)
class LoopWindows:
    """Both windows of one loop chunk, each compared with the chunk that contains its frames."""

    first: Overlap
    second: Overlap


def loop_windows(loop: Chunk, pair: tuple[int, int]) -> tuple[range, range]:
    """The frames of a loop chunk that are nearer to the one and to the other frame of `pair`. Raises AlignmentError if
    one of them has none."""
    near = np.abs(loop.frame_index - pair[0]) <= np.abs(loop.frame_index - pair[1])
    if near.all() or not near.any():
        raise AlignmentError(f"a loop chunk with frames {loop.frames} needs frames near both {pair[0]} and {pair[1]}")
    first, second = loop.frame_index[near], loop.frame_index[~near]
    return range(int(first[0]), int(first[-1]) + 1), range(int(second[0]), int(second[-1]) + 1)


def measure_loop(
    loop: Chunk,
    pair: tuple[int, int],
    homes: tuple[int, int],
    chunks: tuple[Chunk, Chunk],
    config: BackendConfig,
) -> LoopWindows | str:
    """Compare each window with the chunk that contains its frames. Returns the reason as text if that is impossible.

    pair: the two frames that show one place; homes: numbers of `chunks`. The loop chunk is `second` in both overlaps.
    """
    sides: list[Overlap] = []
    for window, number, chunk in zip(loop_windows(loop, pair), homes, chunks, strict=True):
        only = np.arange(window.start, window.stop)
        overlap = measure_overlap(chunk, loop, (number, -1), config, only=only)
        if overlap is None or len(overlap) < 2 or not np.isfinite(overlap.log_ratio_sigma).any():
            return f"its window at frame {pair[len(sides)]} shares too few usable frames with chunk {number}"
        sides.append(overlap)
    return LoopWindows(*sides)


def loop_pose_residuals(windows: Sequence[LoopWindows], chain: Solution, config: BackendConfig) -> PoseResiduals:
    """One residual per loop: a virtual frame half-way between the windows, placed through the one and the other chunk.

    Deviation of a true loop: between its windows, the loop chunk drifts in rotation and scale as other chunks do over
    their span, and in position by this rotation times the distance between the windows. The noise of single frames is
    added.
    """
    span = chain.prior.span
    poses, along, moment = [], [], []
    ratio, deviation, ends = [], [], []
    drift = chain.prior.over_span() if config.drift else np.zeros(4)
    for window in windows:
        guess = [home_from_loop(side, config) for side in (window.first, window.second)]
        places = [side.second_from_camera[:, :3, 3] for side in (window.first, window.second)]
        middle = (places[0].mean(0) + places[1].mean(0)) / 2
        pair_poses, pair_along, pair_moment, units = [], [], [], []
        for side, placed in zip((window.first, window.second), guess, strict=True):
            pose = np.eye(4)
            pose[:3, 3] = middle
            pair_poses.append(placed.transform_pose(pose))
            at = float(side.first_offset.mean()) / span
            pair_along.append(at)
            away = pair_poses[-1][:3, 3] - side.first_from_camera[:, :3, 3].mean(0)
            pair_moment.append(side.first_moment.mean(0) / span + at * away)
            units.append(placed.scale * chain.state.scale[side.first])
        poses.append(pair_poses)
        along.append(pair_along)
        moment.append(pair_moment)
        ratio.append(np.log(guess[0].scale) - np.log(guess[1].scale))
        every = np.concatenate(places)
        reach = float(np.linalg.norm(every - middle, axis=1).max()) * float(np.mean(units))
        turn = np.hypot(np.linalg.norm(drift[:3]) / np.sqrt(3), chain.noise.deviation[0])
        place = np.hypot(np.hypot(turn, drift[3]) * reach, chain.noise.deviation[1])
        deviation.append([turn] * 3 + [place] * 3 + [np.hypot(drift[3], 2e-3)])
        ends.append((window.first.first, window.second.first))
    both = np.array(ends)
    pose, offset, way = np.array(poses), np.array(along), np.array(moment)
    return PoseResiduals(
        both[:, 0],
        both[:, 1],
        np.arange(len(both)),
        pose[:, 0],
        pose[:, 1],
        offset[:, 0],
        offset[:, 1],
        way[:, 0],
        way[:, 1],
        np.array(ratio),
        np.array(deviation),
        np.sqrt(chain.state.scale[both[:, 0]] * chain.state.scale[both[:, 1]]),
    )


def home_from_loop(side: Overlap, config: BackendConfig) -> Sim3:
    """From the loop chunk's gauge to that of the chunk it was compared with, exact at the window's centre."""
    guess = side.rigid_guess(scale=config.scale)
    a, b = side.first_from_camera[:, :3, 3].mean(0), side.second_from_camera[:, :3, 3].mean(0)
    return Sim3(guess.scale, guess.rotation, a - guess.scale * guess.rotation @ b)
