"""Places a joined drive on Earth by its fixes: alignment, fusion in the pose graph, and a check of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.chosen_fixes import ChosenFixes, choose_fixes
from pipeline.backend.config import BackendConfig
from pipeline.backend.frame_track import FrameTrack, placed_at
from pipeline.backend.georeference import Georeference, InWorld, Metric, WorldEvidence
from pipeline.backend.normal_equations import State, height_residuals
from pipeline.backend.outline import Outline, result_frames, usable_track
from pipeline.backend.pose_graph import Solution
from pipeline.backend.position_alignment import Alignment, align_to_fixes
from pipeline.backend.position_fusion import BEYOND_S, Fused, PositionFusion
from pipeline.backend.receiver_noise import gate_of, wrong_upwards
from pipeline.backend.road import Heights
from pipeline.backend.sim3 import Array
from pipeline.backend.speed_factors import WHEEL
from pipeline.common.fix_faults import UnusableFixesError, looks_base_60, refuse_base_60
from pipeline.common.fixes import Fixes

_LEAST_UPRIGHT = 0.3  # least mean of the up direction's upward part: cameras look up or down by less than 70 degrees
_MISFIT = 0.1  # spread of the fixes about the trajectory over their extent; above it, their path has another shape
_FEWEST_USED = 0.4  # share of the fixes within the drive that must agree with it
_NOTED_SHARE = 0.05  # if a larger share of the fixes contradicts the images, the user is told
_WIDER_S = 30.0  # clock offset that is tried to explain fixes that do not fit: GPS time is 18 s ahead of UTC
_FEWEST_FOR_CLOCK = 6  # fixes; with fewer, a search for the clock offset finds a chance value
_BORDER = 0.95  # if the offset is beyond this share of the clock window, a larger one may be the true one
_LEAST_COVER = 0.5  # if a smaller share of the drive lies between its first and last fix, the user is told
_FEET = 3.5  # vertical over horizontal quick error: 4 to 7 if feet are read as metres, 1 to 3 for receivers
_LEAST_SCATTER_M = 0.25  # horizontal scatter from which on this ratio is meaningful
_LEAST_SHARE = 0.3  # share of the fixes that must lie in the drive with a wider offset
_MILLIMETRES = 100.0  # no receiver states such deviations in metres
_HEIGHT_OFF = 0.2  # relative difference allowed between the measured and the known height of the camera
_LOW_M = 1.05  # few cameras of cars are lower above the road


def place_by_fixes(
    solution: Solution, outlines: Sequence[Outline], heights: Heights, evidence: WorldEvidence, config: BackendConfig
) -> InWorld | str | None:
    """The solution, fitted to its fixes and in metres; a sentence with the reason where they cannot be used, None
    without fixes."""
    if evidence.fixes is None:
        return None
    timed = timed_track(solution, outlines, evidence)
    if isinstance(timed, str):
        return timed
    time_s, track = timed
    chosen = choose_fixes(evidence.fixes, evidence.speed, track, evidence.clock_window_s)
    if isinstance(chosen, str):
        return chosen
    start = _aligned(solution, track, chosen, evidence.clock_window_s, config)
    if isinstance(start, str):
        return _with_notes(start, chosen)
    fused = _fuse(solution, track, chosen, evidence, config).run(start.enu_from_world, start.offset_s)
    checked = _compare(fused, track, chosen)
    refused = _refused(checked, chosen) or _upside_down(fused, track)
    at_border = evidence.clock_window_s > 0 and abs(fused.offset_s) > _BORDER * evidence.clock_window_s
    wider = _fits_with_offset(solution, track, evidence, config) if refused or at_border else ""
    refused = refused or _late(
        fused, evidence, wider, outside=at_border and _cover(checked, track, chosen) < _LEAST_COVER
    )
    if refused:
        return _with_notes(refused, chosen) + wider
    try:
        notes = _said_of_height(evidence, fused.solution.state, heights)
    except UnusableFixesError as error:
        return str(error)
    deviation = np.stack([np.interp(time_s, track.time_s, fused.deviation[:, c]) for c in range(3)], 1)
    georeference = Georeference(
        chosen.origin,
        np.zeros((0, 4, 4)),
        fused.offset_s,
        fused.offset_deviation_s,
        checked.used,
        checked.residual,
        deviation,
        fused.lever,
        fused.lever_estimated,
        fused.white,
        fused.wander,
        fused.speed_factor,
        (*chosen.notes, *notes, *_said_of_fit(checked, fused, track, chosen)),
    )
    deviation_of_scale = _scale_deviation(chosen.enu[checked.used], fused.wander)
    if np.isfinite(fused.speed_factor):
        deviation_of_scale = float(1 / np.hypot(1 / deviation_of_scale, 1 / WHEEL))
    return InWorld(fused.solution, georeference, Metric("fixes", deviation_of_scale, fused.offset_s))


def timed_track(
    solution: Solution, outlines: Sequence[Outline], evidence: WorldEvidence
) -> tuple[Array, FrameTrack] | str:
    """(N,) times of the result's frames, and the track of the good ones; a sentence where the times cannot be used."""
    time_s = _times_of(result_frames(outlines), np.asarray(evidence.frame_time_s, np.float64))
    return time_s if isinstance(time_s, str) else (time_s, usable_track(outlines, solution.prior.span, time_s))


def height_above_road(state: State, heights: Heights) -> tuple[float, float]:
    """The camera's height above the road, world units, and its deviation as a share."""
    logs = height_residuals(state, heights) + state.log_height
    centre = float(np.median(logs))
    return float(np.exp(centre)), 1.4826 * float(np.median(np.abs(logs - centre))) / float(np.sqrt(len(logs)))


def _aligned(
    solution: Solution, track: FrameTrack, chosen: ChosenFixes, window_s: float, config: BackendConfig
) -> Alignment | str:
    rotation, position = track.poses(solution.state)
    fixes = chosen.thinned
    if len(fixes) < _FEWEST_FOR_CLOCK:
        window_s = 0.0  # they fit with any offset
    return align_to_fixes(
        track.time_s,
        position,
        -rotation[:, :, 1].mean(0),
        chosen.time_s[fixes],
        np.where(np.isnan(chosen.enu), 0.0, chosen.enu)[fixes],
        chosen.accuracy[fixes],
        window_s,
        scale=config.scale,
    )


def _fuse(
    solution: Solution, track: FrameTrack, chosen: ChosenFixes, evidence: WorldEvidence, config: BackendConfig
) -> PositionFusion:
    fixes = chosen.thinned
    return PositionFusion(
        solution,
        track,
        chosen.time_s[fixes],
        chosen.enu[fixes],
        chosen.accuracy[fixes],
        chosen.vertical[fixes],
        config,
        window_s=evidence.clock_window_s,
        lever=None if evidence.lever is None else evidence.antenna,
        claims=chosen.claims,
        scatter_s=chosen.scatter_s,
        speed=chosen.speed,
    )


@dataclass(frozen=True, eq=False)
class _Comparison:
    """M fixes compared with the drive. residual (M, 3): NaN outside the drive's time; inside, used, flat (M,): whether
    the fix lies in the drive's time, whether it agrees, and whether only its altitude disagrees."""

    residual: Array
    inside: NDArray[np.bool_]
    used: NDArray[np.bool_]
    flat: NDArray[np.bool_]


def _compare(fused: Fused, track: FrameTrack, chosen: ChosenFixes) -> _Comparison:
    count, candidates = len(chosen.time_s), chosen.candidates
    moments = chosen.time_s[candidates] - fused.offset_s
    there = track.between(moments)[2]
    inside = np.zeros(count, bool)
    inside[candidates] = there
    residual = np.full((count, 3), np.nan)
    residual[candidates] = chosen.enu[candidates] - placed_at(fused.solution.state, track, moments, fused.lever).place
    residual[~inside] = np.nan
    level = np.where(np.isnan(residual), 0.0, residual)[inside]
    claimed = np.stack([chosen.accuracy, chosen.accuracy, chosen.vertical], 1)[inside]
    every = np.ones(len(level), bool)
    flat, used = np.zeros(count, bool), np.zeros(count, bool)
    flat[inside] = wrong_upwards(level, claimed, every)
    residual[flat, 2] = np.nan
    level[flat[inside], 2] = 0.0
    used[inside] = gate_of(level, claimed, every) > 0.25
    return _Comparison(residual, inside, used, flat)


def _said_of_fit(checked: _Comparison, fused: Fused, track: FrameTrack, chosen: ChosenFixes) -> tuple[str, ...]:
    """Notes for the user on fixes that were used, a sentence each."""
    notes, count = list[str](), int(checked.inside.sum())
    cover, length_s = _cover(checked, track, chosen), float(np.ptp(track.time_s))
    if cover < _LEAST_COVER:
        notes.append(f"the fixes cover {cover * length_s:.0f} s of the drive's {length_s:.0f} s")
    sideways = max(float(fused.white[:2].mean()), _LEAST_SCATTER_M)
    if fused.white[2] > _FEET * sideways:
        notes.append(f"altitudes scatter {fused.white[2] / sideways:.1f} times as much as positions: feet, not metres?")
    if checked.flat.any():
        notes.append(f"the altitudes of {int(checked.flat.sum())} of {count} fixes contradict the images: not used")
    off = checked.inside & ~checked.used
    if off.sum() > _NOTED_SHARE * count:
        far = float(np.median(np.linalg.norm(checked.residual[off, :2], axis=1)))
        notes.append(f"{int(off.sum())} of {count} fixes contradict the images, by {far:.3g} m: not used")
    return tuple(notes)


def _said_of_height(evidence: WorldEvidence, state: State, heights: Heights) -> tuple[str, ...]:
    """Notes where the camera's height above the road, by the fixes, is not the known or a likely one. Raises
    UnusableFixesError where it shows that the fixes are not in degrees."""
    if not len(heights) or evidence.fixes is None:
        return ()
    seen = height_above_road(state, heights)[0]
    known = evidence.camera_height_m
    if known is not None:
        refuse_base_60(evidence.fixes, seen / known, "the camera's height above the road")
        if abs(seen / known - 1) > _HEIGHT_OFF:
            return (f"by the fixes the camera is {seen:.2f} m above the road, not {known:.2f} m as given",)
    elif seen < _LOW_M and _maybe_base_60(evidence.fixes):
        return (
            f"by the fixes the camera is {seen:.2f} m above the road, and no fraction of a degree reaches .60: if they "
            "are degrees and minutes with one point (49.3015 for 49 degrees 30.15 minutes), all lengths are 0.6 of "
            "the true ones",
        )
    return ()


def _maybe_base_60(fixes: Fixes) -> bool:
    return looks_base_60(fixes.latitude[fixes.placed], fixes.longitude[fixes.placed])


def _fits_with_offset(solution: Solution, track: FrameTrack, evidence: WorldEvidence, config: BackendConfig) -> str:
    """The text to add to a refusal where a larger clock offset would explain it; else empty."""
    window_s = evidence.clock_window_s
    if evidence.fixes is None or not 0 < window_s < _WIDER_S:
        return ""
    chosen = choose_fixes(evidence.fixes, None, track, _WIDER_S)
    if isinstance(chosen, str):
        return ""
    found = _aligned(solution, track, chosen, _WIDER_S, config)
    if isinstance(found, str) or abs(found.offset_s) <= window_s:
        return ""
    place = chosen.enu[chosen.thinned, :2][np.isfinite(found.residual)]
    noise = float(np.median(chosen.accuracy))
    # A path can be distinguished from others only if it turns and is no small part of the drive.
    bent = float(np.linalg.svd(place - place.mean(0), compute_uv=False)[1]) / np.sqrt(len(place)) > 5 * noise
    if not bent or len(place) < _LEAST_SHARE * len(chosen.thinned) or found.spread > 3 * noise:
        return ""
    leap = " (leap seconds?)" if abs(abs(found.offset_s) - 18) < 1.5 else ""
    return f"; with a clock offset of {found.offset_s:+.1f} s{leap} they fit: --positions.clock-window {_WIDER_S:g}"


def _scale_deviation(enu: Array, wander: Array) -> float:
    """Relative deviation of the scale that fixes (m, 3) determine: their slow error at both ends of their extent."""
    extent = float(np.linalg.norm(np.ptp(enu[:, :2], axis=0)))
    return float(np.sqrt(2) * np.hypot(wander[0], wander[1]) / max(extent, 1e-9))


def _times_of(frames: NDArray[np.int64], given: Array) -> Array | str:
    """(N,) times of the result's frames; a sentence where they are not valid times of a drive."""
    if given.ndim != 1 or (len(given) != len(frames) and len(given) <= frames[-1]):
        raise ValueError(f"expected frame_time_s of {len(frames)} frames, got shape {given.shape}")
    time_s = given if len(given) == len(frames) else given[frames]
    if not np.isfinite(time_s).all():
        return f"frame {frames[~np.isfinite(time_s)][0]} has no time: positions need the time of every frame"
    if len(time_s) < 2:
        return "a drive of one frame has no path that positions could be compared with"
    back = np.diff(time_s) <= 0
    if back.any():
        return f"the times of frames {frames[:-1][back][0]} and {frames[1:][back][0]} do not rise"
    return np.asarray(time_s)


def _with_notes(reason: str, chosen: ChosenFixes) -> str:
    """A reason, with the other mistakes in the fixes."""
    said = list(chosen.notes)
    if float(np.median(chosen.accuracy)) > _MILLIMETRES:
        said.append("accuracies in millimetres?")
    return f"{reason} ({'; '.join(said)})" if said else reason


def _cover(checked: _Comparison, track: FrameTrack, chosen: ChosenFixes) -> float:
    """Share of the drive's time between the first and the last used fix."""
    return float(np.ptp(chosen.time_s[checked.used]) / np.ptp(track.time_s)) if checked.used.any() else 0.0


def _late(fused: Fused, evidence: WorldEvidence, wider: str, *, outside: bool) -> str:
    """The reason to refuse fixes whose clock offset is beyond the window; empty if it is not. wider: a text, where a
    larger offset fits; outside: the offset leaves most of the drive without fixes."""
    window_s = evidence.clock_window_s
    if window_s <= 0 or (not wider and not outside and abs(fused.offset_s) < window_s + 0.8 * BEYOND_S):
        return ""
    return (
        f"the receiver's clock is off by {fused.offset_s:+.2f} s, which is the limit of the search of {window_s:g} s "
        "(--positions.clock-window)"
    )


def _upside_down(fused: Fused, track: FrameTrack) -> str:
    """The reason to refuse fixes with which the car is upside down; empty if it is upright. Only this distinguishes a
    mirrored path on flat ground from the true one."""
    upright = float(-track.poses(fused.solution.state)[0][:, 2, 1].mean())
    if upright > _LEAST_UPRIGHT:
        return ""
    return "the fixes fit only with the car upside down: latitude and longitude swapped, or a lost sign of one of them?"


def _refused(checked: _Comparison, chosen: ChosenFixes) -> str:
    """The reason to refuse fixes after the fusion; empty if they are accepted."""
    inside, used = checked.inside, checked.used
    count = int(inside.sum())
    if count < 2 or used.sum() < max(2, _FEWEST_USED * count):
        return f"only {int(used.sum())} of {count} fixes agree with the images"
    place = chosen.enu[used, :2]
    extent = float(np.quantile(np.linalg.norm(place - np.median(place, axis=0), axis=1), 0.9))
    off = float(np.median(np.linalg.norm(checked.residual[inside, :2], axis=1)))
    if off > _MISFIT * extent and off > 5 * float(np.median(chosen.accuracy[inside])):
        return (
            f"the fixes have another shape than the drive: they are {off:.3g} m from it over an extent of "
            f"{extent:.3g} m (latitude and longitude swapped, a lost sign, another drive's file?)"
        )
    return ""
