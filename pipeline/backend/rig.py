"""Joins the cameras of one car as a single camera: the frames of an instant give one pose of the rig, and the rig's
trajectory gives the poses of all cameras.

Frame f of a rig of C cameras is camera f % C at instant f // C. All cameras of an instant are in the same chunk, so
the chunk contains their relative poses. Those of a camera whose pictures are later than the reference's are brought to
the time of the instants first, along its own trajectory. `measure_rig` measures relative poses in every chunk.
`RigChunks` presents chunks as those of one camera: the reference, whose pose is the mean of those that follow from all
cameras that take their pictures at once with it. `frames_of_rig` computes the poses of all frames from the joined
trajectory, each at the time of its picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.georeference import Metric
from pipeline.backend.join import JoinResult
from pipeline.backend.sim3 import Array, Sim3, nearest_rotation, rotation_log
from pipeline.cameras.rig import Rig
from pipeline.cameras.rig_time import AT_ONCE, moved_on
from pipeline.common.chunk_prediction import PosedColours

_FEWEST = 3  # least number of instants of a chunk from which a camera's pose on the car is measured
_ROUNDS = 5
_UNLIKE = 0.35  # relative to the known positions; measured ones with a larger error do not determine the scale
_SHARED = 4.0  # factor of the variance: chunks share instants, and errors of one corner in a track are alike
_MOST_UNSURE = 0.2  # deviation of the log of a metre's length with which a result is still metric
_LEAST_TURN = 1e-4  # radians: the best accuracy of poses


@dataclass(frozen=True, eq=False)
class RigMeasure:
    """Poses of the C cameras relative to the reference, measured in K chunks, in chunk units.

    turn (K, C, 3, 3); shift (K, C, 3), NaN where there are too few instants; count (K, C): instants.
    """

    turn: Array
    shift: Array
    count: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RigGeometry:
    """The poses of the cameras on the car. turn (C, 3, 3): the same in all chunks; known_m (C, 3): known positions in
    metres, NaN where unknown; usual (C, 3): positions in chunk units, for chunks in which they cannot be measured;
    per_metre: the usual number of chunk units in a metre, NaN if unknown; measure: of the chunks themselves; late (C,):
    `Rig.lateness`."""

    turn: Array
    known_m: Array
    usual: Array
    per_metre: float
    measure: RigMeasure
    late: Array

    @property
    def cameras(self) -> int:
        """The number of cameras, including the reference."""
        return len(self.turn)

    def shifts(self, measured: Array) -> Array:
        """Positions (C, 3) of the cameras in the units of a chunk. measured (C, 3): those measured in this chunk."""
        places = np.where(np.isfinite(measured), measured, self.usual)
        known = np.isfinite(self.known_m).all(1)
        if known.any():
            own = _units_per_metre(measured, self.known_m)
            scale = own if np.isfinite(own) else self.per_metre
            if np.isfinite(scale):
                places[known] = self.known_m[known] * scale
        places[self.at_reference] = 0
        return places

    @property
    def at_reference(self) -> NDArray[np.bool_]:
        """(C,): the reference, and cameras known to be where it is, at any scale: views of one picture."""
        there = np.asarray((self.known_m == 0).all(1))
        there[0] = True
        return there


@dataclass(frozen=True, eq=False)
class RigFrame:
    """One chunk of a rig as a chunk of its reference camera; shapes as in PosedDepth, with one row for each instant. ok
    (S,): some camera saw the instant; one that the reference camera missed has a pose and no depth."""

    frame_index: NDArray[np.int64]
    cam_from_world: Array
    intrinsics: NDArray[np.floating]
    depth: NDArray[np.floating]
    confidence: NDArray[np.floating]
    ok: NDArray[np.bool_]


class RigChunks(Sequence[RigFrame]):
    """Chunks of all frames of a rig, read as chunks of instants."""

    def __init__(self, chunks: Sequence[PosedColours], geometry: RigGeometry) -> None:
        self._chunks = chunks
        self._geometry = geometry

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, number: int) -> RigFrame:  # type: ignore[override]
        return _as_one_camera(self._chunks[number], self._geometry)


def measure_rig(chunks: Sequence[PosedColours], rig: Rig) -> RigGeometry:
    """The poses of a rig's cameras on the car: known ones, else the robust mean over its chunks, which are read once.

    A camera without any measurement (all its pictures are bad) is held at the reference.
    """
    count = len(rig)
    turns, shifts, counts = [], [], []
    for number in range(len(chunks)):
        _, poses, ok = _by_instant(chunks[number], rig.lateness)
        turn, shift, seen = _relative(poses, ok)
        turns.append(turn)
        shifts.append(shift)
        counts.append(seen)
    measure = RigMeasure(np.stack(turns), np.stack(shifts), np.stack(counts))
    known = rig.poses
    turn = np.tile(np.eye(3), (count, 1, 1))
    usual = np.zeros((count, 3))
    for camera in range(1, count):
        told = np.isfinite(measure.shift[:, camera]).all(1)
        if told.any():
            usual[camera] = np.median(measure.shift[told, camera], axis=0)
            turn[camera] = _mean_rotation(measure.turn[told, camera], measure.count[told, camera])
        if np.isfinite(known[camera, :3, :3]).all():
            turn[camera] = known[camera, :3, :3]
    per_metre = np.array([_units_per_metre(one, known[:, :3, 3]) for one in measure.shift])
    per_metre = per_metre[np.isfinite(per_metre)]
    usual_metre = float(np.median(per_metre)) if len(per_metre) else np.nan
    return RigGeometry(turn, known[:, :3, 3], usual, usual_metre, measure, rig.lateness)


def frames_of_rig(
    joined: JoinResult, geometry: RigGeometry, metre_sigma: Sequence[float] | None = None
) -> tuple[JoinResult, Array]:
    """The trajectory of all cameras, from the one of instants; and rig_from_camera (C, 4, 4) in its units.

    Positions of cameras that are known in metres make the result metric, if nothing else did: the scale is the median
    over chunks of the known over the measured distances. At least half of the chunks must agree with the known
    positions. metre_sigma: chunks were adjusted with the known positions, and so always agree with them; for each one
    the deviation of the log of a metre's length in it, NaN where it is unknown. Then the scale is their weighted mean.
    """
    count = geometry.cameras
    scale = np.array([np.median(joined.depth_scale[joined.owner == k]) for k in range(len(joined.world_from_chunk))])
    world = geometry.measure.shift * scale[:, None, None]
    told = np.array([_units_per_metre(one, geometry.known_m) for one in world])
    unit, deviation = _metre_of(told) if metre_sigma is None else _adjusted_metre(told, np.asarray(metre_sigma))
    in_metres = joined.metric is not None or joined.georeference is not None
    if np.isfinite(unit) and not in_metres:
        joined = _scaled(joined, 1 / unit, Metric("baseline", deviation, 0.0))
        world, in_metres = world / unit, True
    rig = np.tile(np.eye(4), (count, 1, 1))
    rig[:, :3, :3] = geometry.turn
    for camera in range(1, count):
        seen = np.isfinite(world[:, camera]).all(1)
        if geometry.at_reference[camera]:
            continue
        if in_metres and np.isfinite(geometry.known_m[camera]).all():
            rig[camera, :3, 3] = geometry.known_m[camera]
        elif seen.any():
            rig[camera, :3, 3] = np.median(world[seen, camera], axis=0)
    return _spread(joined, rig, geometry.late), rig


def _metre_of(told: Array) -> tuple[float, float]:
    """World units in a metre and the deviation of its log, by the chunks that measured it, told (K,); NaN unless most
    did."""
    known = told[np.isfinite(told)]
    if not len(told) / 2 < len(known):
        return np.nan, np.nan
    unit = float(np.median(known))
    return unit, 1.4826 * float(np.median(np.abs(known - unit))) / unit / len(known) ** 0.5


def _adjusted_metre(told: Array, sigma: Array) -> tuple[float, float]:
    """The same by adjusted chunks, with the deviations sigma (K,) of their logs; NaN where they do not determine it."""
    known = np.isfinite(told) & np.isfinite(sigma)
    if not known.any():
        return np.nan, np.nan
    weight = sigma[known] ** -2
    middle = float(weight @ np.log(told[known]) / weight.sum())
    scatter = float(weight @ (np.log(told[known]) - middle) ** 2 / weight.sum() / known.sum())
    deviation = max(scatter, _SHARED / weight.sum()) ** 0.5
    return (float(np.exp(middle)), deviation) if deviation < _MOST_UNSURE else (np.nan, np.nan)


def _spread(joined: JoinResult, rig: Array, late: Array) -> JoinResult:
    """The trajectory with each instant replaced by the frames of all cameras. late (C,): see `RigGeometry`."""
    count = len(rig)
    every = joined.world_from_camera[:, None] @ rig[None]
    number = np.asarray(joined.frame_index, np.int64)
    there = np.asarray(np.isfinite(joined.world_from_camera).all((1, 2)))
    for camera in np.flatnonzero(late):
        every[:, camera] = moved_on(joined.world_from_camera, number, there, float(late[camera])) @ rig[camera]
    poses = every.reshape(-1, 4, 4)
    place = joined.georeference
    if place is not None:
        deviation = np.repeat(place.position_deviation_m, count, axis=0)
        place = replace(place, enu_from_camera=poses, position_deviation_m=deviation)

    def frames(instants: range) -> range:
        return range(instants.start * count, instants.stop * count)

    return replace(
        joined,
        frame_index=(joined.frame_index[:, None] * count + np.arange(count)).reshape(-1),
        world_from_camera=poses,
        owner=np.repeat(joined.owner, count),
        depth_scale=np.repeat(joined.depth_scale, count),
        filled=np.repeat(joined.filled, count),
        chunk_frames=tuple((first * count, last * count + count - 1) for first, last in joined.chunk_frames),
        loops=tuple(
            replace(
                loop,
                pair=(loop.pair[0] * count, loop.pair[1] * count),
                first=frames(loop.first),
                second=frames(loop.second),
            )
            for loop in joined.loops
        ),
        georeference=place,
    )


def _scaled(joined: JoinResult, factor: float, metric: Metric) -> JoinResult:
    """The result in a unit that is 1 / factor times as long."""
    poses = joined.world_from_camera.copy()
    poses[:, :3, 3] *= factor
    units = np.ones(7)
    units[4:] = factor  # of log scale, turn and shift, only the shift has a unit
    edges = tuple(
        replace(edge, residual=edge.residual * factor, covariance=edge.covariance * np.outer(units, units))
        for edge in joined.edges
    )
    loops = tuple(
        replace(loop, residual=None if loop.residual is None else loop.residual * factor) for loop in joined.loops
    )
    chunks = tuple(Sim3(s.scale * factor, s.rotation, s.translation * factor) for s in joined.world_from_chunk)
    return replace(
        joined,
        world_from_camera=poses,
        depth_scale=joined.depth_scale * factor,
        world_from_chunk=chunks,
        edges=edges,
        loops=loops,
        metric=metric,
    )


def _as_one_camera(chunk: PosedColours, geometry: RigGeometry) -> RigFrame:
    count = geometry.cameras
    instants, poses, ok = _by_instant(chunk, geometry.late)
    _, measured, _ = _relative(poses, ok)
    rig_from_camera = np.tile(np.eye(4), (count, 1, 1))
    rig_from_camera[:, :3, :3] = geometry.turn
    rig_from_camera[:, :3, 3] = geometry.shifts(measured)
    said = poses @ np.linalg.inv(rig_from_camera)  # (I, C, 4, 4): the rig's pose by each camera
    # Poses between pictures lose what the car does within a step, so those of late cameras are for gaps.
    exact = np.asarray(ok & (np.abs(geometry.late) <= AT_ONCE))
    used = np.where(exact.any(1, keepdims=True), exact, ok)
    weight = used * _weights(said, used)
    weight[~ok.any(1), 0] = 1.0  # no camera saw anything, so the pose is not used
    said = np.where(ok[..., None, None] | (weight[..., None, None] > 0), said, 0.0)
    total = weight.sum(1)
    mean = np.tile(np.eye(4), (len(instants), 1, 1))
    mean[:, :3, :3] = nearest_rotation(np.einsum("ic,icjk->ijk", weight, said[..., :3, :3]))
    mean[:, :3, 3] = np.einsum("ic,icj->ij", weight, said[..., :3, 3]) / total[:, None]
    rotation = mean[:, :3, :3].transpose(0, 2, 1)
    camera_from_world = np.concatenate([rotation, -rotation @ mean[:, :3, 3:]], axis=2)
    # Rows of the reference; where a window of a loop cuts an instant, those of a camera that is there, without depth.
    index = np.asarray(chunk.frame_index, np.int64)
    order = np.lexsort((index % count, index // count))
    row = order[np.unique(index[order] // count, return_index=True)[1]]
    is_reference = (index[row] % count == 0) & np.asarray(chunk.ok, bool)[row]
    confidence = np.where(is_reference[:, None, None], chunk.confidence[row], 0.0)
    intrinsics = np.broadcast_to(chunk.intrinsics, (len(index), 3, 3))[row]
    return RigFrame(instants, camera_from_world, intrinsics, chunk.depth[row], confidence, np.asarray(ok.any(1)))


def _by_instant(chunk: PosedColours, late: Array) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """Instants (I,), chunk_from_camera (I, C, 4, 4) at their times, and which are good (I, C); poses of frames that are
    not in the chunk are zero. late (C,): see `RigGeometry`."""
    count = len(late)
    index = np.asarray(chunk.frame_index, np.int64)
    instants, row = np.unique(index // count, return_inverse=True)
    poses = np.zeros((len(instants), count, 4, 4))
    ok = np.zeros((len(instants), count), bool)
    camera_from_world = np.asarray(chunk.cam_from_world, np.float64)
    rotation = nearest_rotation(camera_from_world[:, :, :3]).transpose(0, 2, 1)
    camera = index % count
    poses[row, camera, :3, :3] = rotation
    poses[row, camera, :3, 3] = -np.einsum("nij,nj->ni", rotation, camera_from_world[:, :, 3])
    poses[row, camera, 3, 3] = 1
    ok[row, camera] = np.asarray(chunk.ok, bool)
    for number in np.flatnonzero(late):
        poses[:, number] = moved_on(poses[:, number], instants, ok[:, number], -float(late[number]))
    return instants, poses, ok


def _relative(poses: Array, ok: NDArray[np.bool_]) -> tuple[Array, Array, NDArray[np.int64]]:
    """Each camera relative to the reference: turn (C, 3, 3), shift (C, 3), number of instants used (C,)."""
    count = poses.shape[1]
    turn, shift = np.tile(np.eye(3), (count, 1, 1)), np.full((count, 3), np.nan)
    seen = np.zeros(count, np.int64)
    for camera in range(1, count):
        both = ok[:, 0] & ok[:, camera]
        seen[camera] = both.sum()
        if seen[camera] < _FEWEST:
            continue
        back = poses[both, 0, :3, :3].transpose(0, 2, 1)
        turn[camera] = _mean_rotation(back @ poses[both, camera, :3, :3], np.ones(int(seen[camera])))
        away = np.einsum("nij,nj->ni", back, poses[both, camera, :3, 3] - poses[both, 0, :3, 3])
        shift[camera] = _robust_mean(away)
    shift[0] = 0
    return turn, shift, seen


def _mean_rotation(rotations: Array, weight: NDArray[np.generic]) -> Array:
    """Mean of rotations (n, 3, 3), with Huber weights beyond 1.5 times the median angle."""
    robust = np.asarray(weight, np.float64)
    for _ in range(_ROUNDS):
        mean = nearest_rotation(np.einsum("n,nij->ij", robust, rotations))
        away = np.linalg.norm(rotation_log(rotations @ mean.T), axis=1)
        robust = weight * np.minimum(1, max(1.5 * float(np.median(away)), _LEAST_TURN) / np.maximum(away, 1e-12))
    return np.asarray(mean)


def _robust_mean(points: Array) -> Array:
    """Mean of points (n, 3), with Huber weights beyond 1.5 times the median distance."""
    mean = np.median(points, axis=0)
    for _ in range(_ROUNDS):
        away = np.linalg.norm(points - mean, axis=1)
        robust = np.minimum(1, 1.5 * float(np.median(away)) / np.maximum(away, 1e-12)) + 1e-12
        mean = robust @ points / robust.sum()
    return np.asarray(mean)


def _weights(said: Array, ok: NDArray[np.bool_]) -> Array:
    """(C,) weight of each camera in the rig's pose: the inverse square of its usual angle to the mean of the others."""
    count = said.shape[1]
    away = np.full(count, np.nan)
    for camera in range(count):
        others = ok.copy()
        others[:, camera] = False
        both = ok[:, camera] & others.any(1)
        if both.any():
            mean = nearest_rotation(np.einsum("ic,icjk->ijk", others[both].astype(float), said[both][..., :3, :3]))
            turn = rotation_log(said[both, camera, :3, :3] @ mean.transpose(0, 2, 1))
            away[camera] = np.median(np.linalg.norm(turn, axis=1))
    known = away[np.isfinite(away)]
    away = np.where(np.isfinite(away), away, known.max() if len(known) else 1.0)
    return np.asarray(1 / np.maximum(away, _LEAST_TURN) ** 2)


def _units_per_metre(measured: Array, known_m: Array) -> float:
    """Chunk units in a metre, from measured (C, 3) and known positions (C, 3) of cameras. NaN without such a camera, or
    where the measured positions do not fit the known ones at any scale: a network that was not trained on rigs may
    predict arbitrary ones."""
    both = np.isfinite(measured).all(1) & np.isfinite(known_m).all(1)
    length = float((known_m[both] ** 2).sum())
    if length < 1e-6:
        return np.nan
    units = float((measured[both] * known_m[both]).sum()) / length
    away = float(((measured[both] - units * known_m[both]) ** 2).sum())
    return units if units > 0 and away < (_UNLIKE * units) ** 2 * length else np.nan
