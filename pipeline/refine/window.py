"""A window: the frames that are adjusted together, composed of the network's chunks.

A chunk of 60 frames, as the published network makes them, is a window. Shorter chunks are chained. The ratio of two
neighbours' scales comes from the depth of the frames that they share. The relative pose of two consecutive frames comes
from the chunk whose middle is nearest to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.common.chunk_prediction import PosedColours
from pipeline.refine.problem import inverse

Array = NDArray[np.float64]
FRAMES = 60  # of a window, at most, unless one chunk alone has more


_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Window:
    """F frames in time order. The window's axes are those of its first camera; its scale is that of its first chunk.

    frame_index (F,): numbers among the kept frames; cam_from_window (F, 4, 4); intrinsics (F, 3, 3) in pixels of the
    network's grid; depth, confidence (F, h, w) float32; rgb (F, h, w, 3); ok (F,): False where the picture was bad.
    """

    frame_index: NDArray[np.int64]
    cam_from_window: Array
    intrinsics: Array
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    ok: NDArray[np.bool_]

    def select(self, rows: NDArray[np.int64]) -> Window:
        """The frames of these rows, in their order; axes and scale stay."""
        return Window(
            self.frame_index[rows],
            self.cam_from_window[rows],
            self.intrinsics[rows],
            self.depth[rows],
            self.confidence[rows],
            self.rgb[rows],
            self.ok[rows],
        )


def plan_windows(chunks: Sequence[range], frames: int = FRAMES) -> tuple[range, ...]:
    """The chunks of each window, as half-open ranges of chunk numbers. chunks: each one's range of frames.

    A window has as many chunks as fit into `frames`, at least one. Neighbouring windows share a third of their chunks;
    windows of one chunk share the frames that the chunks share. The last window ends with the last chunk.
    """
    if not chunks:
        return ()
    count = 1
    while count < len(chunks) and chunks[count].stop - chunks[0].start <= frames:
        count += 1
    step = max(count - max(round(count / 3), 1), 1)
    windows = [range(start, start + count) for start in range(0, max(len(chunks) - count, 0) + 1, step)]
    if windows[-1].stop < len(chunks):
        windows.append(range(len(chunks) - count, len(chunks)))
    return tuple(windows)


def merge_chunks(chunks: Sequence[PosedColours]) -> Window:
    """One window of consecutive chunks that share frames. Where two chunks share none, both have the same scale."""
    scale = [0.0]
    for before, after in pairwise(chunks):
        scale.append(scale[-1] + _log_ratio(before, after))
    frames = np.unique(np.concatenate([np.asarray(chunk.frame_index, np.int64) for chunk in chunks]))
    owner = np.array([_nearest(chunks, frame, frame) for frame in frames])
    place = np.array([_place(chunks[k], frame) for k, frame in zip(owner, frames, strict=True)])
    poses = [_pose(chunks[owner[0]], int(place[0]), scale[owner[0]])]
    for before, after in pairwise(frames):
        k = _nearest(chunks, before, after)
        first, second = _place(chunks[k], before), _place(chunks[k], after)
        if first < 0 or second < 0:  # a gap between chunks: the camera is assumed not to move
            poses.append(poses[-1])
            continue
        pair = np.stack([_pose(chunks[k], first, scale[k]), _pose(chunks[k], second, scale[k])])
        poses.append(pair[1] @ inverse(pair[:1])[0] @ poses[-1])

    def taken(of: Callable[[PosedColours], NDArray[_Kind]]) -> NDArray[_Kind]:
        return np.stack([of(chunks[k])[p] for k, p in zip(owner, place, strict=True)])

    factor = np.exp(np.array(scale))[owner].astype(np.float32)[:, None, None]
    cam_from_window = np.stack(poses)
    return Window(
        frames,
        cam_from_window @ inverse(cam_from_window[:1]),
        taken(lambda chunk: chunk.intrinsics).astype(np.float64),
        taken(lambda chunk: chunk.depth).astype(np.float32) * factor,
        taken(lambda chunk: chunk.confidence).astype(np.float32),
        taken(lambda chunk: chunk.rgb),
        taken(lambda chunk: chunk.ok),
    )


def _log_ratio(first: PosedColours, second: PosedColours) -> float:
    """Log of the factor from depths of `second` to depths of `first`: the median over the surer half of the pixels of
    the frames that both have; 0 if there are none."""
    _, in_first, in_second = np.intersect1d(first.frame_index, second.frame_index, return_indices=True)
    if not len(in_first):
        return 0.0
    a, b = first.depth[in_first].astype(np.float64), second.depth[in_second].astype(np.float64)
    sure = np.sqrt(first.confidence[in_first] * second.confidence[in_second])
    good = (a > 0) & (b > 0) & np.isfinite(a) & np.isfinite(b)
    if not good.any():
        return 0.0
    good &= sure >= np.median(sure[good])
    return float(np.median(np.log(a[good]) - np.log(b[good])))


def _nearest(chunks: Sequence[PosedColours], first: int, last: int) -> int:
    """Number of the chunk that has both frames (else one of them, else none) and whose middle is nearest to theirs."""
    best, answer = (2, np.inf), 0
    for number, chunk in enumerate(chunks):
        begin, end = int(chunk.frame_index[0]), int(chunk.frame_index[-1])
        missing = int(_place(chunk, first) < 0) + int(_place(chunk, last) < 0)
        key = (missing, abs((begin + end) - (first + last)))
        if key < best:
            best, answer = key, number
    return answer


def _place(chunk: PosedColours, frame: int) -> int:
    place = int(np.searchsorted(chunk.frame_index, frame))
    return place if place < len(chunk.frame_index) and chunk.frame_index[place] == frame else -1


def _pose(chunk: PosedColours, place: int, log_scale: float) -> Array:
    pose = np.eye(4)
    pose[:3] = chunk.cam_from_world[place]
    u, _, vt = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    pose[:3, 3] *= np.exp(log_scale)
    return pose
