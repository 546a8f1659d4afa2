"""Compare a result with the truth: python -m jobs.evaluate --pred OUT/ID --truth ROOT/sequences/ID [--json FILE].

Prints the errors of the trajectory, and of depth where both have it. Or reconstruct and score a public data set:
python -m jobs.evaluate --benchmark kitti --data ROOT --output OUT [--ablate gcs,gcm,loops].
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from rich.console import Console

from jobs.command import run_job
from pipeline import storage
from pipeline.benchmark import Machine
from pipeline.common.ray_session import ray_for_one_job
from pipeline.common.settings import setting
from pipeline.common.visible_text import show
from pipeline.config import RunConfig
from pipeline.errors import DriveError
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
from pipeline.evaluation.benchmarks import BENCHMARKS
from pipeline.evaluation.benchmarks.scores import FULL, VARIANTS, Score, means, remarks, render
from pipeline.evaluation.run_benchmark import evaluate_benchmark

_WIDTH = 160  # characters, of a table that is not printed to a terminal


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare --pred with --truth, or reconstruct and score a --benchmark whose data set is in --data."""

    pred: str | None = None
    """Published drive (OUT/ID, or OUT with --drive), or a file of poses: KITTI (12 numbers in each line) or TUM
    (8 numbers)."""
    truth: str | None = None
    """Drive with truth (ROOT/sequences/ID with ROOT/poses/ID.txt, or ROOT), or a file of poses."""
    truth_origin: str | None = None
    """latitude,longitude,altitude of the truth's origin, where the truth is in metres east, north and up of it. A
    georeferenced drive is then also compared without any alignment."""
    drive: str | None = None
    """Name of the drive, where --pred is an output or --truth a folder with several drives."""
    match: Match = "auto"
    """How frames are matched; auto: by time where both have it, else by image name, else by number."""
    tolerance: float = 0.01
    """How far apart two frames matched by time may be, in seconds."""
    filled: Filled = "count"
    """Frames whose pose was filled in from their neighbours: count them like others, or skip them."""
    depth: bool = True
    """Compare depth too, where both have it."""
    max_depth: float | None = None
    """Leave out pixels whose true depth exceeds this, in metres."""
    json: str | None = None
    """Write all numbers to this file; "-" prints them instead of the table."""
    figure: str | None = None
    """Write a picture (PNG) of the trajectory and the truth to this file."""
    benchmark: Literal["kitti", "oxford-spires", "virtual-kitti", "eth3d", "tum"] | None = None
    """Reconstruct and score the sequences of this data set instead. Where --data does not hold it, the error says which
    files are expected and where to get them."""
    data: str | None = None
    """The data set as it was unpacked: a path or URI."""
    output: str | None = None
    """Where the benchmark's results go (<output>/<benchmark>/<variant>/). Existing results are not made again."""
    sequences: tuple[str, ...] = ()
    """Only these sequences; by default all those of the benchmark that --data holds."""
    ablate: str | None = None
    """Run also without these parts of the method: gcs (each chunk learns alone), gcm (no memory), loops. Separate them
    by commas."""
    seed: int = 0
    """Random seed of the points that are sampled from clouds of more than a million points."""
    run: RunConfig = setting(RunConfig(), expert=True)
    """Settings of the benchmark's reconstructions: those of jobs.reconstruct, with the prefix run.
    (--run.weights, --run.workers ...)."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"tolerance must be 0 or more seconds, not {self.tolerance}")
        if self.max_depth is not None and not self.max_depth > 0:
            raise ValueError(f"max_depth must be above 0 metres, not {self.max_depth}")
        self.origin  # noqa: B018 (raises for an invalid place)
        if self.benchmark is None:
            if self.pred is None or self.truth is None:
                raise ValueError("give --pred and --truth, or --benchmark with --data and --output")
            if self.data or self.output or self.sequences or self.ablate or self.run != RunConfig():
                raise ValueError("--data, --output, --sequences, --ablate and --run belong to a --benchmark")
            return
        if self.pred or self.truth or self.drive or self.figure:
            raise ValueError("--benchmark makes its own predictions: leave out --pred, --truth, --drive and --figure")
        if self.data is None or self.output is None:
            raise ValueError("--benchmark needs --data and --output")
        if self.run.input or self.run.drive_id or self.run.output != RunConfig().output:
            raise ValueError("a --benchmark sets input, output and drive id itself: leave out --run.input and the like")
        unknown = [part for part in self.parts if part not in VARIANTS or part == FULL]
        if unknown:
            raise ValueError(f"--ablate takes gcs, gcm and loops, not {unknown[0]!r}")

    @property
    def origin(self) -> tuple[float, float, float] | None:
        """The truth's origin: degrees, degrees, metres."""
        if self.truth_origin is None:
            return None
        try:
            latitude, longitude, altitude = (float(part) for part in self.truth_origin.split(","))
        except ValueError:
            raise ValueError(f"--truth-origin must be latitude,longitude,altitude, not {self.truth_origin!r}") from None
        if not (abs(latitude) <= 90 and abs(longitude) <= 360 and abs(altitude) < 1e5):
            raise ValueError(f"--truth-origin {self.truth_origin} is no place on Earth")
        return latitude, longitude, altitude

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that --ablate names, each once."""
        return tuple(dict.fromkeys(part.strip() for part in (self.ablate or "").split(",") if part.strip()))


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def action(config: EvaluateConfig) -> None:
        if config.benchmark is None:
            _evaluate(config)
        else:
            _score_benchmark(config, arguments)

    return run_job(EvaluateConfig, action, arguments, prog="jobs.evaluate")


def _score_benchmark(config: EvaluateConfig, arguments: list[str]) -> None:
    assert config.benchmark is not None and config.data is not None and config.output is not None
    benchmark = BENCHMARKS[config.benchmark]

    def told(score: Score) -> None:
        said = score.failed or f"ATE {score.ate:.3f} m, {score.seconds or 0:.1f} s"
        show(f"{benchmark.title} {score.sequence} ({score.variant}): {said}", sys.stderr)

    command = ["python", "-m", "jobs.evaluate", *arguments]
    with ray_for_one_job():
        scores = evaluate_benchmark(
            benchmark,
            config.data,
            config.output,
            config.run,
            sequences=config.sequences,
            ablate=config.parts,
            seed=config.seed,
            told=told,
            command=command,
        )
    made = {
        "command": storage.redacted(shlex.join(command)),
        "seed": str(config.seed),
        "commit": Machine.here().commit,
    }
    values = {
        "benchmark": benchmark.name,
        **made,
        "scores": [asdict(score) for score in scores],
        "means": means(benchmark, scores),
        "published": benchmark.published,
    }
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    table = storage.join(storage.absolute(config.output), benchmark.name, "scores.json")
    storage.write_bytes_atomically(table, text.encode())
    if config.json == "-":
        sys.stdout.write(text)
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = max(console.width, _WIDTH)
        console.print(render(benchmark, scores))
        show(remarks(benchmark, scores, made))
        if config.json is not None:
            storage.write_bytes_atomically(storage.absolute(config.json), text.encode())
    failed = [score for score in scores if score.failed]
    if failed:
        raise DriveError(f"{len(failed)} of {len(scores)} runs failed; the same command tries those again")


def _evaluate(config: EvaluateConfig) -> None:
    assert config.pred is not None and config.truth is not None
    estimate = open_estimate(config.pred, config.drive)
    drive_id = config.drive or (estimate.name if estimate.drive is not None else None)
    comparison = compare(
        estimate,
        open_truth(config.truth, drive_id),
        match=config.match,
        tolerance_s=config.tolerance,
        filled=config.filled,
    )
    result = evaluate(comparison, with_depth=config.depth, max_depth=config.max_depth, truth_origin=config.origin)
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
