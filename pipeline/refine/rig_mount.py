"""How a rig's cameras are mounted on the car, estimated once a drive from a few windows.

Unknown rotations come from the motions of each camera alone (`rig_start.turn_between`); then windows are adjusted with
free rotations and places, and the results are averaged. Later every window is adjusted with this mount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.cameras.rig_time import moved_on
from pipeline.refine.adjustment import mount_covariance
from pipeline.refine.grid import Grid
from pipeline.refine.problem import inverse, local_of
from pipeline.refine.refinement import adjust_window
from pipeline.refine.rig_frames import Mount
from pipeline.refine.rig_start import mended_start, turn_between
from pipeline.refine.rig_window import RigView, adjust_rig, with_crossings
from pipeline.refine.rotation import exp, log
from pipeline.refine.tracks import Tracks
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_LEAST_TURN = 1e-3  # radians: deviation of a window's rotation that is added in quadrature
_UNITS = 0.15  # deviation of the log ratio of two windows' units; on rendered drives they differ by up to 30 %
_ROUNDS = 5  # of robust weighting
# Deviations of a place, as a share of the usual depth: a larger one is said; with the largest nothing is known.
_PLACED, _NOTHING = 0.02, 0.1
_SEARCHES = 3  # for points in other cameras' pictures, each with the places that the one before gave


@dataclass(frozen=True, eq=False)
class MountEvidence:
    """The mount by one window. turn (C, 3, 3); turn_sigma (C,): deviations in radians, infinite where it is not
    estimated; information (Q, Q): that the tracks have of the coefficients, without the prior; told (Q,): this matrix
    times the coefficients that the tracks alone give; depth: usual depth of the tracks' points, in the window's
    units."""

    turn: Array
    turn_sigma: Array
    told: Array
    information: Array
    depth: float


def poses_alone(window: Window, tracks: Tracks, camera: Array, grid: Grid, cameras: int) -> list[Array | None] | None:
    """The poses (I, 4, 4) of each camera of a window, adjusted to its own tracks alone; None for those without enough
    tracks, or where the window is not one of a rig."""
    cv2.setNumThreads(1)
    view = RigView.of(window, tracks, cameras)
    if view is None:
        return None
    found: list[Array | None] = []
    for number in range(cameras):
        try:
            mine, rows = view.of_camera(number), view.tracks_of(number, view.tracks)
            own = adjust_window(mine, rows, camera, grid, start=mended_start(mine, rows, camera))
            found.append(None if own is None else own.problem.cam_from_window)
        except (np.linalg.LinAlgError, cv2.error):
            found.append(None)
    return found


def with_turns(mount: Mount, found: Sequence[list[Array | None] | None]) -> Mount:
    """The mount with rotations of unknown cameras by `poses_alone` of some windows; a camera without any is held."""
    turn, free = mount.turn.copy(), mount.free_turn.copy()
    for camera in np.flatnonzero(free):
        both = [(one[0], one[camera]) for one in found if one is not None]
        pairs = [(a, _earlier(b, float(mount.late[camera]))) for a, b in both if a is not None and b is not None]
        free[camera] = bool(pairs)
        if pairs:
            turn[camera] = turn_between([a for a, _ in pairs], [b for _, b in pairs])
    return replace(mount, turn=turn, turn_start=turn, free_turn=free)


def _earlier(poses: Array, late: float) -> Array:
    """The poses (I, 4, 4), cam_from_window, of a late camera at the times of the instants."""
    if not late:
        return poses
    count = len(poses)
    return inverse(moved_on(inverse(poses), np.arange(count), np.ones(count, np.bool_), -late))


def mount_evidence(window: Window, tracks: Tracks, camera: Array, grid: Grid, mount: Mount) -> MountEvidence | None:
    """The mount that fits a window's tracks best; None where they do not determine it. All tracks are used."""
    cv2.setNumThreads(1)
    view = RigView.of(window, tracks, len(mount.turn))
    if view is None:
        return None
    try:
        adjusted = adjust_rig(view, view.tracks, camera, grid, mount)
        if adjusted is None or adjusted.problem.rig is None:
            return None
        if adjusted.moves:
            adjusted = with_crossings(adjusted, view, view.tracks, camera, grid, mount, _SEARCHES)
        assert adjusted.problem.rig is not None
        covariance = mount_covariance(adjusted.problem)
    except (np.linalg.LinAlgError, cv2.error):
        return None
    found = adjusted.problem.rig.mount
    sigma = np.full(len(mount.turn), np.inf)
    free = int(mount.free_turn.sum())
    variance = np.diag(covariance)[: 3 * free].reshape(-1, 3).max(1, initial=0.0)
    sigma[mount.free_turn] = np.sqrt(variance + _LEAST_TURN**2)
    whole = np.linalg.inv(covariance[3 * free :, 3 * free :]) if len(found.coefficient) else np.zeros((0, 0))
    prior = np.diag(found.deviation**-2)
    told = whole @ found.coefficient - prior @ found.expected
    depth = float(np.median(np.abs(local_of(adjusted.problem)[2])))
    return MountEvidence(found.turn, sigma, np.asarray(told), np.asarray(whole - prior), depth)


def common_mount(mount: Mount, found: Sequence[MountEvidence | None]) -> Mount:
    """The mount by all windows: weighted means, robust for rotations. Without any evidence it is unchanged and held."""
    known = [one for one in found if one is not None]
    if not known:
        return mount.held()
    turn = mount.turn.copy()
    for camera in np.flatnonzero(mount.free_turn):
        sigma = np.array([one.turn_sigma[camera] for one in known])
        all_turns = np.stack([one.turn[camera] for one in known])
        turn[camera] = all_turns[np.argmin(sigma)]
        for _ in range(_ROUNDS):
            away = log(all_turns @ turn[camera].T)
            weight = sigma**-2 / (1 + (np.linalg.norm(away, axis=1) / (3 * sigma)) ** 2)
            turn[camera] = exp((weight @ away / weight.sum())[None])[0] @ turn[camera]
    coefficient, deviation = _mean(mount, known)
    return replace(mount, turn=turn, coefficient=coefficient, expected=coefficient, deviation=deviation).held()


def place_deviation(mount: Mount, found: Sequence[MountEvidence | None]) -> Array:
    """Deviations (C,) of the places of unknown cameras by all windows, where they are least sure, as a share of the
    usual depth; 0 for known ones, infinite where nothing tells them. mount: as it was given to `mount_evidence`."""
    free = np.flatnonzero(np.abs(mount.directions[int(mount.is_metric) :: 3]).sum((0, 2)) > 0)
    answer = np.zeros(len(mount.turn))
    answer[free] = np.inf
    known = [one for one in found if one is not None]
    if not known or not len(free):
        return answer
    total = np.stack([one.information * one.depth**2 for one in known]).sum(0)
    covariance = np.linalg.inv(total + 1e-9 * np.eye(len(total)))
    for place, camera in enumerate(free):
        own = slice(int(mount.is_metric) + 3 * place, int(mount.is_metric) + 3 * place + 3)
        answer[camera] = np.sqrt(max(float(np.linalg.eigvalsh(covariance[own, own]).max()), 0.0))
    return answer


def place_notes(cameras: Sequence[str], deviation: Array) -> tuple[str, ...]:
    """Notes for the user on cameras (C names) whose places are unsure; deviation (C,): by `place_deviation`."""
    return tuple(
        f"the place of camera {name} on the car is "
        + (f"known to {100 * share:.0f} % of the usual depth" if share < _NOTHING else "not determined by the pictures")
        for name, share in zip(cameras, deviation.tolist(), strict=True)
        if share > _PLACED
    )


def _mean(mount: Mount, known: Sequence[MountEvidence]) -> tuple[Array, Array]:
    """Weighted mean of the coefficients (Q,) over windows, whose units differ, and its deviations (Q,)."""
    count = len(mount.coefficient)
    if not count:
        return mount.coefficient, mount.deviation
    little = 1e-9 * np.eye(count) * max(float(np.trace(sum(one.information for one in known))), 1e-30)
    coefficient = np.linalg.solve(sum(one.information for one in known) + little, sum(one.told for one in known))
    total, right = little.copy(), np.zeros(count)
    units = np.diag((_UNITS * coefficient) ** 2)
    for one in known:
        own = np.linalg.inv(one.information + little)
        weight = np.linalg.inv(own + units)
        total, right = total + weight, right + weight @ (own @ one.told)
    covariance = np.linalg.inv(total)
    coefficient = covariance @ right
    return coefficient, np.sqrt(np.diag(covariance) + (_UNITS * coefficient) ** 2)
