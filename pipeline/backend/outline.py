"""The part of a chunk that is kept after its overlaps were measured: its cameras, and the frames that it owns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.frame_track import FrameTrack
from pipeline.backend.sim3 import Array, rotation_exp, rotation_log


@dataclass(frozen=True, eq=False)
class Outline:
    """The cameras of a chunk of S frames, without its pixels. Arrays as in Chunk."""

    frame_index: NDArray[np.int64]
    time: NDArray[np.int64]
    chunk_from_camera: Array
    offset: Array
    moment: Array
    ok: NDArray[np.bool_]


def owned_ranges(outlines: Sequence[Outline]) -> Sequence[range]:
    """The frames that each chunk owns, that is, gives to the result: each overlap is halved."""
    starts = int(outlines[0].frame_index[0])
    borders = [_border(before, after) for before, after in pairwise(outlines)]
    return [range(start, stop) for start, stop in pairwise([starts, *borders, int(outlines[-1].frame_index[-1]) + 1])]


def result_frames(outlines: Sequence[Outline]) -> NDArray[np.int64]:
    """(N,) numbers of the frames of the result."""
    parts = zip(outlines, owned_ranges(outlines), strict=True)
    return np.concatenate([o.frame_index[(o.frame_index >= r.start) & (o.frame_index < r.stop)] for o, r in parts])


def usable_track(outlines: Sequence[Outline], span: float, frame_time_s: Array) -> FrameTrack:
    """The frames of the result whose images were good. frame_time_s (N,): times of all frames of the result."""
    chunk, pose, along, moment, ok = [], [], [], [], []
    for number, (outline, frames) in enumerate(zip(outlines, owned_ranges(outlines), strict=True)):
        mine = (outline.frame_index >= frames.start) & (outline.frame_index < frames.stop)
        chunk.append(np.full(int(mine.sum()), number))
        pose.append(outline.chunk_from_camera[mine])
        along.append(outline.offset[mine] / span)
        moment.append(outline.moment[mine] / span)
        ok.append(outline.ok[mine])
    good = np.concatenate(ok)
    if not good.any():
        good[:] = True
    return FrameTrack(
        frame_time_s[good],
        np.concatenate(chunk)[good],
        np.concatenate(pose)[good],
        np.concatenate(along)[good],
        np.concatenate(moment)[good],
    )


def _border(before: Outline, after: Outline) -> int:
    """The first frame that `after` gives to the result: an overlap is halved, the odd frame goes to the later chunk."""
    shared = max(0, int(before.time[-1] + 1 - after.time[0]))
    return int(after.frame_index[np.searchsorted(after.time, after.time[0] + shared // 2)])


def fill_bad(frame_index: NDArray[np.int64], poses: Array, ok: NDArray[np.bool_]) -> Array:
    """Poses (N, 4, 4) in which those of bad frames are interpolated between the good frames around them; before the
    first and after the last good frame, that frame's pose is taken."""
    good = np.nonzero(ok)[0]
    if ok.all() or not len(good):
        return poses
    poses = poses.copy()
    for bad in np.nonzero(~ok)[0]:
        after = int(np.searchsorted(good, bad))
        low, high = good[max(after - 1, 0)], good[min(after, len(good) - 1)]
        share = 0.0
        if frame_index[high] > frame_index[low]:
            share = float((frame_index[bad] - frame_index[low]) / (frame_index[high] - frame_index[low]))
        turn = rotation_log(poses[low, :3, :3].T @ poses[high, :3, :3])
        poses[bad, :3, :3] = poses[low, :3, :3] @ rotation_exp(share * turn)
        poses[bad, :3, 3] = (1 - share) * poses[low, :3, 3] + share * poses[high, :3, 3]
    return poses
