"""Chunks, each in its own gauge (arbitrary position, rotation and scale) -> one trajectory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.drift import looseness_of
from pipeline.backend.georeference import Georeference, InWorld, Metric, WorldEvidence
from pipeline.backend.joint_errors import JointErrors, joint_errors
from pipeline.backend.loop_residuals import LoopWindows, loop_pose_residuals, loop_windows, measure_loop
from pipeline.backend.normal_equations import WIDTH, linearised, place, residuals, units
from pipeline.backend.outline import Outline, fill_bad, owned_ranges
from pipeline.backend.overlap import Overlap
from pipeline.backend.own_chunks import OwnChunks
from pipeline.backend.placing import place_in_world
from pipeline.backend.pose_graph import Solution, close_loops, solve_chain
from pipeline.backend.road import Heights, Road
from pipeline.backend.sim3 import Array, Sim3
from pipeline.backend.stereo_scale import StereoMotions, metres_of
from pipeline.common.chunk_prediction import PosedDepth
from pipeline.common.fixes import Fixes, Speed
from pipeline.errors import AlignmentError

_HELD = 4  # chunks kept in memory while loops are measured; a loop needs two


# The median overlap's noise counts as at least this, so that a multiple of almost nothing is not reported.
_LEAST_TURN = 0.003  # radians (rms), a fifth of a degree
_LEAST_LOG_DEPTH = 0.03


@dataclass(frozen=True, eq=False)
class Edge:
    """How well two neighbouring chunks fit together, measured on their overlap alone.

    frames: shared usable frames; expected: how many were planned; residual: root mean square distance between both
    placements of a frame, world units; turn: the same for rotations, radians; log_scale: the same for log depths;
    inliers: share of the compared pixels that agree; depth_spread: robust deviation of their log ratios; noise (3,):
    rotation, position and depth errors relative to the drive's median overlap; weight: 1 / the greatest noise squared,
    at most 1; covariance (7, 7): of the second chunk's log scale, rotation (radians) and translation (world units)
    relative to the first, inf on the diagonal where the overlap determines nothing; bridged: no usable frame is shared.
    """

    first: int
    second: int
    frames: int
    expected: int
    residual: float
    turn: float
    log_scale: float
    inliers: float
    depth_spread: float
    noise: tuple[float, float, float]
    weight: float
    covariance: Array
    bridged: bool
    residual_share: float = np.inf
    """residual as a share of the path length of the longer chunk."""


@dataclass(frozen=True)
class Loop:
    """A place seen twice according to the loop detector, and whether the pose graph accepted it.

    pair: the two frames; first, second: the windows of frames that were predicted together; chunks: numbers of the
    chunks that the windows were compared with, None if a frame is in no chunk; similarity: the detector's, None if
    unknown; residual: distance that remains between both placements, world units; chi2: squared residual in units of
    its variance for a true loop; both None where nothing could be measured; reason: for the verdict.
    """

    pair: tuple[int, int]
    first: range
    second: range
    chunks: tuple[int, int] | None
    similarity: float | None
    accepted: bool
    residual: float | None
    chi2: float | None
    reason: str


@dataclass(frozen=True, eq=False)
class JoinResult:
    """One trajectory. World frame: the camera of the first frame is the identity. With a georeference: metres east,
    north and up at its origin.

    frame_index (N,) int64, rising; world_from_camera (N, 4, 4) float64, finite; owner (N,): number of the chunk from
    which each frame takes its pose; depth_scale (N,): factor from the owner's depth of that frame to world units;
    filled (N,) bool: the frame's image was bad, so its pose is interpolated; world_from_chunk: one Sim(3) per chunk,
    exact at its reference frame; chunk_frames: first and last frame number of each chunk; edges: one per pair of
    neighbours; loops: one per loop chunk; variance_inflation: factor by which loops showed the chain's variance to be
    too small, 1 if they did not; georeference: None without fixes, or if they could not be used; relative_because: why
    they could not; metric: what made the world's unit a metre, None if nothing did; joint_errors: covariances of the
    steps between neighbouring chunks before loops and fixes, None where they are not known.
    """

    frame_index: NDArray[np.int64]
    world_from_camera: Array
    owner: NDArray[np.int64]
    depth_scale: Array
    filled: NDArray[np.bool_]
    world_from_chunk: tuple[Sim3, ...]
    chunk_frames: tuple[tuple[int, int], ...]
    edges: tuple[Edge, ...]
    loops: tuple[Loop, ...]
    variance_inflation: float
    georeference: Georeference | None = None
    relative_because: str = ""
    metric: Metric | None = None
    joint_errors: JointErrors | None = None


def join_chunks(
    chunks: Sequence[PosedDepth],
    *,
    loop_chunks: Sequence[PosedDepth] = (),
    loop_pairs: Sequence[tuple[int, int]] = (),
    loop_similarities: Sequence[float] | None = None,
    overlap: int = 30,
    kept: Sequence[int] | None = None,
    config: BackendConfig | None = None,
    frame_time_s: ArrayLike | None = None,
    fixes: Fixes | None = None,
    speed: Speed | None = None,
    camera_height_m: float | None = None,
    clock_window_s: float = 5.0,
    lever: ArrayLike | None = None,
    motions: StereoMotions | None = None,
    adjusted: Sequence[bool] = (),
    deviations: Sequence[Array | None] = (),
    road_of: Callable[[int, Road], Road] | None = None,
) -> JoinResult:
    """Join `chunks` (in order of time) into one trajectory.

    Args:
        chunks, loop_chunks: read one after the other; few are in memory at a time, and only their cameras are kept.
        loop_pairs: for each loop chunk, the two frames that show one place.
        loop_similarities: the detector's, copied to the result.
        overlap: number of frames that neighbours were planned to share.
        kept: numbers of the frames that are in chunks, rising, if others were left out on purpose (stops). By default
            all are. Drift and speed are measured in kept frames.
        frame_time_s, fixes, speed, camera_height_m, clock_window_s, lever: see `WorldEvidence`. Fixes take part in the
            pose graph, and the car's speed beside them. Without usable fixes, the speed makes the result metric;
            without a speed, the camera's height does.
            If evidence cannot be used, the result stays relative and names the reason.
        motions: of a rig, in metres. They replace the chunks' own steps (`with_motions`). Without fixes they also
            relate the scales of chunks to each other, instead of the road, and make the result metric, instead of a
            speed.
        adjusted: whether each chunk's steps are adjusted to the motions already and stay; by default none.
        deviations: for each chunk Chunk.pose_deviation, in the order of its frames, or None. Overlaps of frames that
            are less certain than usual have less weight, and chunks that are less certain bend more easily.
        road_of: measures a chunk's road better than dense depth does. It gets the chunk's number and the road in dense
            depth.

    Raises:
        AlignmentError: no chunk, chunks out of order, arrays that do not fit together, frames not in `kept`, poses not
            finite.
        ValueError: fixes or speed without frame_time_s, or times of another number of frames.
    """
    config = config or BackendConfig()
    if len(loop_chunks) != len(loop_pairs):
        raise ValueError(f"expected one pair per loop chunk, got {len(loop_pairs)} for {len(loop_chunks)}")
    evidence = WorldEvidence(frame_time_s, fixes, speed, camera_height_m, clock_window_s, lever)
    read = partial(Chunk.read, max_pixels=config.max_pixels, kept=None if kept is None else np.asarray(kept, np.int64))
    look_for_road = config.road or camera_height_m is not None
    own = OwnChunks(chunks, read, motions, adjusted, deviations)
    outlines, overlaps, shared, roads = own.chain(config, look_for_road, road_of)
    span = float(max(max(o.time[-1] - o.time[0] for o in outlines), 1))
    heights = Heights.of(roads, [outline.offset for outline in outlines], span)
    metres = None if motions is None or fixes is not None else metres_of(motions, outlines, span)
    steady = heights if config.road else None
    scales = steady if metres is None else metres
    solution = solve_chain(overlaps, len(outlines), span, config, scales, looseness_of(deviations))
    unsure = joint_errors(solution, config)
    loops: tuple[Loop, ...] = ()
    if len(loop_chunks):
        known: list[float | None] = [None] * len(loop_chunks)
        if loop_similarities is not None:
            known = list(loop_similarities)
        solution, loops = _close_loops(
            solution, outlines, loop_chunks, loop_pairs, known, (own.__getitem__, read), config
        )
    if not all(np.isfinite(x).all() for x in (solution.state.translation, solution.state.scale)):
        raise AlignmentError("the chunks contradict each other: no finite trajectory fits them")
    edges = tuple(_edges(solution, outlines, overlaps, shared, overlap))
    placed = place_in_world(solution, outlines, heights, evidence, config, metres)
    return replace(_trajectory(placed, outlines, edges, loops), joint_errors=unsure)


def _close_loops(
    chain: Solution,
    outlines: Sequence[Outline],
    loop_chunks: Sequence[PosedDepth],
    loop_pairs: Sequence[tuple[int, int]],
    similarities: Sequence[float | None],
    reads: tuple[Callable[[int], Chunk], Callable[[PosedDepth], Chunk]],
    config: BackendConfig,
) -> tuple[Solution, tuple[Loop, ...]]:
    """Measure every loop against the two chunks it connects, then let the pose graph judge all loops together. reads:
    the functions that read a chunk by its number, and a loop chunk."""
    read_own, read = reads
    held: OrderedDict[int, Chunk] = OrderedDict()

    def chunk_of(number: int) -> Chunk:
        if number not in held:
            held[number] = read_own(number)
        held.move_to_end(number)
        while len(held) > _HELD:
            held.popitem(last=False)
        return held[number]

    measured: list[LoopWindows] = []
    numbers: list[int] = []
    answers: list[Loop] = []
    for number, (i, j) in enumerate(loop_pairs):
        homes = _home_chunk(outlines, i), _home_chunk(outlines, j)
        first, second, reason = range(i, i + 1), range(j, j + 1), "one of its frames is in no chunk"
        if homes[0] is not None and homes[1] is not None:
            try:
                loop = read(loop_chunks[number])
                first, second = loop_windows(loop, (i, j))
                found = measure_loop(
                    loop, (i, j), (homes[0], homes[1]), (chunk_of(homes[0]), chunk_of(homes[1])), config
                )
                if isinstance(found, str):
                    reason = found
                else:
                    measured.append(found)
                    numbers.append(number)
            except AlignmentError as error:
                reason = str(error)
        pair = None if homes[0] is None or homes[1] is None else (homes[0], homes[1])
        answers.append(Loop((i, j), first, second, pair, similarities[number], False, None, None, reason))
    if not measured:
        return chain, tuple(answers)
    solution, verdicts = close_loops(chain, loop_pose_residuals(measured, chain, config), config)
    for number, verdict in zip(numbers, verdicts, strict=True):
        answers[number] = replace(
            answers[number],
            accepted=verdict.accepted,
            residual=verdict.residual,
            chi2=verdict.chi2,
            reason=verdict.reason,
        )
    return solution, tuple(answers)


def _home_chunk(outlines: Sequence[Outline], frame: int) -> int | None:
    """The number of the chunk whose middle is nearest to `frame`, of those that contain it; None if none does."""
    best, answer = np.inf, None
    for number, outline in enumerate(outlines):
        first, last = outline.frame_index[0], outline.frame_index[-1]
        if first <= frame <= last and abs((first + last) / 2 - frame) < best:
            best, answer = abs((first + last) / 2 - frame), number
    return answer


def _edges(
    solution: Solution, outlines: Sequence[Outline], overlaps: Sequence[Overlap], shared: Sequence[int], expected: int
) -> list[Edge]:
    """The residuals of each overlap in the final solution."""
    if not overlaps:
        return []
    rows, state = solution.rows, solution.state
    residual = residuals(state, rows)
    jacobian = linearised(state, rows)[1][:, :, WIDTH : WIDTH + 7]
    information = np.einsum("nik,ni,nil->nkl", jacobian, solution.weight, jacobian)
    world = residual[:, 3:6] / units(state, rows)[:, None]
    known = np.isfinite(rows.deviation[:, 6])
    edges = []
    own = np.empty((len(overlaps), 3))
    for number in range(len(overlaps)):
        mine = rows.pair == number
        for g, part in enumerate((slice(0, 3), slice(3, 6), slice(6, 7))):
            own[number, g] = np.sqrt((residual[mine, part] ** 2).mean())
    # If the median overlap has almost no error, a multiple of it is not bad either.
    typical = np.maximum(np.median(own, axis=0), (_LEAST_TURN, 1e-9, _LEAST_LOG_DEPTH))
    ways = [np.linalg.norm(np.diff(one.chunk_from_camera[:, :3, 3], axis=0), axis=1).sum() for one in outlines]
    way = state.scale * np.array(ways)
    for number, overlap in enumerate(overlaps):
        mine = rows.pair == number
        eigenvalues, vectors = np.linalg.eigh(information[mine].sum(0))
        blind = eigenvalues < 1e-9 * max(float(eigenvalues[-1]), 1e-300)
        covariance = (vectors / np.where(blind, np.inf, eigenvalues)) @ vectors.T
        lost = (vectors[:, blind] ** 2).sum(1) > 1e-6
        covariance[lost, lost] = np.inf
        noise = own[number] / typical
        apart = float(np.sqrt((world[mine] ** 2).sum(1).mean()))
        depth = residual[mine & known, 6]
        edges.append(
            Edge(
                overlap.first,
                overlap.second,
                shared[number],
                expected,
                apart,
                float(np.sqrt((residual[mine, :3] ** 2).sum(1).mean())),
                float(np.sqrt((depth**2).mean())) if depth.size else np.inf,
                overlap.inlier_share,
                overlap.depth_spread,
                (float(noise[0]), float(noise[1]), float(noise[2])),
                0.0 if overlap.bridged else float(min(1.0, 1 / noise.max() ** 2)),
                covariance,
                overlap.bridged,
                apart / max(way[overlap.first], way[overlap.second], 1e-12),
            )
        )
    return edges


def _trajectory(
    world: InWorld, outlines: Sequence[Outline], edges: tuple[Edge, ...], loops: tuple[Loop, ...]
) -> JoinResult:
    """Every frame's pose from its owner; those of bad frames interpolated. The first camera becomes the identity
    unless the solution is georeferenced."""
    solution, georeference = world.solution, world.georeference
    state, span = solution.state, solution.prior.span
    ranges = owned_ranges(outlines)
    index, poses, owner, scale, ok = [], [], [], [], []
    for number, (outline, frames) in enumerate(zip(outlines, ranges, strict=True)):
        mine = (outline.frame_index >= frames.start) & (outline.frame_index < frames.stop)
        rotation, position, log_scale = place(
            state,
            number,
            outline.chunk_from_camera[mine],
            outline.offset[mine] / span,
            outline.moment[mine] / span,
        )
        pose = np.tile(np.eye(4), (len(rotation), 1, 1))
        pose[:, :3, :3], pose[:, :3, 3] = rotation, position
        index.append(outline.frame_index[mine])
        poses.append(pose)
        owner.append(np.full(len(pose), number))
        scale.append(np.exp(log_scale))
        ok.append(outline.ok[mine])
    frame_index, good = np.concatenate(index), np.concatenate(ok)
    world_from_camera = fill_bad(frame_index, np.concatenate(poses), good)
    gauge = Sim3.identity()
    if georeference is None:
        gauge = Sim3(1.0, world_from_camera[0, :3, :3], world_from_camera[0, :3, 3]).inverse()
    else:
        georeference = replace(georeference, enu_from_camera=world_from_camera)
    return JoinResult(
        frame_index,
        gauge.transform_pose(world_from_camera),
        np.concatenate(owner),
        np.concatenate(scale),
        ~good,
        tuple(gauge @ state.world_from_chunk(number) for number in range(len(outlines))),
        tuple((int(o.frame_index[0]), int(o.frame_index[-1])) for o in outlines),
        edges,
        loops,
        solution.variance_inflation,
        georeference,
        world.relative_because,
        world.metric,
    )
