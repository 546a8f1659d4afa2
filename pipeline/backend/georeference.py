"""A joined drive in the world: in metres, and at a place on Earth, by what is known besides the pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend.config import BackendConfig
from pipeline.backend.frame_track import FrameTrack, placed_at
from pipeline.backend.normal_equations import height_residuals
from pipeline.backend.outline import Outline, result_frames, usable_track
from pipeline.backend.pose_graph import Solution
from pipeline.backend.position_alignment import align_to_fixes, inside_drive
from pipeline.backend.position_fusion import VERTICAL, PositionFusion, moved
from pipeline.backend.receiver_noise import gate_of
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Array, Sim3
from pipeline.backend.speed_factors import WHEEL
from pipeline.backend.speed_scale import scale_of_speed
from pipeline.common.fixes import Fixes, Speed
from pipeline.common.geodesy import ecef_from_geodetic, enu_from_geodetic, geodetic_from_enu

_LEAST_UPRIGHT = 0.3  # of a camera that looks up or down by less than 70 degrees in the mean
_UNKNOWN_M = 3.0  # deviation of a fix whose receiver claims none
_LEAST_ACCURACY_M = 0.01
_THIN_S = 0.5  # fixes that follow each other faster say the same
_MISFIT = 0.1  # spread of the fixes about the trajectory, over their extent, beyond which they are of another shape
_ROAD = 0.02  # deviation of a known height: load, tyres, a road that is not flat below and ahead
_FEWEST_USED = 0.4  # share of the fixes within the drive that must agree with it


@dataclass(frozen=True, eq=False)
class Georeference:
    """Where on Earth a drive is. N frames, M fixes in the order they were given.

    origin: latitude, longitude (degrees), altitude (metres above the WGS 84 ellipsoid) of the frame; enu_from_camera
    (N, 4, 4): metres east, north and up at the origin; clock_offset_s: receiver minus drive, and its deviation; used
    (M,) bool; residual_m (M, 3): fix minus antenna, east, north, up, NaN where no drive was on; position_deviation_m
    (N, 3): of the cameras' places, east, north, up; lever_m (3,): the antenna in the camera's frame, and whether it was
    estimated; white_m, wander_m (3,): the receiver's quick and slow error as found; speed_factor: ways by the car's
    speed over those of the result, NaN where the speed had no say.
    """

    origin: tuple[float, float, float]
    enu_from_camera: Array
    clock_offset_s: float
    clock_offset_deviation_s: float
    used: NDArray[np.bool_]
    residual_m: Array
    position_deviation_m: Array
    lever_m: Array
    lever_estimated: bool
    white_m: Array
    wander_m: Array
    speed_factor: float

    def geodetic(self) -> tuple[Array, Array, Array]:
        """Latitude, longitude (degrees) and altitude above the ellipsoid (metres) of each camera, (N,) each."""
        return geodetic_from_enu(self.enu_from_camera[:, :3, 3], self.origin)


@dataclass(frozen=True)
class Metric:
    """What made the world's unit a metre. source: fixes, speed or height; deviation: of the scale, as a share;
    offset_s: of the source's clock, receiver minus drive."""

    source: str
    deviation: float
    offset_s: float


@dataclass(frozen=True, eq=False)
class WorldEvidence:
    """What tells where a drive is and how large, besides its pictures. All of it may be missing.

    frame_time_s (N,): seconds on the drive's clock, of each frame of the result or of each of the drive by number;
    fixes: positions of the antenna; speed: the car's; camera_height_m: above the road; clock_window_s: largest offset
    of the receiver's clock that is looked for, 0 holds it at 0; lever (3,): the antenna's place in the camera's frame,
    metres, None estimates it where the fixes tell it and else takes it to be at the camera. Raises ValueError: fixes or
    speed without times, a negative window, a lever that is not three numbers.
    """

    frame_time_s: ArrayLike | None = None
    fixes: Fixes | None = None
    speed: Speed | None = None
    camera_height_m: float | None = None
    clock_window_s: float = 5.0
    lever: ArrayLike | None = None

    def __post_init__(self) -> None:
        if (self.fixes is not None or self.speed is not None) and self.frame_time_s is None:
            raise ValueError("fixes and speed need frame_time_s, the time of each frame on the drive's clock")
        if self.clock_window_s < 0:
            raise ValueError(f"the clock window must not be negative, got {self.clock_window_s}")
        if self.antenna.shape != (3,) or not np.isfinite(self.antenna).all():
            raise ValueError(f"the lever must be three finite numbers (x, y, z in metres), got {self.antenna}")

    @property
    def antenna(self) -> Array:
        """The lever as an array, zeros where it is not known."""
        return np.zeros(3) if self.lever is None else np.asarray(self.lever, np.float64)


@dataclass(frozen=True, eq=False)
class InWorld:
    """A solution after `place_in_world`. relative_because: why evidence was not used, empty where it was or there was
    none."""

    solution: Solution
    georeference: Georeference | None = None
    metric: Metric | None = None
    relative_because: str = ""


def place_in_world(
    solution: Solution, outlines: Sequence[Outline], heights: Heights, evidence: WorldEvidence, config: BackendConfig
) -> InWorld:
    """The solution at its place on Earth by fixes, beside which the car's speed has a say; else in metres by the speed
    alone, else by the camera's height; else as it is. The georeference has no poses yet. Raises ValueError for times of
    another length than the drive's."""
    world, reasons = InWorld(solution), list[str]()
    tries: tuple[Callable[[], InWorld | str | None], ...] = (
        lambda: _by_fixes(solution, outlines, evidence, config),
        lambda: _by_speed(solution, outlines, evidence),
        lambda: _by_height(solution, heights, evidence.camera_height_m),
    )
    for attempt in tries:
        found = attempt()
        if isinstance(found, str):
            reasons.append(found)
        elif found is not None:
            world = found
            break
    return replace(world, relative_because="; ".join(reasons))


def _by_speed(solution: Solution, outlines: Sequence[Outline], evidence: WorldEvidence) -> InWorld | str | None:
    """In metres by the car's speed; a sentence where it cannot be done, None where there is none."""
    if evidence.speed is None:
        return None
    timed = _timed_track(solution, outlines, evidence)
    if isinstance(timed, str):
        return timed
    _, track = timed
    found = scale_of_speed(track.time_s, track.poses(solution.state)[1], evidence.speed, evidence.clock_window_s)
    if isinstance(found, str):
        return found
    return _scaled(solution, found.scale, Metric("speed", found.deviation, found.offset_s))


def _by_height(solution: Solution, heights: Heights, height_m: float | None) -> InWorld | str | None:
    """In metres by the camera's height above the road; a sentence where no road is seen, None where it is not known."""
    if height_m is None:
        return None
    if not len(heights):
        return "no road is seen below the camera, by which its height would tell the scale"
    logs = height_residuals(solution.state, heights) + solution.state.log_height
    centre = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - centre))) / np.sqrt(len(logs))
    return _scaled(solution, height_m / float(np.exp(centre)), Metric("height", float(np.hypot(spread, _ROAD)), 0.0))


def _scaled(solution: Solution, scale: float, metric: Metric) -> InWorld:
    state = moved(solution.state, Sim3(scale, np.eye(3), np.zeros(3)))
    return InWorld(replace(solution, state=state), metric=metric)


def _timed_track(
    solution: Solution, outlines: Sequence[Outline], evidence: WorldEvidence
) -> tuple[Array, FrameTrack] | str:
    """(N,) times of the result's frames, and the track of the good ones; a sentence where the times do not do."""
    time_s = _times_of(result_frames(outlines), np.asarray(evidence.frame_time_s, np.float64))
    return time_s if isinstance(time_s, str) else (time_s, usable_track(outlines, solution.prior.span, time_s))


def _by_fixes(
    solution: Solution, outlines: Sequence[Outline], evidence: WorldEvidence, config: BackendConfig
) -> InWorld | str | None:
    """Bend a solution to its fixes, in metres at a place; a sentence where they cannot be used, None without any."""
    if evidence.fixes is None:
        return None
    fixes, clock_window_s = evidence.fixes, evidence.clock_window_s
    timed = _timed_track(solution, outlines, evidence)
    if isinstance(timed, str):
        return timed
    time_s, track = timed
    picked = _pick(fixes, track, clock_window_s)
    if isinstance(picked, str):
        return picked
    candidates, thinned, origin = picked
    enu = enu_from_geodetic(
        fixes.latitude, fixes.longitude, np.where(np.isnan(fixes.altitude), origin[2], fixes.altitude), origin
    )
    enu[np.isnan(fixes.altitude), 2] = np.nan
    accuracy, vertical = _claimed(fixes)
    assert fixes.accuracy is not None
    rotation, position = track.poses(solution.state)
    level = np.where(np.isnan(enu), 0.0, enu)
    start = align_to_fixes(
        track.time_s,
        position,
        -rotation[:, :, 1].mean(0),
        fixes.time_s[thinned],
        level[thinned],
        accuracy[thinned],
        clock_window_s,
        scale=config.scale,
    )
    if isinstance(start, str):
        return start
    fusion = PositionFusion(
        solution,
        track,
        fixes.time_s[thinned],
        enu[thinned],
        accuracy[thinned],
        vertical[thinned],
        config,
        window_s=clock_window_s,
        lever=None if evidence.lever is None else evidence.antenna,
        claims=bool(np.isfinite(fixes.accuracy[thinned]).any()),
        speed=evidence.speed,
    )
    fused = fusion.run(start.enu_from_world, start.offset_s)
    residual = np.full((len(fixes), 3), np.nan)
    moments = fixes.time_s[candidates] - fused.offset_s
    residual[candidates] = enu[candidates] - placed_at(fused.solution.state, track, moments, fused.lever).place
    inside = np.zeros(len(fixes), bool)
    inside[candidates] = track.between(moments)[2]
    residual[~inside] = np.nan
    flat = np.where(np.isnan(residual), 0.0, residual)
    used = np.zeros(len(fixes), bool)
    claimed = np.stack([accuracy, accuracy, vertical], 1)
    used[inside] = gate_of(flat[inside], claimed[inside], np.ones(int(inside.sum()), bool)) > 0.25
    upright = float(-track.poses(fused.solution.state)[0][:, 2, 1].mean())
    refused = _refused(used, inside, flat, enu, accuracy) or _upside_down(upright)
    if refused:
        return refused
    deviation = np.stack([np.interp(time_s, track.time_s, fused.deviation[:, c]) for c in range(3)], 1)
    georeference = Georeference(
        origin,
        np.zeros((0, 4, 4)),
        fused.offset_s,
        fused.offset_deviation_s,
        used,
        residual,
        deviation,
        fused.lever,
        fused.lever_estimated,
        fused.white,
        fused.wander,
        fused.speed_factor,
    )
    deviation_of_scale = _scale_deviation(enu[used], fused.wander)
    if np.isfinite(fused.speed_factor):
        deviation_of_scale = float(1 / np.hypot(1 / deviation_of_scale, 1 / WHEEL))
    metric = Metric("fixes", deviation_of_scale, fused.offset_s)
    return InWorld(fused.solution, georeference, metric)


def _scale_deviation(enu: Array, wander: Array) -> float:
    """Of the scale that fixes (m, 3) give, as a share: their slow error at both ends of their extent."""
    extent = float(np.linalg.norm(np.ptp(enu[:, :2], axis=0)))
    return float(np.sqrt(2) * np.hypot(wander[0], wander[1]) / max(extent, 1e-9))


def _times_of(frames: NDArray[np.int64], given: Array) -> Array | str:
    """(N,) times of the result's frames; a sentence where they cannot be those of a drive."""
    if given.ndim != 1 or (len(given) != len(frames) and len(given) <= frames[-1]):
        raise ValueError(f"expected frame_time_s of {len(frames)} frames, got shape {given.shape}")
    time_s = given if len(given) == len(frames) else given[frames]
    if not np.isfinite(time_s).all():
        return f"frame {frames[~np.isfinite(time_s)][0]} has no time: positions need the time of every frame"
    if len(time_s) < 2:
        return "a drive of one frame has no way that positions could be compared with"
    back = np.diff(time_s) <= 0
    if back.any():
        return f"the times of frames {frames[:-1][back][0]} and {frames[1:][back][0]} do not rise"
    return np.asarray(time_s)


def _claimed(fixes: Fixes) -> tuple[Array, Array]:
    """(M,) horizontal and vertical deviations, metres, unknown ones as the others of the drive or 3 m."""
    assert fixes.accuracy is not None and fixes.vertical_accuracy is not None
    known = np.isfinite(fixes.accuracy)
    usual = float(np.median(fixes.accuracy[known])) if known.any() else _UNKNOWN_M
    accuracy = np.maximum(np.where(known, fixes.accuracy, usual), _LEAST_ACCURACY_M)
    vertical = np.where(np.isfinite(fixes.vertical_accuracy), fixes.vertical_accuracy, VERTICAL * accuracy)
    return accuracy, np.maximum(vertical, _LEAST_ACCURACY_M)


def _pick(
    fixes: Fixes, track: FrameTrack, window_s: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[float, float, float]] | str:
    """Fixes that can count (numbers, in order of time), a thinned choice of them, and the origin."""
    usable = fixes.usable
    if not usable.any():
        return f"none of {len(fixes)} fixes is a position on Earth (NaN, beyond the poles, or at 0, 0)"
    near = usable & inside_drive(fixes.time_s, track.time_s, window_s)
    if not near.any():
        seen = fixes.time_s[usable]
        return (
            f"the fixes' times ({seen.min():.3f} to {seen.max():.3f} s) do not meet the drive's "
            f"({track.time_s[0]:.3f} to {track.time_s[-1]:.3f} s) within {window_s:g} s: a file of another time?"
        )
    order = np.argsort(fixes.time_s, kind="stable")
    order = order[near[order]]
    # A fix that repeats the last to the last digit is a frozen receiver's, or says nothing new of a standing car.
    where = np.stack([fixes.latitude[order], fixes.longitude[order]], 1)
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(where, axis=0) != 0).any(1) & (np.diff(fixes.time_s[order]) > 0)
    order = order[fresh]
    if len(order) < 2:
        return f"of {len(fixes)} fixes only {len(order)} differs from the others: no heading and no scale from it"
    bins = np.floor((fixes.time_s[order] - fixes.time_s[order[0]]) / _THIN_S + 1e-9)
    thinned = order[np.diff(bins, prepend=-1) > 0]
    earth = ecef_from_geodetic(fixes.latitude[order], fixes.longitude[order], np.zeros(len(order)))
    middle = order[int(np.argmin(np.linalg.norm(earth - np.median(earth, axis=0), axis=1)))]
    heights = fixes.altitude[order][np.isfinite(fixes.altitude[order])]
    height = float(np.median(heights)) if len(heights) else 0.0
    return order, thinned, (float(fixes.latitude[middle]), float(fixes.longitude[middle]), height)


def _upside_down(upright: float) -> str:
    """Why fixes are not believed that turn the car over; empty where it stands. upright: mean of the cameras' up along
    the sky, 1 where they are level. A mirrored path on flat ground fits as well as a true one, but for this."""
    if upright > _LEAST_UPRIGHT:
        return ""
    return "the fixes fit only with the car upside down: a lost sign of latitude or longitude?"


def _refused(used: NDArray[np.bool_], inside: NDArray[np.bool_], residual: Array, enu: Array, accuracy: Array) -> str:
    """Why fixes that were fused are not believed after all; empty where they are."""
    count = int(inside.sum())
    if count < 2 or used.sum() < max(2, _FEWEST_USED * count):
        return f"only {int(used.sum())} of {count} fixes agree with the images"
    place = enu[used, :2]
    extent = float(np.quantile(np.linalg.norm(place - np.median(place, axis=0), axis=1), 0.9))
    off = float(np.median(np.linalg.norm(residual[inside, :2], axis=1)))
    if off > max(_MISFIT * extent, 0.0) and off > 5 * float(np.median(accuracy[inside])):
        return (
            f"the fixes have another shape than the drive: they are {off:.3g} m from it over an extent of "
            f"{extent:.3g} m (latitude and longitude swapped, a lost sign, another drive's file?)"
        )
    return ""
