"""The start of a rig's adjustment: its steps by the camera that sees them best, and its unknown cameras' rotations.

A camera that is fixed to the car turns with it: rotations of the camera's own motions are those of the reference camera
in other axes, and without turning so are the directions of travel. The rotation between both is that of least squares
(Wahba's problem), from motions that the tracks of each camera alone have given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.problem import inverse
from pipeline.refine.rotation import log
from pipeline.refine.start import Start, judged_start
from pipeline.refine.tracks import Tracks
from pipeline.refine.two_view import sampson
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_GAPS = (1, 4)  # instants between the two poses of a motion
_TURN_NOISE = 1e-3  # radians: error of a motion's rotation
# Error of a direction of travel, radians: a camera half a metre from the reference moves in another direction in turns.
_AHEAD_NOISE = 0.03
_CONTRADICTED = 2.0  # pixels: median Sampson distance of a step that the tracks contradict
_TURNED = 1.5  # pixels: median distance below which a rotation alone explains the tracks
_ROUNDS = 5  # of robust weighting


def rig_steps(windows: Sequence[Window], tracks: Sequence[Tracks], camera: Array, cam_from_rig: Array) -> Start:
    """The start of the reference camera's poses (I, 4, 4).

    windows, tracks: of each camera; camera (4,): fx fy cx cy in source pixels; cam_from_rig (C, 4, 4): rotations, and
    positions as far as they are known. Each step comes from the first camera with enough tracks to judge it, or
    where none has, from the reference camera.
    """
    count = len(windows[0].frame_index) - 1
    steps, replaced = np.tile(np.eye(4), (count, 1, 1)), np.zeros(count, np.bool_)
    tracked = np.zeros(count, np.bool_)
    for number, (window, rows, pose) in enumerate(zip(windows, tracks, cam_from_rig, strict=True)):
        if tracked.all():
            break
        start = mended_start(window, rows, camera)
        own = inverse(pose[None]) @ start.cam_from_window[1:] @ inverse(start.cam_from_window[:-1]) @ pose
        mine = start.tracked & ~tracked if number else np.ones(count, np.bool_)
        steps[mine], replaced[mine] = own[mine], start.replaced[mine]
        tracked |= start.tracked
    return Start(chained(steps), replaced, tracked)


def mended_start(window: Window, tracks: Tracks, camera: Array) -> Start:
    """The start of one camera of a rig: `judged_start`, without steps that the tracks contradict and two-view geometry
    could not replace. Where the car hardly moves there is none, and a network that does not know rigs may be wrong by
    many degrees and metres.

    Such a step gets the rotation that fits the rays of its tracks, without a translation where that explains them, else
    with that of the step before. The length of each step follows the motion that a rotation does not explain,
    within a factor of 3.
    """
    start = judged_start(window.cam_from_window, window.frame_index, tracks, camera)
    steps = start.cam_from_window[1:] @ inverse(start.cam_from_window[:-1])
    replaced, apart = start.replaced.copy(), np.full(len(steps), np.nan)
    for number in np.flatnonzero(start.tracked):
        first, second, _ = tracks.between(int(window.frame_index[number]), int(window.frame_index[number + 1]))
        turned = np.eye(4)
        turned[:3, :3] = _turn_of(first, second, camera)
        apart[number] = off = float(np.median(sampson(first, second, turned, camera, camera)))
        own = float(np.median(sampson(first, second, steps[number], camera, camera)))
        if replaced[number] or own < _CONTRADICTED:
            continue
        if off > _TURNED and number:
            turned[:3, 3] = steps[number - 1][:3, 3]
            off = float(np.median(sampson(first, second, turned, camera, camera)))
        if off < own:
            steps[number], replaced[number] = turned, True
    length = np.linalg.norm(steps[:, :3, 3], axis=1)
    usable = (apart > _TURNED) & (length > 0)
    if usable.any():
        asked = float(np.median(length[usable] / apart[usable])) * apart
        moves = np.isfinite(asked) & (length > 0)
        steps[moves, :3, 3] *= (np.clip(length, asked / 3, 3 * asked)[moves] / length[moves])[:, None]
    return Start(chained(steps), replaced, start.tracked)


def _turn_of(first: Array, second: Array, camera: Array) -> Array:
    """Rotation (3, 3) that fits points (n, 2) of two pictures best without a translation; robust."""
    a, b = (np.concatenate([(xy - camera[2:]) / camera[:2], np.ones((len(xy), 1))], 1) for xy in (first, second))
    a, b = (rays / np.linalg.norm(rays, axis=1)[:, None] for rays in (a, b))
    weight = np.ones(len(a))
    for _ in range(_ROUNDS):
        turn = _wahba(weight, a, b)
        away = np.linalg.norm(b - a @ turn.T, axis=1)
        weight = 1 / (1 + (away / max(float(np.median(away)), 1e-9)) ** 2)
    return turn


def _wahba(weight: Array, a: Array, b: Array) -> Array:
    """The rotation (3, 3) that brings vectors a (n, 3) nearest to b (n, 3), with weights (n,)."""
    u, _, vt = np.linalg.svd(np.einsum("n,ni,nj->ij", weight, b, a))
    return np.asarray(u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt)


def chained(steps: Array) -> Array:
    """Poses (I, 4, 4) that begin with the identity, from steps (I - 1, 4, 4): next from this."""
    poses = [np.eye(4)]
    for step in steps:
        poses.append(step @ poses[-1])
    return np.stack(poses)


def turn_between(reference: Sequence[Array], other: Sequence[Array]) -> Array:
    """Rotation (3, 3) from the axes of the reference camera to those of another camera of the car, from the poses
    (I, 4, 4), cam_from_window, of both in some windows."""
    mine, theirs, sigma = [], [], []
    for first, second in zip(reference, other, strict=True):
        usual = np.median(np.linalg.norm(np.diff(inverse(first)[:, :3, 3], axis=0), axis=1))
        for gap in _GAPS:
            a, b = (poses[gap:] @ inverse(poses[:-gap]) for poses in (first, second))
            mine.append(log(a[:, :3, :3]))
            theirs.append(log(b[:, :3, :3]))
            sigma.append(np.full(len(a), _TURN_NOISE))
            length = np.linalg.norm(a[:, :3, 3], axis=1)
            there = np.linalg.norm(b[:, :3, 3], axis=1)
            far = (length > 0.3 * gap * usual) & (there > 0)
            mine.append(a[far, :3, 3] / length[far, None])
            theirs.append(b[far, :3, 3] / there[far, None])
            sigma.append(np.full(int(far.sum()), _AHEAD_NOISE))
    a, b, deviation = np.concatenate(mine), np.concatenate(theirs), np.concatenate(sigma)
    weight = deviation**-2
    for _ in range(_ROUNDS):
        turn = _wahba(weight, a, b)
        away = np.linalg.norm(b - a @ turn.T, axis=1) / deviation
        weight = deviation**-2 / (1 + (away / 2) ** 2)
    return np.asarray(turn)
