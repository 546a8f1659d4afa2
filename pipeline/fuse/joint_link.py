"""The prediction of a joint chunk, frames of two drives predicted together -> the relative pose of the drives.

Each drive's half is aligned with what the drive published of the same frames, as a loop chunk's window is with the
chunk that contains it. The differences that are left show how well the network understood the half, and give the
deviations of the link.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.loop_residuals import home_from_loop
from pipeline.backend.overlap import Overlap, measure_overlap
from pipeline.backend.sim3 import Sim3, rotation_log
from pipeline.common.chunk_prediction import PosedDepth
from pipeline.errors import AlignmentError
from pipeline.forward.network import NetworkSpec

Array = NDArray[np.float64]

JOINT_VERIFIER = 1
"""Version of the measurement. Increase it when it changes: verdicts of other versions are not used."""

_LEAST_FRAMES = 3  # good frames of a half
# Deviations of a link, as factors of the root mean square differences of its halves, and the least ones: radians; share
# of the length of the windows; log scale.
_TURNS, _PLACES, _SCALES = 1.5, 1.0, 1.5
_FLOOR_TURN, _FLOOR_PLACE, _FLOOR_SCALE = 0.005, 0.02, 0.1


def network_kind(spec: NetworkSpec) -> str:
    """The kind of verdicts by joint chunks through a network. Raises CheckpointError, StorageError for weights that
    cannot be read."""
    return f"network {JOINT_VERIFIER} {spec.sha256()[:16]} {spec.precision}"


@dataclass(frozen=True, eq=False)
class Half:
    """How a half of a joint prediction differs from the published frames. drive_from_joint: Sim(3) to the drive; turn:
    radians, root mean square over frames; place: the same of positions, as a share of the window's length; length: of
    the window, drive units; depth: median log difference of depths from frame to frame, robust; inliers: share of
    pixels whose depths agree within a tenth."""

    drive_from_joint: Sim3
    turn: float
    place: float
    length: float
    depth: float
    inliers: float


@dataclass(frozen=True, eq=False)
class JointLink:
    """The relative pose of two cameras by a joint chunk. second_from_first, covariance (7, 7): as in
    pipeline.fuse.Link; halves: of the first and of the second drive."""

    second_from_first: Sim3
    covariance: Array
    halves: tuple[Half, Half]

    @property
    def turn(self) -> float:
        """Of the worse half, radians."""
        return max(half.turn for half in self.halves)

    @property
    def place(self) -> float:
        """Of the worse half, as a share of its length."""
        return max(half.place for half in self.halves)

    @property
    def inliers(self) -> float:
        """Of the worse half."""
        return min(half.inliers for half in self.halves)


def joint_link(
    joint: tuple[PosedDepth, PosedDepth], published: tuple[PosedDepth, PosedDepth], poses: tuple[Array, Array]
) -> JointLink | str:
    """The link of two cameras, or a reason why there is none.

    joint: both halves of the prediction, in one gauge; published: the same frames of each drive, in its own frame and
    units, with the same frame numbers; poses: world_from_camera (4, 4) of the linked cameras in their drives.
    """
    halves: list[Half] = []
    for which, seen, known in zip(("first", "second"), joint, published, strict=True):
        try:
            half = _half(seen, known)
        except AlignmentError as error:
            return f"the {which} drive's half of the joint chunk cannot be used: {error}"
        if half is None:
            return f"the {which} drive's half of the joint chunk has too few usable frames, {_LEAST_FRAMES} are needed"
        halves.append(half)
    worlds = [_rigid(pose) for pose in poses]
    first, second = halves
    relative = worlds[1].inverse() @ second.drive_from_joint @ first.drive_from_joint.inverse() @ worlds[0]
    return JointLink(relative, _covariance(first, second), (first, second))


def _half(joint: PosedDepth, published: PosedDepth) -> Half | None:
    config = BackendConfig()
    sides = [Chunk.read(one, max_pixels=config.max_pixels) for one in (published, joint)]
    overlap = measure_overlap(sides[0], sides[1], (0, 1), config)
    if overlap is None or len(overlap) < _LEAST_FRAMES or not np.isfinite(overlap.log_ratio_sigma).any():
        return None
    return half_of(overlap, config)


def half_of(overlap: Overlap, config: BackendConfig) -> Half:
    """The differences between published frames (`first`) and the same frames of a joint prediction."""
    move = home_from_loop(overlap, config)
    turned = move.rotation @ overlap.second_from_camera[:, :3, :3]
    turn = rotation_log(turned.transpose(0, 2, 1) @ overlap.first_from_camera[:, :3, :3])
    own = overlap.first_from_camera[:, :3, 3]
    away = move.apply(overlap.second_from_camera[:, :3, 3]) - own
    known = np.isfinite(overlap.log_ratio_sigma)
    ratio = overlap.log_ratio[known]
    length = float(np.linalg.norm(np.diff(own, axis=0), axis=1).sum())
    return Half(
        move,
        float(np.sqrt((turn**2).sum(1).mean())),
        float(np.sqrt((away**2).sum(1).mean())) / max(length, 1e-12),
        length,
        float(1.4826 * np.median(np.abs(ratio - np.median(ratio)))),
        float(overlap.inlier_share),
    )


def _covariance(first: Half, second: Half) -> Array:
    """(7, 7), of rotation, translation in the second drive's units, and log scale."""
    scale = second.drive_from_joint.scale / first.drive_from_joint.scale
    turn = np.hypot(_FLOOR_TURN, _TURNS * np.hypot(first.turn, second.turn))
    places = [np.hypot(_FLOOR_PLACE, _PLACES * half.place) * half.length for half in (first, second)]
    place = np.hypot(places[0] * scale, places[1])
    depth = np.hypot(_FLOOR_SCALE, _SCALES * np.hypot(first.depth, second.depth))
    return np.diag(np.array([turn] * 3 + [max(place, 1e-9)] * 3 + [depth]) ** 2)


def _rigid(pose: Array) -> Sim3:
    return Sim3(1.0, pose[:3, :3], pose[:3, 3])
