"""Frames of several cameras as poses of one rig: the solution knows the reference camera of each instant only, and all
cameras are placed with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import Sim3, cross_matrix
from pipeline.errors import DriveError
from pipeline.publish.cameras import Cameras

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RigFrames:
    """The M frames of a drive that have a pose, of all its cameras, and the N instants that the solution knows.

    count: of cameras; camera (M,): number of each frame's camera, 0 for the reference; instant (M,): the instant that
    places it; reference (N,): the frame that is the pose of each instant; rig_from_camera (M, 4, 4): its pose relative
    to its instant, in drive units. With one camera frames and instants are the same.
    """

    count: int
    camera: Numbers
    instant: Numbers
    reference: Numbers
    rig_from_camera: Array

    @staticmethod
    def of(cameras: Cameras, count: int, drive_id: str) -> RigFrames:
        """The frames of a drive of `count` cameras, which alternate. Raises DriveError without any frame of the
        reference camera."""
        number = cameras.frame_index
        reference = np.flatnonzero(number % count == 0)
        if not len(reference):
            raise DriveError(f"drive {drive_id} has no frame with a pose; reconstruct it again")
        # An instant without the reference camera is placed by the nearest one that has it.
        at = number // count
        middle = (at[reference][1:] + at[reference][:-1]) / 2
        instant = np.searchsorted(middle, at, side="left")
        pose = np.tile(np.eye(4), (len(number), 1, 1))
        others = np.flatnonzero(reference[instant] != np.arange(len(number)))
        world = cameras.world_from_camera
        pose[others] = np.linalg.inv(world[reference[instant[others]]]) @ world[others]
        return RigFrames(count, number % count, instant, reference, pose)

    def placed(self, city_from_rig: Array, scale: Array) -> tuple[Array, Array]:
        """city_from_camera (M, 4, 4) and city units per drive unit (M,) of all frames, from those of the instants,
        (N, 4, 4) and (N,)."""
        own = self.rig_from_camera.copy()
        own[:, :3, 3] *= scale[self.instant][:, None]
        return city_from_rig[self.instant] @ own, scale[self.instant]


def between_rigs(first: Array, second: Array, move: Sim3, covariance: Array) -> tuple[Sim3, Array]:
    """The relative pose of two rigs, from that of two of their cameras.

    first, second (4, 4): rig_from_camera of both, each in units of its drive; move, covariance: second_from_first of
    the cameras, as in Link. Returns the same for the rigs' own frames.
    """
    turn, turned = second[:3, :3], move.rotation @ first[:3, :3].T
    arm = move.scale * turned @ first[:3, 3]
    relative = Sim3(move.scale, turn @ turned, second[:3, 3] + turn @ (move.translation - arm))
    jacobian = np.eye(7)
    jacobian[:3, :3] = jacobian[3:6, 3:6] = turn
    jacobian[3:6, :3] = turn @ cross_matrix(arm)
    jacobian[3:6, 6] = -turn @ arm
    moved = jacobian @ covariance @ jacobian.T
    return relative, (moved + moved.T) / 2
