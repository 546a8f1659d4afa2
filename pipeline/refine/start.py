"""The start of adjustment: the network's relative poses, or two-view geometry where tracks contradict them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.problem import inverse
from pipeline.refine.tracks import Tracks
from pipeline.refine.two_view import sampson, two_view_pose

Array = NDArray[np.float64]

_FEWEST = 30  # common tracks that a pair of frames needs before its pose is judged
_GOOD = 0.7  # pixels: with a smaller median Sampson distance the network's pose is a good start
_BETTER = 0.7  # two-view geometry replaces the pose if its median distance is below this share of the network's
_STANDING = 0.35  # pixels: with a smaller median motion the camera stands


@dataclass(frozen=True, eq=False)
class Start:
    """cam_from_window (F, 4, 4); replaced (F - 1,): the step between two frames comes from the tracks, not from the
    network; tracked (F - 1,): there were enough tracks to judge the step."""

    cam_from_window: Array
    replaced: NDArray[np.bool_]
    tracked: NDArray[np.bool_]


def judged_start(cam_from_window: Array, frame_index: NDArray[np.int64], tracks: Tracks, camera: Array) -> Start:
    """The start of a window, from the network's poses cam_from_window (F, 4, 4) of the frames frame_index (F,).

    camera (4,): fx fy cx cy in source pixels. A step that its tracks contradict takes rotation and direction from the
    essential matrix and keeps the network's length. Where the tracks do not move, the step is the identity.
    """
    relative = cam_from_window[1:] @ inverse(cam_from_window[:-1])
    count = len(relative)
    replaced, tracked = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    length = np.linalg.norm(relative[:, :3, 3], axis=1)
    usual = float(np.median(length)) if count else 0.0
    poses = [cam_from_window[0]]
    for i in range(count):
        first, second, _ = tracks.between(int(frame_index[i]), int(frame_index[i + 1]))
        tracked[i] = len(first) >= _FEWEST
        if tracked[i]:
            moved = float(np.median(np.linalg.norm(second - first, axis=1)))
            if moved < _STANDING:
                relative[i], replaced[i] = np.eye(4), True
            else:
                own = float(np.median(sampson(first, second, relative[i], camera, camera)))
                other = two_view_pose(first, second, camera) if own > _GOOD else None
                if other is not None:
                    pose = np.eye(4)
                    pose[:3, :3] = other.rotation
                    pose[:3, 3] = other.direction * np.clip(length[i], 0.3 * usual, 3 * usual)
                    if float(np.median(sampson(first, second, pose, camera, camera))) < _BETTER * own:
                        relative[i], replaced[i] = pose, True
        poses.append(relative[i] @ poses[-1])
    return Start(np.stack(poses), replaced, tracked)
