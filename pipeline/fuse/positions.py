"""Positions from receivers: aligns a component with the Earth, and gives fixes as rows of the city's equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend.join import JoinResult
from pipeline.backend.position_alignment import align_to_fixes
from pipeline.backend.receiver_noise import VERTICAL, gate_of
from pipeline.backend.sim3 import Sim3, cross_matrix
from pipeline.common.fixes import Fixes
from pipeline.common.geodesy import ecef_from_geodetic, enu_from_geodetic
from pipeline.fuse.city_equations import Rows, frame_jacobian
from pipeline.fuse.drive_nodes import Array, Frames, Numbers, State, frames_of

_UNKNOWN_M = 3.0  # metres: deviation of fixes whose receiver reports none
_LEAST_M = 0.01  # metres: least deviation that is believed
_THIN_S = 0.5  # seconds: at most one fix in each interval is used
# Information in 1/m^2 of heights without altitudes: their residual is zero, so that a step does not move a city whose
# height nothing determines.
_UNDETERMINED = 1e-6
_COMMON_S = 120.0  # seconds: fixes within this time have most of their error in common, and count as one
_ROLL = np.radians(2.0)  # deviation of a camera's mount from level, about its optical axis
_USED = 0.25  # a fix with a smaller weight is an outlier
_FEWEST_USED = 0.4  # share of a component's fixes that must not be outliers

Origin = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Positions:
    """m fixes of all drives. origin: latitude, longitude (degrees), altitude (metres); drive (m,); frames: the cameras
    at the times of the fixes; enu (m, 3): metres east, north, up from `origin`; flat (m,): the fix has no altitude, and
    up is 0; claimed (m, 3): deviations in metres that the receiver reports; shared (m,): number of fixes that together
    count as one."""

    origin: Origin
    drive: Numbers
    frames: Frames
    enu: Array
    flat: NDArray[np.bool_]
    claimed: Array
    shared: Array

    def of(self, which: NDArray[np.bool_]) -> Positions:
        """Only the fixes that are True in `which` (m,)."""
        return replace(
            self,
            drive=self.drive[which],
            frames=self.frames[np.nonzero(which)[0]],
            enu=self.enu[which],
            flat=self.flat[which],
            claimed=self.claimed[which],
            shared=self.shared[which],
        )


def read_positions(
    drives: Sequence[JoinResult],
    offset: Numbers,
    fixes: Mapping[int, Fixes],
    frame_time_s: Mapping[int, ArrayLike],
    origin: Origin | None,
) -> Positions | None:
    """The usable fixes within the time of their drive's frames, thinned; None if there are none.

    Args:
        drives: as they were joined.
        offset: number of each drive's first chunk.
        fixes: by number of the drive, on the clock of frame_time_s.
        frame_time_s: by number of the drive, (N,) rising times of its frames in seconds.
        origin: of the frame on Earth; None: the fix nearest to the median of all, with their median altitude.

    Raises:
        ValueError: fixes of a drive that does not exist, or without rising times of all its frames.
    """
    parts: list[tuple[int, Array, Fixes, NDArray[np.int64]]] = []
    for number, one in sorted(fixes.items()):
        if not 0 <= number < len(drives):
            raise ValueError(f"fixes are given for drive {number}, but there are {len(drives)} drives")
        time_s = np.asarray(frame_time_s.get(number, ()), np.float64)
        if time_s.shape != (len(drives[number].frame_index),) or not (np.diff(time_s) > 0).all():
            raise ValueError(f"drive {number}: fixes need rising frame_time_s of its frames, got shape {time_s.shape}")
        inside = one.usable & (one.time_s >= time_s[0]) & (one.time_s <= time_s[-1])
        order = np.argsort(one.time_s, kind="stable")
        order = order[inside[order]]
        if len(order) and len(time_s) > 1:
            bins = np.floor((one.time_s[order] - one.time_s[order[0]]) / _THIN_S + 1e-9)
            order = order[np.diff(bins, prepend=-1) > 0]
            parts.append((number, np.interp(one.time_s[order], time_s, np.arange(len(time_s))), one, order))
    if not parts:
        return None
    origin = origin or _midst([(one, order) for _, _, one, order in parts])
    frames = [frames_of(drives[n], int(offset[n]), place) for n, place, _, _ in parts]
    names = ("node", "share", "own_rotation", "own_position", "log_unit")
    altitude = [one.altitude[order] for _, _, one, order in parts]
    enu = [
        enu_from_geodetic(one.latitude[order], one.longitude[order], np.where(np.isnan(high), origin[2], high), origin)
        for (_, _, one, order), high in zip(parts, altitude, strict=True)
    ]
    flat = np.isnan(np.concatenate(altitude))
    every = np.concatenate(enu)
    every[flat, 2] = 0.0
    return Positions(
        origin,
        np.concatenate([np.full(len(order), n, np.int64) for n, _, _, order in parts]),
        Frames(*(np.concatenate([getattr(part, name) for part in frames]) for name in names)),
        every,
        flat,
        np.concatenate([_claimed(one)[order] for _, _, one, order in parts]),
        np.concatenate([np.full(len(order), _worth_one(one.time_s[order])) for _, _, one, order in parts]),
    )


def _midst(parts: Sequence[tuple[Fixes, NDArray[np.int64]]]) -> Origin:
    latitude, longitude, altitude = (
        np.concatenate([getattr(one, name)[order] for one, order in parts])
        for name in ("latitude", "longitude", "altitude")
    )
    earth = ecef_from_geodetic(latitude, longitude, np.zeros(len(latitude)))
    middle = int(np.argmin(np.linalg.norm(earth - np.median(earth, axis=0), axis=1)))
    known = altitude[np.isfinite(altitude)]
    return float(latitude[middle]), float(longitude[middle]), float(np.median(known)) if len(known) else 0.0


def _claimed(fixes: Fixes) -> Array:
    """Deviations (M, 3) in metres of a drive's fixes. Where unknown, the median of the drive's known ones, or 3 m."""
    assert fixes.accuracy is not None and fixes.vertical_accuracy is not None
    known = np.isfinite(fixes.accuracy)
    usual = float(np.median(fixes.accuracy[known])) if known.any() else _UNKNOWN_M
    flat = np.where(known, fixes.accuracy, usual)
    upwards = np.where(np.isfinite(fixes.vertical_accuracy), fixes.vertical_accuracy, VERTICAL * flat)
    return np.maximum(np.stack([flat, flat, upwards], 1), _LEAST_M)


def _worth_one(time_s: Array) -> float:
    gap = float(np.median(np.diff(time_s))) if len(time_s) > 1 else _COMMON_S
    return max(1.0, min(_COMMON_S / max(gap, 1e-3), float(len(time_s))))


def enu_from_component(state: State, positions: Positions) -> Sim3 | str:
    """The transform from a component's frame to metres east, north, up; a reason, in words, if the fixes do not
    determine it. state: of the component's chunks, to which all of `positions` belong."""
    rotation, place, _ = positions.frames.place(state)
    number = np.arange(len(place), dtype=np.float64)  # each fix has its own camera: they need no common time
    up = -rotation[:, :, 1].mean(0)
    if len(place) < 2:
        return "one fix alone determines neither heading nor scale"
    found = align_to_fixes(number, place, up, number, positions.enu, positions.claimed[:, 0], 0.0)
    return found if isinstance(found, str) else found.enu_from_world


def position_rows(state: State, positions: Positions) -> Rows:
    """Rows whose residuals 3 to 5 are camera minus fix in metres; the others are zero. Information: from the reported
    deviations, with robust weights (Geman-McClure)."""
    residual = np.zeros((len(positions.enu), 7))
    residual[:, 3:6] = residual_m(state, positions)
    weight = weights(state, positions) / positions.shared
    information = np.zeros((len(residual), 7, 7))
    for axis in range(3):
        information[:, 3 + axis, 3 + axis] = weight / positions.claimed[:, axis] ** 2
    information[positions.flat, 5, 5] = _UNDETERMINED
    return Rows(residual, frame_jacobian(state, positions.frames), positions.frames.node, information)


def residual_m(state: State, positions: Positions) -> Array:
    """Camera minus fix (m, 3) in metres; up is zero where a fix has no altitude."""
    away = positions.frames.place(state)[1] - positions.enu
    away[positions.flat, 2] = 0.0
    return np.asarray(away)


def weights(state: State, positions: Positions) -> Array:
    """Geman-McClure weights (m,), computed for each drive alone, because each drive has its own receiver."""
    residual, answer = residual_m(state, positions), np.zeros(len(positions.enu))
    for number in np.unique(positions.drive):
        mine = positions.drive == number
        answer[mine] = gate_of(residual[mine], positions.claimed[mine], np.ones(int(mine.sum()), bool))
    return answer


def agrees(state: State, positions: Positions) -> bool:
    """Whether at least 40 % of a component's fixes are not outliers."""
    return float((weights(state, positions) > _USED).mean()) >= _FEWEST_USED


def level_rows(state: State) -> Rows:
    """One row for each chunk, residual 0: the x axes of the reference cameras are horizontal on average. This
    determines the roll of a component on a straight road."""
    count = len(state.scale)
    across = state.rotation[:, :, 0]
    residual = np.zeros((count, 7))
    residual[:, 0] = across[:, 2]
    jacobian = np.zeros((count, 7, 7))
    jacobian[:, 0, :3] = -cross_matrix(across)[:, 2]  # d(up . x) = up . (rotation cross x)
    information = np.zeros((count, 7, 7))
    information[:, 0, 0] = 1 / (_ROLL**2 * count)
    return Rows(residual, jacobian, np.arange(count, dtype=np.int64)[:, None], information)
