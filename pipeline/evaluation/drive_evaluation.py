"""The evaluation of one drive: matches frames and computes all errors."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from pipeline.common.geodesy import enu_from_geodetic, geodetic_from_enu
from pipeline.errors import DriveError
from pipeline.evaluation.associate import Filled, Match, Matched, associate
from pipeline.evaluation.depth import DepthErrors, evaluate_depth
from pipeline.evaluation.metrics import FloatArray, Pairs
from pipeline.evaluation.sources import Estimate, Truth
from pipeline.evaluation.trajectory import TrajectoryErrors, absolute_distance, align, evaluate_trajectory

REPORT_VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """Errors of one drive. depth: None if none could be compared; depth_note: then the reason."""

    drive_id: str
    estimate: str
    truth: str
    frames: Matched
    trajectory: TrajectoryErrors
    depth: DepthErrors | None
    depth_note: str | None

    def to_json(self) -> dict[str, object]:
        """Plain values for JSON; errors that are not defined (without a segment of 100 m, for example) are None."""
        return {"version": REPORT_VERSION, **asdict(self)}


@dataclass(frozen=True, eq=False)
class Comparison:
    """An estimate and its truth. pairs: positions of matching frames in both."""

    estimate: Estimate
    truth: Truth
    pairs: Pairs
    matched: Matched

    @property
    def estimated_poses(self) -> FloatArray:
        """world_from_camera (n, 4, 4) of the compared frames, in the estimate's world and unit."""
        return self.estimate.frames.world_from_camera[self.pairs[0]]

    @property
    def true_poses(self) -> FloatArray:
        """world_from_camera (n, 4, 4) of the compared frames, metres."""
        return self.truth.frames.world_from_camera[self.pairs[1]]

    def aligned_poses(self) -> FloatArray:
        """The estimate's poses (n, 4, 4) after Sim(3) alignment with the truth, metres."""
        alignment = align(self.estimated_poses, self.true_poses, with_scale=True)
        return alignment.transform_pose(self.estimated_poses)


def compare(
    estimate: Estimate,
    truth: Truth,
    *,
    match: Match = "auto",
    tolerance_s: float = 0.01,
    filled: Filled = "count",
) -> Comparison:
    """Match the frames of both. Raises DriveError like `associate`."""
    pairs, matched = associate(estimate.frames, truth.frames, match, tolerance_s=tolerance_s, filled=filled)
    return Comparison(estimate, truth, pairs, matched)


def evaluate(
    comparison: Comparison,
    *,
    with_depth: bool = True,
    max_depth: float | None = None,
    truth_origin: tuple[float, float, float] | None = None,
) -> Evaluation:
    """All errors of a comparison.

    truth_origin: latitude, longitude (degrees) and altitude (metres) of the point from which the truth is in metres
    east, north, up; with it, positions are also compared without alignment. Raises DriveError if errors are not
    defined.
    """
    estimate, truth = comparison.estimate, comparison.truth
    try:
        trajectory = evaluate_trajectory(comparison.estimated_poses, comparison.true_poses, comparison.pairs[0])
    except ValueError as error:
        raise DriveError(f"{estimate.frames.what} against {truth.frames.what}: {error}") from None
    if truth_origin is not None:
        if estimate.drive is None or estimate.drive.origin is None:
            raise DriveError(f"{estimate.name} is not georeferenced, so absolute positions cannot be compared")
        places = geodetic_from_enu(comparison.estimated_poses[:, :3, 3], estimate.drive.origin)
        away = absolute_distance(enu_from_geodetic(*places, truth_origin), comparison.true_poses[:, :3, 3])
        trajectory = replace(trajectory, absolute=away)
    depth, note = None, _no_depth(comparison, with_depth)
    if note is None:
        assert estimate.drive is not None and truth.drive is not None
        frames = (comparison.pairs[0] * estimate.step, comparison.pairs[1])
        depth = evaluate_depth(estimate.drive, truth.drive, frames, max_depth=max_depth)
        note = None if depth is not None else "no published point falls on true depth"
    return Evaluation(estimate.name, estimate.uri, truth.uri, comparison.matched, trajectory, depth, note)


def _no_depth(comparison: Comparison, with_depth: bool) -> str | None:
    """Why depth cannot be compared; None if it can."""
    if not with_depth:
        return "not requested"
    if comparison.estimate.drive is None:
        return "the prediction is a file of poses"
    if comparison.truth.drive is None:
        return "the truth is a file of poses"
    if comparison.truth.drive.depth_uris is None:
        return "the truth has no depth images"
    if not comparison.estimate.drive.manifest.counts.points:
        return "the drive was published without points"
    return None
