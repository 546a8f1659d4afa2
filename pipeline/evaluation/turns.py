"""Finds the turns of a drive in the truth, and computes the error of the estimate's rotation over each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.backend.sim3 import rotation_log
from pipeline.evaluation.metrics import FloatArray, relative_motion, travelled

# At a street corner the radius is 6 to 25 m (9 to 2 degrees per metre); a bend of a country road has less than one
# degree per metre and does not count as a turn.
_RATE = 1.0  # degrees per metre
_WINDOW = 2.0  # metres before and after, over which the rate is measured
SMALLEST = 60.0  # degrees; smaller changes of direction are not turns


@dataclass(frozen=True)
class Turn:
    """One turn from frame `first` to frame `last` of the drive.

    degrees: rotation of the truth, positive to the right; error: angle of the rotation between the estimated and the
    true motion over the turn; yaw_error: its part about the camera's y axis (down), positive if the estimate turned
    further right. All in degrees.
    """

    first: int
    last: int
    degrees: float
    error: float
    yaw_error: float


def find_turns(world_from_camera: FloatArray, smallest: float = SMALLEST) -> tuple[tuple[int, int], ...]:
    """First and last position of every stretch of (N, 4, 4), metres, that turns in one direction by at least `smallest`
    degrees.

    Turning is measured about the camera's y axis (down), over four metres, and must be at least one degree per metre;
    so a curve with a radius above 57 m is not a turn, at any frame rate. A stop within a turn does not divide it.
    """
    count = len(world_from_camera)
    rotation, _ = relative_motion(world_from_camera, (np.arange(count - 1), np.arange(1, count)))
    heading = np.concatenate([[0.0], np.degrees(rotation_log(rotation)[:, 1]).cumsum()])
    # A tiny distance is added per frame, so that standing frames have different positions along the path.
    path = travelled(world_from_camera[:, :3, 3]) + 1e-6 * np.arange(count)
    before, after = np.maximum(path - _WINDOW, path[0]), np.minimum(path + _WINDOW, path[-1])
    rate = (np.interp(after, path, heading) - np.interp(before, path, heading)) / (after - before)
    way = np.where(np.abs(rate) >= _RATE, np.sign(rate), 0.0)
    edges = np.flatnonzero(np.diff(way)) + 1
    turns = []
    for start, stop in zip([0, *edges], [*edges, count], strict=True):
        if way[start] and abs(heading[stop - 1] - heading[start]) >= smallest:
            turns.append((int(start), int(stop - 1)))
    return tuple(turns)


def turn_errors(
    estimate: FloatArray, truth: FloatArray, frame_index: np.ndarray, smallest: float = SMALLEST
) -> tuple[Turn, ...]:
    """Every turn of the truth (N, 4, 4), with the error of the estimate's rotation over it.

    frame_index (N,): the frame numbers to report. The rotations are relative, so the estimate needs no alignment.
    """
    turns = []
    for first, last in find_turns(truth, smallest):
        pair = (np.array([first]), np.array([last]))
        true_rotation, rotation = relative_motion(truth, pair)[0][0], relative_motion(estimate, pair)[0][0]
        between = np.arange(first, last)
        steps, _ = relative_motion(truth, (between, between + 1))
        error = np.degrees(rotation_log(true_rotation.T @ rotation))
        turns.append(
            Turn(
                int(frame_index[first]),
                int(frame_index[last]),
                float(np.degrees(rotation_log(steps)[:, 1].sum())),
                float(np.linalg.norm(error)),
                float(error[1]),
            )
        )
    return tuple(turns)
