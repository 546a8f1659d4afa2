"""Prints an evaluation as a table."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from pipeline.common.visible_text import visible
from pipeline.evaluation.drive_evaluation import Evaluation
from pipeline.evaluation.trajectory import AlignedErrors

NOTHING = "–"


def print_evaluation(evaluation: Evaluation, console: Console | None = None) -> None:
    """Print one drive's errors to the console (standard output)."""
    (console or Console(highlight=False)).print(render(evaluation))


def render(evaluation: Evaluation) -> Group:
    """What was compared, the trajectory's errors by alignment, turns and depth, for printing with rich."""
    frames, trajectory = evaluation.frames, evaluation.trajectory
    left = [
        f"  {count} {words}"
        for count, words in (
            (frames.filled_compared, "of them with an interpolated pose"),
            (frames.filled_skipped, "left out because their pose was interpolated"),
            (frames.missing, "without a pose"),
            (frames.unmatched, "without a true pose"),
        )
        if count
    ]
    how = f"by {frames.by}" + ("" if frames.tolerance_s is None else f" within {frames.tolerance_s:g} s")
    lines = [
        f"drive {evaluation.drive_id}: {frames.compared} of {frames.estimate_frames} frames compared",
        f"  matched {how} with {frames.truth_frames} true poses",
        *left,
        f"path {trajectory.path_length:.2f} m, scale {trajectory.sim3.scale:.6g} m per unit of the estimate",
    ]
    if trajectory.absolute is not None:
        far = trajectory.absolute
        lines.append(
            f"absolute (nothing aligned): {far.rmse:.3f} m, horizontal {far.horizontal:.3f} m, vertical "
            f"{far.vertical:.3f} m, at most {far.maximum:.3f} m"
        )
    table = Table("", "", "after SE(3)", "after Sim(3)")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in _rows(trajectory.se3, trajectory.sim3):
        table.add_row(*row)
    return Group(*map(Text, map(visible, lines)), table, *map(Text, (_turns(evaluation), *_depth(evaluation))))


_RPE = {
    "over_1_frame": "RPE 1 frame",
    "over_10_frames": "RPE 10 frames",
    "over_1m": "RPE 1 m",
    "over_100m": "RPE 100 m",
    "over_100m_of_estimate": "RPE 100 m (evo's)",
}


def _rows(se3: AlignedErrors, sim3: AlignedErrors) -> list[list[str]]:
    both = (se3, sim3)
    rows = [
        ["ATE rmse / mean", "m", *(_two(e.ate.rmse, e.ate.mean) for e in both)],
        ["    maximum", "m", *(_number(e.ate.maximum) for e in both)],
        ["    rmse", "% of path", *(_number(e.ate.percent) for e in both)],
    ]
    for name, title in _RPE.items():
        rpe = [getattr(e.rpe, name) for e in both]
        if any(one.pairs for one in rpe):
            rows.append([title, "m", *(_two(one.translation_rmse, one.translation_mean) for one in rpe)])
            rows.append(["    rmse / mean", "degrees", *(_two(one.rotation_rmse, one.rotation_mean) for one in rpe)])
    for title, kitti in (
        ("KITTI, all starts", [e.kitti for e in both]),
        ("KITTI, every 10th", [e.kitti_step10 for e in both]),
    ):
        if kitti[0].segments:
            rows.append([title, "m per 100 m", *(_number(one.translation_percent) for one in kitti)])
            rows.append(["    100-800 m", "deg per 100 m", *(_number(one.rotation_per_100m) for one in kitti)])
        else:
            rows.append([title, "", *("path < 100 m" for _ in both)])
    return rows


def _turns(evaluation: Evaluation) -> str:
    trajectory = evaluation.trajectory
    if not trajectory.turns:
        return "turns: the truth has none of 60 degrees or more"
    return (
        f"turns: {len(trajectory.turns)} of 60 degrees or more, rotation error "
        f"{_number(trajectory.turn_error_mean)} degrees (mean), "
        f"{_number(trajectory.turn_error_maximum)} (max)"
    )


def _depth(evaluation: Evaluation) -> list[str]:
    depth = evaluation.depth
    if depth is None:
        return [f"depth: not compared ({evaluation.depth_note})"]
    seen = "an unknown share" if depth.coverage is None else f"{100 * depth.coverage:.0f} %"
    limit = "" if depth.max_depth is None else f" up to {depth.max_depth:g} m"
    return [
        f"depth: abs-rel {depth.abs_rel:.4f}, {100 * depth.within_125:.1f} % within a factor of 1.25",
        f"  scaled by the median over the drive, {depth.scale:.6g} m per unit",
        f"  {depth.pixels:,} pixels in {depth.frames} of {depth.frames_with_truth} frames",
        f"  {seen} of the area with true depth{limit}",
        f"  from {depth.source}",
    ]


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _two(first: float | None, second: float | None) -> str:
    return f"{_number(first)} / {_number(second)}"
