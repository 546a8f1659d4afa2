"""The position of a point fixed to the camera at any time, and its derivatives by the unknowns of the pose graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.normal_equations import WIDTH, State, frame_derivative, place
from pipeline.backend.sim3 import Array, cross_matrix

_STEADY_S = 1.0  # seconds before and after, over which a velocity is measured


@dataclass(frozen=True, eq=False)
class FrameTrack:
    """n frames in order of time, each with its pose in its chunk.

    time_s (n,): rising; chunk (n,): numbers; pose (n, 4, 4): chunk_from_camera; along (n,), moment (n, 3): offset from
    the chunk's reference frame in spans, and `Chunk.moment` per span.
    """

    time_s: Array
    chunk: NDArray[np.int64]
    pose: Array
    along: Array
    moment: Array

    def __len__(self) -> int:
        return len(self.time_s)

    def poses(self, state: State) -> tuple[Array, Array]:
        """Rotations (n, 3, 3) and positions (n, 3) of all cameras in the world."""
        rotation, position, _ = place(state, self.chunk, self.pose, self.along, self.moment)
        return rotation, position

    def only(self, frames: NDArray[np.int64]) -> FrameTrack:
        """The track of these frames (positions in it)."""
        return FrameTrack(
            self.time_s[frames], self.chunk[frames], self.pose[frames], self.along[frames], self.moment[frames]
        )

    def between(self, moments: Array) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
        """For times (m,): the frame before each (m,), the share of the interval to the next frame (m,), and whether
        the time lies within the drive (m,)."""
        low = np.clip(np.searchsorted(self.time_s, moments, side="right") - 1, 0, max(len(self) - 2, 0))
        high = np.minimum(low + 1, len(self) - 1)
        length = np.maximum(self.time_s[high] - self.time_s[low], 1e-9)
        share = np.clip((moments - self.time_s[low]) / length, 0.0, 1.0)
        inside = (moments >= self.time_s[0]) & (moments <= self.time_s[-1])
        return low, share, inside


@dataclass(frozen=True, eq=False)
class Placed:
    """m points, each at its own time. place (m, 3), metres; velocity (m, 3), metres per second; rotation (m, 3, 3):
    world_from_camera; columns (m, c): numbers of unknowns of the pose graph (they may repeat); jacobian (m, 3, c):
    derivatives of the place by them."""

    place: Array
    velocity: Array
    rotation: Array
    columns: NDArray[np.int64]
    jacobian: Array


def placed_at(state: State, track: FrameTrack, moments: Array, lever: Array) -> Placed:
    """World position of the point `lever` (3,), metres in the camera's axes, at times `moments` (m,), linearised."""
    low, share, _ = track.between(moments)
    high = np.minimum(low + 1, len(track) - 1)
    before, behind = _steady(track, moments)
    needed, places = np.unique(np.concatenate([low, high, before, behind]), return_inverse=True)
    low, high, before, behind = places.reshape(4, -1)
    track = track.only(needed)
    rotation, position = track.poses(state)
    arm = rotation @ lever
    point = position + arm
    gap = np.maximum(track.time_s[behind] - track.time_s[before], 1e-9)[:, None]
    last = len(state.scale) * WIDTH
    jacobians, columns = [], []
    chaining = np.zeros((len(moments), 3, 1))
    for frame, part in ((low, 1 - share), (high, share)):
        out = np.zeros((len(frame), 7, WIDTH))
        chunk = track.chunk[frame]
        by_chaining = frame_derivative(
            state, chunk, track.pose[frame], track.along[frame], track.moment[frame], position[frame], out
        )
        swung = out[:, 3:6] - cross_matrix(arm[frame]) @ out[:, 0:3]
        jacobians.append(swung * part[:, None, None])
        columns.append(chunk[:, None] * WIDTH + np.arange(WIDTH))
        chaining[:, :, 0] += by_chaining * part[:, None]
    jacobians.append(chaining)
    columns.append(np.full((len(moments), 1), last))
    nearest = np.where(share < 0.5, low, high)
    return Placed(
        (1 - share)[:, None] * point[low] + share[:, None] * point[high],
        (point[behind] - point[before]) / gap,
        rotation[nearest],
        np.concatenate(columns, 1),
        np.concatenate(jacobians, 2),
    )


def _steady(track: FrameTrack, moments: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames (m,) about one second before and after times (m,), to measure velocities.

    Between two consecutive frames, velocity would be mostly the noise of poses, and a clock offset estimated by such
    velocities would fit that noise.
    """
    last = len(track) - 1
    before = np.clip(np.searchsorted(track.time_s, moments - _STEADY_S, side="right") - 1, 0, max(last - 1, 0))
    behind = np.clip(np.searchsorted(track.time_s, moments + _STEADY_S), min(1, last), last)
    return before, np.maximum(behind, np.minimum(before + 1, last))
