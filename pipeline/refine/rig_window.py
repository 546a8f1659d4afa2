"""All steps for one window of a rig, as `refine_window` for one camera.

One pose of the rig for each instant is adjusted to the tracks of all cameras, and held-back tracks of all judge it. The
height above the road does not correct the scale: cameras that look to the side hold it better, and dense depth of a rig
is worse than that of one camera (README.md has figures).

In an adjustment frames are in the order of `RigFrames`: camera by camera. Results are in the order of the window:
instant by instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.adjustment import metre_deviation, mount_covariance, step_covariance
from pipeline.refine.chunk_result import WindowResult
from pipeline.refine.cross_tracks import cross_tracks
from pipeline.refine.depth_correction import fit_depth
from pipeline.refine.depth_ratios import DepthRatios, adjusted_ratios, smooth_log_depth, witness_ratios
from pipeline.refine.evidence import PairEvidence, held_back
from pipeline.refine.grid import Grid
from pipeline.refine.problem import Problem, inverse, local_of
from pipeline.refine.refine_window import STANDS_WORSE, WORSE, is_better, judged, unrefined
from pipeline.refine.refinement import STEPS, Adjusted, adjust_window
from pipeline.refine.rig_frames import Mount, RigFrames
from pipeline.refine.rig_start import chained, rig_steps
from pipeline.refine.start import Start
from pipeline.refine.tracks import Tracks, together
from pipeline.refine.triangulate import triangulate
from pipeline.refine.verdict import drive_figures
from pipeline.refine.window import Window

Array = NDArray[np.float64]

_MEASURED = 0.003  # deviation of a measured step's length, as a share of it
_METRE = 0.02  # deviation of the log of a metre's length that measured steps give
# Grid pixels: error that matches between two cameras have in common (a metre of rendered rigs was off by 1.5 %).
_COMMON = 0.07
_AGAIN = (2, 2, 4)  # most steps of an adjustment that begins with an adjusted window
_SETTLED = 0.005  # of the usual depth: if places change by less, points are not searched once more
_MOVING_M = 0.1  # metres: shorter steps do not compare
_SPREAD = 0.3  # largest deviation of the log ratios of the network's steps and the measured ones
_LOOSE = 2.0  # deviation of a coefficient of which nothing is known: in metres, or usual steps
_PARALLAX = 1.0  # degrees: least of tracks that give the unit of depth
_FEWEST = 3  # instants of a window


@dataclass(frozen=True, eq=False)
class RigView:
    """A window of a rig, camera by camera. window: with frames numbered from 0 in the order of `RigFrames`; tracks:
    with these numbers; order (F,): the row of each of these frames in the window of the drive."""

    window: Window
    tracks: Tracks
    order: NDArray[np.int64]
    cameras: int

    @staticmethod
    def of(window: Window, tracks: Tracks, cameras: int) -> RigView | None:
        """None where the frames are not those of all cameras at each instant, or there are fewer than three instants.
        Frames of window and tracks are numbered by place: camera + cameras * instant."""
        place = window.frame_index
        order = np.lexsort((place, place % cameras))
        instants = len(place) // cameras
        by_camera = place[order]
        whole = (
            len(place) == instants * cameras and (by_camera % cameras == np.repeat(np.arange(cameras), instants)).all()
        )
        if instants < _FEWEST or not whole:
            return None
        number = np.empty(len(place), np.int64)
        number[order] = np.arange(len(place))
        frame = number[np.searchsorted(place, tracks.frame)]
        rows = Tracks(tracks.track, frame, tracks.xy)
        return RigView(replace(window.select(order), frame_index=np.arange(len(place))), rows, order, cameras)

    @property
    def instants(self) -> int:
        """The number of instants."""
        return len(self.order) // self.cameras

    def of_camera(self, camera: int) -> Window:
        """The frames of one camera."""
        return self.window.select(np.arange(camera * self.instants, (camera + 1) * self.instants))

    def tracks_of(self, camera: int, tracks: Tracks) -> Tracks:
        """Those of the tracks that are of one camera."""
        return tracks.select(tracks.frame // self.instants == camera)


def refine_rig_window(
    window: Window,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    picture_scale: float,
    mount: Mount,
    motions: Mapping[int, Array] | None = None,
) -> WindowResult:
    """Adjust a window of a rig. Where it cannot be adjusted, the result is the network's window and is not accepted.

    Args:
        window, tracks, camera, grid, picture_scale: as in `refine_window`; frames are those of all cameras at each
            instant, numbered by place.
        mount: the cameras on the car, in units of the network's windows; rotations are held.
        motions: measured steps of the reference camera in metres, this_from_next (4, 4), by the instant of the first.
    """
    cv2.setNumThreads(1)
    view = RigView.of(window, tracks, len(mount.turn))
    if view is None:
        return unrefined(window, camera, [])
    witness = held_back(view.tracks)
    unseen = view.tracks.select(witness)
    before = judged(inverse(view.window.cam_from_window), camera, view.window, unseen, picture_scale)
    nothing = unrefined(window, camera, before)
    try:
        first = int(window.frame_index[0]) // view.cameras
        used = view.tracks.select(~witness)
        adjusted = adjust_rig(view, used, camera, grid, mount.held(), first, motions)
        stands = adjusted is None or not adjusted.moves
        if stands:
            adjusted = adjust_rig(view, used, camera, grid, mount.held(), first, motions, by_depth=True)
        elif adjusted is not None and not motions:
            adjusted = with_crossings(adjusted, view, used, camera, grid, mount.held(), 1)
        covariance = None if adjusted is None else step_covariance(adjusted.problem)
    except (np.linalg.LinAlgError, cv2.error):
        return nothing
    if adjusted is None or covariance is None:
        return nothing
    problem = adjusted.problem
    after = judged(inverse(problem.cam_from_window), camera, view.window, unseen, picture_scale)
    log_depth = smooth_log_depth(view.window.depth)
    seen = adjusted_ratios(problem, log_depth, grid, picture_scale)
    checked = witness_ratios(
        problem.cam_from_window, camera, view.window.frame_index, unseen, log_depth, grid, picture_scale
    )
    log_scale, correction = _fit_each(seen, checked, view)
    if stands:  # depth is the network's already
        log_scale, correction = np.zeros_like(log_scale), np.zeros_like(correction)
    accepted = _agrees(before, after, view, STANDS_WORSE if stands else WORSE)
    back = np.empty(len(view.order), np.int64)
    back[view.order] = np.arange(len(view.order))
    return WindowResult(
        np.array([accepted]),
        problem.cam_from_window[back],
        camera,
        log_scale[back],
        correction[back],
        covariance[back],
        np.array(drive_figures(before)),
        np.array(drive_figures(after)),
        adjusted.start.replaced,
        problem.points,
        adjusted.track,
        problem.point,
        view.order[problem.frame],
        problem.xy,
        _metre_sigma(problem, grid),
    )


def adjust_rig(
    view: RigView,
    tracks: Tracks,
    camera: Array,
    grid: Grid,
    mount: Mount,
    first_instant: int = 0,
    motions: Mapping[int, Array] | None = None,
    start: Start | None = None,
    by_depth: bool = False,
    steps: tuple[int, ...] = STEPS,
) -> Adjusted | None:
    """Adjust the poses of the rig, and what is free of the mount, to tracks of all cameras. None where there are too
    few tracks.

    tracks: of the view, without those held back. first_instant: number of the view's first instant for `motions`.
    start: of the reference camera; None: that of `rig_steps`; by_depth, steps: see `adjust_window`. Raises
    numpy.linalg.LinAlgError, cv2.error.
    """
    tracks = tracks.select(~mount.beyond(view.instants)[tracks.frame])
    if start is None:
        cameras = range(view.cameras)
        windows = [view.of_camera(number) for number in cameras]
        start = rig_steps(windows, [view.tracks_of(number, tracks) for number in cameras], camera, mount.cam_from_rig)
    measured = with_motions(start.cam_from_window, first_instant, motions or {})
    rig = RigFrames(measured.rig_from_window, _begun(mount, measured), measured.step_sigma)
    factor = 1.0 if by_depth else _depth_factor(rig, tracks, camera, view.window, grid)
    measured = replace(
        measured, rig_from_window=_times(measured.rig_from_window, factor), metre=measured.metre * factor
    )
    rig = RigFrames(measured.rig_from_window, _begun(mount, measured), measured.step_sigma)
    whole = Start(rig.cam_from_window, start.replaced, start.tracked)
    return adjust_window(view.window, tracks, camera, grid, start=whole, rig=rig, by_depth=by_depth, steps=steps)


def with_crossings(
    adjusted: Adjusted, view: RigView, tracks: Tracks, camera: Array, grid: Grid, mount: Mount, rounds: int
) -> Adjusted:
    """Adjust a rig again with its points found in other cameras' pictures (`cross_tracks`), so many times at most; as
    it is where none are found, or all places are known. adjusted: by `adjust_rig` with the other arguments. Raises
    numpy.linalg.LinAlgError."""
    for _ in range(rounds if len(mount.coefficient) else 0):
        problem = adjusted.problem
        assert problem.rig is not None
        found, turns = problem.rig.mount, 3 * int(mount.free_turn.sum())
        covariance = mount_covariance(problem)[turns:, turns:]
        seen = cross_tracks(view.window, problem, covariance, adjusted.track, tracks, grid)
        if not len(seen.rows):
            return adjusted
        begun = seen.corrected(replace(mount, turn=found.turn, coefficient=found.coefficient))
        start = replace(adjusted.start, cam_from_window=problem.rig.rig_from_window)
        every = Tracks.sorted(*together(tracks, seen.rows))
        again = adjust_rig(view, every, camera, grid, begun, start=start, steps=_AGAIN)
        if again is None or not again.moves:
            return adjusted
        adjusted = again
        if np.abs(seen.shift).max() < _SETTLED * np.median(np.abs(local_of(problem)[2])):
            return adjusted
    return adjusted


@dataclass(frozen=True, eq=False)
class MeasuredSteps:
    """Poses of a rig's reference camera (I, 4, 4) with measured steps; step_sigma (I - 1,): deviations of the steps'
    lengths as a share, NaN where none was measured; metre: its length in the window's units, NaN where unknown;
    deviation: of the log of it."""

    rig_from_window: Array
    step_sigma: Array
    metre: float
    deviation: float


def with_motions(rig_from_window: Array, first_instant: int, motions: Mapping[int, Array]) -> MeasuredSteps:
    """Replace steps by measured ones. rig_from_window (I, 4, 4): the instants from first_instant on; motions:
    this_from_next (4, 4) in metres by the instant of the first. Unchanged where fewer than three can be compared, or
    the ratios to the window's own steps differ too much."""
    steps = rig_from_window[1:] @ inverse(rig_from_window[:-1])
    nothing = MeasuredSteps(rig_from_window, np.full(len(steps), np.nan), np.nan, np.nan)
    there = np.array([first_instant + step in motions for step in range(len(steps))], bool)
    if not there.any():
        return nothing
    given = inverse(np.stack([motions[first_instant + int(step)] for step in np.flatnonzero(there)]))
    units, metres = (np.linalg.norm(one[:, :3, 3], axis=1) for one in (steps[there], given))
    moving = (metres > _MOVING_M) & (units > 0)
    if moving.sum() < _FEWEST:
        return nothing
    ratio = np.log(units[moving] / metres[moving])
    middle = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    if spread > _SPREAD:
        return nothing
    steps[there] = _times(given, float(np.exp(middle)))
    sigma = np.where(there, _MEASURED, np.nan)
    return MeasuredSteps(chained(steps), sigma, float(np.exp(middle)), _METRE)


def _begun(mount: Mount, measured: MeasuredSteps) -> Mount:
    """The mount with what is known of it in a window's units."""
    positions = inverse(measured.rig_from_window)[:, :3, 3]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = max(float(np.quantile(steps, 0.9)), 1e-6)  # not the median: the car may stand for half of the window
    deviation = np.where(np.isfinite(mount.deviation), mount.deviation, _LOOSE * usual)
    coefficient, expected = mount.coefficient.copy(), mount.expected.copy()
    if mount.is_metric and np.isfinite(measured.metre):
        coefficient[0] = expected[0] = measured.metre
        deviation[0] = measured.metre * measured.deviation
    return replace(mount, coefficient=coefficient, expected=expected, deviation=deviation)


def _depth_factor(rig: RigFrames, tracks: Tracks, camera: Array, window: Window, grid: Grid) -> float:
    """The factor from the units of the rig's poses to those of the window's depth."""
    rows = tracks.at_least(3)
    if not len(rows):
        return 1.0
    _, point = np.unique(rows.track, return_inverse=True)
    poses = rig.cam_from_window
    points, angle = triangulate(poses, camera, rows.frame, point, rows.xy)
    pose = poses[rows.frame]
    z = (pose[:, 2, :3] * points[point]).sum(1) + pose[:, 2, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.log(grid.sample(window.depth, rows.frame, rows.xy)) - np.log(z)
    ratio = ratio[np.isfinite(ratio) & (angle > _PARALLAX)[point]]
    return float(np.exp(np.median(ratio))) if len(ratio) else 1.0


def _times(poses: Array, factor: float) -> Array:
    answer = poses.copy()
    answer[:, :3, 3] *= factor
    return answer


def _fit_each(seen: DepthRatios, checked: DepthRatios, view: RigView) -> tuple[Array, Array]:
    """`fit_depth` of each camera's frames: log factors (F,) and coefficients (F, TERMS)."""
    count = view.instants
    found = [
        fit_depth(_of_camera(seen, number, count), _of_camera(checked, number, count), count)
        for number in range(view.cameras)
    ]
    return np.concatenate([scale for scale, _ in found]), np.concatenate([terms for _, terms in found])


def _of_camera(ratios: DepthRatios, camera: int, instants: int) -> DepthRatios:
    rows = ratios.frame // instants == camera
    frame = ratios.frame[rows] - camera * instants
    return DepthRatios(frame, ratios.places[rows], ratios.log_ratio[rows], ratios.log_depth[rows])


def _metre_sigma(problem: Problem, grid: Grid) -> Array:
    """Standard deviation (1,) of the log of a metre's length; (0,) where the mount has none. Raises
    numpy.linalg.LinAlgError."""
    assert problem.rig is not None
    mount = problem.rig.mount
    if not mount.is_metric:
        return np.zeros(0)
    sigma = metre_deviation(problem)
    if problem.coarse is not None and problem.coarse.any():
        apart = abs(float(mount.coefficient[0])) * np.linalg.norm(mount.directions[0], axis=1).max()
        usual = float(np.median(np.abs(local_of(problem)[2])))
        focal = problem.camera[0] * grid.scale[0]
        sigma = float(np.hypot(sigma, _COMMON / focal * usual / max(apart, 1e-12)))
    return np.array([sigma])


def _agrees(before: list[PairEvidence], after: list[PairEvidence], view: RigView, worse: float) -> bool:
    """Whether held-back tracks of all cameras together, and of each camera that they judge, agree better."""

    def of(pairs: list[PairEvidence], camera: int) -> list[PairEvidence]:
        return [pair for pair in pairs if pair.first // view.instants == pair.second // view.instants == camera]

    parts = [(of(before, number), of(after, number)) for number in range(view.cameras)]
    parts = [(one, other) for one, other in parts if any(pair.judged for pair in other)]
    return bool(parts) and all(is_better(one, other, worse) for one, other in [*parts, (before, after)])
