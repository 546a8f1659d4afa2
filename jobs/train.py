"""Train a network: python -m jobs.train --output DIR --preset city_tiny ... (see models/weights/city_tiny.md).

The same command fine-tunes the released weights (`--preset scal3r --weights scal3r.pt --data DRIVES ...`) and goes on
with a run that was interrupted.
"""

from __future__ import annotations

import sys

from jobs.command import run_job
from pipeline.common.visible_text import show
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(TrainConfig, _train, arguments, prog="jobs.train")


def _train(config: TrainConfig) -> None:
    final = launch(config)
    show(f"weights: {final}\nmetrics: {final.with_name('metrics.jsonl')} and metrics.png")


if __name__ == "__main__":
    sys.exit(main())
