"""Compares a result with the truth.

In: a published drive or a file of poses, and a drive with truth. Out: `Evaluation`, with errors of the trajectory
(absolute, relative, KITTI's, over turns) and of depth; a table and a plot. `evaluate_trajectory` compares arrays of
poses. `run_benchmark.py` evaluates whole data sets.
"""

from pipeline.evaluation.associate import Filled, Match, Matched, PosedFrames, associate
from pipeline.evaluation.depth import DepthErrors, evaluate_depth
from pipeline.evaluation.drive_evaluation import Comparison, Evaluation, compare, evaluate
from pipeline.evaluation.figure import drive_picture, trajectory_figure
from pipeline.evaluation.sources import Estimate, Truth, open_estimate, open_truth, read_poses
from pipeline.evaluation.table import print_evaluation
from pipeline.evaluation.trajectory import AlignedErrors, TrajectoryErrors, align, evaluate_trajectory
from pipeline.evaluation.turns import Turn

__all__ = [
    "AlignedErrors",
    "Comparison",
    "DepthErrors",
    "Estimate",
    "Evaluation",
    "Filled",
    "Match",
    "Matched",
    "PosedFrames",
    "TrajectoryErrors",
    "Truth",
    "Turn",
    "align",
    "associate",
    "compare",
    "drive_picture",
    "evaluate",
    "evaluate_depth",
    "evaluate_trajectory",
    "open_estimate",
    "open_truth",
    "print_evaluation",
    "read_poses",
    "trajectory_figure",
]
