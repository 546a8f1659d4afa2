"""Reads published drives for the joint solution: their tables become the JoinResult that joining had returned."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.join import Edge, JoinResult, Loop
from pipeline.backend.joint_errors import JointErrors
from pipeline.backend.sim3 import Sim3
from pipeline.common.fixes import Fixes
from pipeline.common.geodesy import enu_from_geodetic
from pipeline.common.numbers import number_or
from pipeline.errors import DriveError
from pipeline.fuse.drive_nodes import own_state
from pipeline.fuse.joint_covariances import covariances_of
from pipeline.fuse.rig_frames import RigFrames
from pipeline.publish import PublishedDrive
from pipeline.publish.poses import rotation_from_quaternion

Array = NDArray[np.float64]

# An older result has no covariances of the steps between chunks, only the noise of each overlap relative to the drive's
# others. Deviations of a usual overlap, measured on the chunks of KITTI 00: rotation (radians), translation (share of
# the distance between the two chunks), log scale.
_TURN, _PLACE, _SCALE = 2e-4, 2e-4, 4e-4

_COLUMNS = ("step_covariance", "step_with_next")
_CROOKED = 1e-6  # largest difference of a covariance from its transpose, as a share of its two deviations
_SINGULAR = 1e-12  # largest eigenvalue of a matrix of correlations that may be zero but for rounding
_NOISIEST = 1e6  # an overlap that says nothing
# Metres, and deviations that a receiver reports, that a fix may be from the camera (the antenna is elsewhere on the
# car); factor for heights.
_AWAY_M, _ACCURACIES, _UP = 50.0, 5.0, 4.0
_MOST_HELD = 16  # drives that a worker keeps
_CLOCK_TELLS_DATE_NS = 631_152_000 * 10**9  # the year 1990: earlier time stamps count from the drive's start


@dataclass(frozen=True, eq=False)
class SeenDrive:
    """A published drive and the M frames of all its cameras that have a pose (rig): what is needed to compare its
    pictures and points with those of others."""

    opened: PublishedDrive
    rig: RigFrames

    @property
    def frame_index(self) -> NDArray[np.int64]:
        """(M,) numbers of the frames that have a pose, of all cameras."""
        return self.opened.cameras.frame_index

    @property
    def drive_id(self) -> str:
        """Name of the drive."""
        return self.opened.manifest.drive_id

    @property
    def key(self) -> str:
        """Identity and date of this result. A drive that is reconstructed again has another key."""
        return key_of(self.opened)

    @property
    def recorded_s(self) -> float:
        """When it was recorded, in seconds since 1970, by its own clock if that has a date; else when it was
        published."""
        stamps = self.opened.cameras.timestamps_ns
        if stamps is not None and stamps[0] > _CLOCK_TELLS_DATE_NS:
            return float(stamps[0]) / 1e9
        return datetime.fromisoformat(self.opened.manifest.published_at).timestamp()

    @property
    def unread(self) -> PublishedDrive:
        """The drive without the tables that were read, for a task, which reads what it needs (`seen_again`)."""
        return replace(self.opened)


@dataclass(frozen=True, eq=False)
class FusibleDrive(SeenDrive):
    """A drive with its data for the joint solution. joined: its N frames that have a pose, in drive order, of a rig
    those of the reference camera; time_s (N,): seconds from its first frame, None where unknown; fixes: those that its
    own trajectory agrees with, on the clock of time_s, or None."""

    joined: JoinResult
    time_s: Array | None
    fixes: Fixes | None


def key_of(opened: PublishedDrive) -> str:
    """Identity and date of a result."""
    return f"{opened.manifest.identity}@{opened.manifest.published_at}"


_held: OrderedDict[tuple[str, str], SeenDrive] = OrderedDict()


def seen_again(opened: PublishedDrive) -> SeenDrive:
    """A drive in a task, whose worker keeps the last ones that it read. Raises DriveError (damaged tables) and
    StorageError."""
    name = opened.uri, key_of(opened)
    if name not in _held:
        _held[name] = SeenDrive(opened, RigFrames.of(opened.cameras, opened.camera_count, opened.manifest.drive_id))
        if len(_held) > _MOST_HELD:
            _held.popitem(last=False)
    _held.move_to_end(name)
    return _held[name]


def read_drive(opened: PublishedDrive) -> FusibleDrive:
    """Read poses, chunks, loops and positions. Raises DriveError for a drive without poses, or one with damaged tables;
    StorageError."""
    cameras = opened.cameras
    rig = RigFrames.of(cameras, opened.camera_count, opened.manifest.drive_id)
    frame = cameras.frame_index[rig.reference]
    chunks, state = opened.chunks, _chunks_of(opened.chunks)
    scales = np.array([one.scale for one in state])
    row = np.searchsorted(opened.poses["frame_index"].to_numpy(), frame)
    owner = opened.poses["chunk_index"].take(pa.array(row)).fill_null(0).to_numpy().astype(np.int64)
    starts, stops = chunks["frame_start"].to_numpy(), chunks["frame_stop"].to_numpy()
    spans = tuple((int(a), int(b) - 1) for a, b in zip(starts, stops, strict=True))
    joined = JoinResult(
        frame,
        cameras.world_from_camera[rig.reference],
        owner,
        scales[owner],
        cameras.filled[rig.reference],
        state,
        spans,
        _edges_of(chunks, state),
        _loops_of(opened.loops, spans),
        1.0,
        joint_errors=_joint_errors_of(chunks),
    )
    damaged = damaged_covariance(joined)
    if damaged:
        chunk, column, why = damaged
        raise DriveError(
            f"drive {opened.manifest.drive_id}: chunks.parquet: {column} of chunk {chunk} {why}; "
            "reconstruct it again (--overwrite)"
        )
    stamps = cameras.timestamps_ns
    time_s = None if stamps is None else (stamps[rig.reference] - opened.poses["timestamp_ns"][0].as_py()) / 1e9
    if time_s is not None and not (np.diff(time_s) > 0).all():
        time_s = None
    fixes = None if time_s is None else _fixes_of(opened, time_s, joined.world_from_camera[:, :3, 3])
    return FusibleDrive(opened, rig, joined, time_s, fixes)


def _chunks_of(table: pa.Table) -> tuple[Sim3, ...]:
    quaternion = np.stack([table[name].to_numpy() for name in ("qw", "qx", "qy", "qz")], -1)
    position = np.stack([table[name].to_numpy() for name in "xyz"], -1)
    rotation = rotation_from_quaternion(quaternion)
    scale = table["scale"].to_numpy()
    return tuple(Sim3(float(s), r, t) for s, r, t in zip(scale, rotation, position, strict=True))


def _joint_errors_of(table: pa.Table) -> JointErrors | None:
    """Covariances of the steps between chunks, NaN where unknown; None if the result is older than these columns."""
    if not set(_COLUMNS) <= set(table.column_names):
        return None
    unknown = [np.nan] * 49

    def matrices(name: str) -> Array:
        rows = [unknown if one is None else one for one in table[name].to_pylist()[1:]]
        return np.array(rows, np.float64).reshape(-1, 7, 7)

    return JointErrors(*(matrices(name) for name in _COLUMNS))


def damaged_covariance(joined: JoinResult) -> tuple[int, str, str] | None:
    """The first covariance of a step that the solution could not use: chunk, column, and what is wrong with it. A
    covariance must be symmetric and positive definite, also together with that of the step before. None if all are
    good; unknown ones (NaN) are."""
    if joined.joint_errors is None or not len(joined.edges):
        return None
    own = joined.joint_errors.covariance
    size = np.sqrt(np.abs(np.diagonal(own, axis1=1, axis2=2)))
    crooked = np.abs(own - own.transpose(0, 2, 1)) > _CROOKED * size[:, :, None] * size[:, None, :]
    crooked_ones, negative_ones = np.flatnonzero(crooked.any((1, 2))), np.flatnonzero(~_positive(own))
    for why, bad in (("is not symmetric", crooked_ones), ("is not positive definite", negative_ones)):
        if len(bad):
            return int(bad[0]) + 1, _COLUMNS[0], why
    state = own_state(joined)
    # Without additional deviations, as in the tightest solution.
    used = covariances_of(joined, state.scale, state.rotation, state.translation, BackendConfig(), 0.0)
    contrary = np.flatnonzero(~_positive(used.left))
    if len(contrary):
        return int(contrary[0]), _COLUMNS[1], "and step_covariance are not positive definite together"
    return None


def _positive(matrix: Array) -> NDArray[np.bool_]:
    """Which symmetric matrices (n, 7, 7) are positive definite, whatever the units of their variables. Unknown ones are
    taken to be; a variance of zero is that of a variable that was held."""
    matrix = np.where(np.isfinite(matrix).all((1, 2), keepdims=True), matrix, np.eye(7))
    variance = np.diagonal(matrix, axis1=1, axis2=2)
    matrix = matrix + np.where(variance == 0, 1.0, 0.0)[:, None, :] * np.eye(7)
    size = np.sqrt(np.maximum(np.diagonal(matrix, axis1=1, axis2=2), np.finfo(np.float64).tiny))
    least = np.linalg.eigvalsh(matrix / size[:, :, None] / size[:, None, :])[:, 0]
    return np.asarray((variance >= 0).all(1) & (least > _SINGULAR))


def _edges_of(table: pa.Table, state: tuple[Sim3, ...]) -> tuple[Edge, ...]:
    noise = table["noise"].fill_null(1.0).to_numpy() if table.num_rows else np.zeros(0)
    edges = []
    for n in range(len(state) - 1):
        factor = min(max(float(noise[n + 1]), 1.0), _NOISIEST) if np.isfinite(noise[n + 1]) else 1.0
        way = max(float(np.linalg.norm(state[n + 1].translation - state[n].translation)), 1e-9)
        deviation = factor * np.array([_SCALE] + [_TURN] * 3 + [_PLACE * way] * 3)
        covariance = np.diag(deviation**2)
        edges.append(Edge(n, n + 1, 0, 0, 0.0, 0.0, 0.0, 1.0, 0.0, (factor,) * 3, 1 / factor**2, covariance, False))
    return tuple(edges)


def _loops_of(table: pa.Table, spans: tuple[tuple[int, int], ...]) -> tuple[Loop, ...]:
    middle = np.array([(first + last) / 2 for first, last in spans])
    loops = []
    for one in table.to_pylist():
        windows = (range(one["first_start"], one["first_stop"]), range(one["second_start"], one["second_stop"]))
        frames = [(window.start + window.stop) // 2 for window in windows]
        homes = [int(np.argmin(np.abs(middle - frame))) for frame in frames]
        loops.append(
            Loop(
                (frames[0], frames[1]),
                *windows,
                (homes[0], homes[1]),
                one["similarity"],
                bool(one["accepted"]),
                one["residual"],
                None,
                one["reason"] or "",
            )
        )
    return tuple(loops)


def _fixes_of(opened: PublishedDrive, time_s: Array, place_m: Array) -> Fixes | None:
    """The fixes within the time of the frames that the drive's trajectory agrees with; its world is metres east, north,
    up. time_s (N,), place_m (N, 3): of its cameras. Raises DriveError where it agrees with few of those that it says to
    have used: they would put other drives into a wrong place too."""
    table, place, origin = opened.positions, opened.manifest.georeference, opened.origin
    if table is None or place is None or origin is None:
        return None
    table = table.filter(table["used"])
    if not table.num_rows:
        return None

    def column(name: str) -> Array:
        return np.asarray(table[name].fill_null(np.nan).to_numpy(), np.float64)

    offset = number_or(place.get("clock_offset_s"), 0.0)
    at_s, latitude, longitude = column("time_s") - offset, column("latitude"), column("longitude")
    altitude, accuracy = column("altitude"), column("accuracy")
    high = np.where(np.isfinite(altitude), altitude, origin[2])
    camera = np.stack([np.interp(at_s, time_s, place_m[:, axis]) for axis in range(3)], -1)
    away = enu_from_geodetic(latitude, longitude, high, origin) - camera
    allowed = _AWAY_M + _ACCURACIES * np.where(np.isfinite(accuracy), np.maximum(accuracy, 0.0), 0.0)
    near = np.linalg.norm(away[:, :2], axis=1) <= allowed
    near &= ~np.isfinite(altitude) | (np.abs(away[:, 2]) <= _UP * allowed)
    inside = (at_s >= time_s[0]) & (at_s <= time_s[-1])
    if 2 * (near & inside).sum() < inside.sum():
        raise DriveError(
            f"drive {opened.manifest.drive_id}: positions.parquet: {int((inside & ~near).sum())} of "
            f"{int(inside.sum())} positions are far from its trajectory; reconstruct it again (--overwrite)"
        )
    use = near & inside
    return Fixes(at_s[use], latitude[use], longitude[use], altitude[use], accuracy[use]) if use.any() else None
