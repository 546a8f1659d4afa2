"""A result against the truth: python -m jobs.evaluate --pred OUT/ID --truth ROOT/sequences/ID [--json FILE].

Prints the errors of the trajectory and, where both have it, of depth.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from jobs.command import run_command, settings_from
from pipeline import storage
from pipeline.evaluation import (
    Filled,
    Match,
    compare,
    evaluate,
    open_estimate,
    open_truth,
    print_evaluation,
    trajectory_figure,
)


@dataclass(frozen=True)
class EvaluateConfig:
    """What to compare with what."""

    pred: str
    """Published drive (OUT/ID, or OUT with --drive), or a file of poses: KITTI (12 numbers a line) or TUM
    (8).
    """
    truth: str
    """Drive with truth (ROOT/sequences/ID with ROOT/poses/ID.txt, or ROOT), or a file of poses."""
    drive: str | None = None
    """Which drive of an output, and of a ROOT of true drives."""
    match: Match = "auto"
    """How frames are matched: by time where both know it, else by image name, else by number."""
    tolerance: float = 0.01
    """How far apart two frames matched by time may be, in seconds."""
    filled: Filled = "count"
    """Frames whose pose was filled in from their neighbours: count them as published, or skip them."""
    depth: bool = True
    """Compare depth where both have it."""
    max_depth: float | None = None
    """Leave out true depth beyond this, in metres."""
    json: str | None = None
    """Write all numbers to this file; - prints them instead of the table."""
    figure: str | None = None
    """Write a picture (PNG) of the trajectory over the truth to this file."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance must be 0 or more seconds, not {self.tolerance}")
        if self.max_depth is not None and not self.max_depth > 0:
            raise ValueError(f"max_depth must be above 0 metres, not {self.max_depth}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_command(lambda: _evaluate(settings_from(EvaluateConfig, arguments, prog="jobs.evaluate")))


def _evaluate(config: EvaluateConfig) -> None:
    estimate = open_estimate(config.pred, config.drive)
    drive_id = config.drive or (estimate.name if estimate.drive is not None else None)
    comparison = compare(
        estimate,
        open_truth(config.truth, drive_id),
        match=config.match,
        tolerance_s=config.tolerance,
        filled=config.filled,
    )
    result = evaluate(comparison, with_depth=config.depth, max_depth=config.max_depth)
    text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    if config.json == "-":
        sys.stdout.write(text)
    else:
        print_evaluation(result)
        if config.json is not None:
            storage.write_bytes_atomically(storage.absolute(config.json), text.encode())
    if config.figure is not None:
        title = f"{estimate.name}: {result.trajectory.path_length:.0f} m"
        figure = storage.absolute(config.figure)
        trajectory_figure(comparison.aligned_poses(), comparison.true_poses, figure, title)


if __name__ == "__main__":
    sys.exit(main())
