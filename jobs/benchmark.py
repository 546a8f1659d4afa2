"""Measure speed, memory or accuracy on this machine: python -m jobs.benchmark --what network [--json FILE].

Prints a table with targets, machine, versions and commit. The settings of a subject begin with its name.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Literal

from jobs.command import EXIT_FAILED, run_command, settings_from
from pipeline import storage
from pipeline.benchmark import Machine, Subject
from pipeline.benchmark.accuracy import AccuracyBenchmark
from pipeline.benchmark.backend import BackendBenchmark
from pipeline.benchmark.cameras import CamerasBenchmark
from pipeline.benchmark.decode import DecodeBenchmark
from pipeline.benchmark.drive import DriveBenchmark
from pipeline.benchmark.fleet import FleetBenchmark
from pipeline.benchmark.fuse import FuseBenchmark
from pipeline.benchmark.gpu import GpuBenchmark
from pipeline.benchmark.joint_chunks import JointBenchmark
from pipeline.benchmark.network import NetworkBenchmark
from pipeline.benchmark.planning import PlanningBenchmark
from pipeline.benchmark.publish import PublishBenchmark
from pipeline.benchmark.refinement import RefinementBenchmark
from pipeline.benchmark.rendered_city import CityBenchmark
from pipeline.benchmark.rendering import RenderingBenchmark
from pipeline.benchmark.report import print_table, to_json
from pipeline.benchmark.store import StoreBenchmark
from pipeline.benchmark.streets import StreetsBenchmark
from pipeline.common.settings import setting
from pipeline.common.visible_text import show

What = Literal[
    "accuracy",
    "backend",
    "cameras",
    "city",
    "decode",
    "drive",
    "fleet",
    "fuse",
    "gpu",
    "joint",
    "network",
    "planning",
    "publish",
    "refine",
    "rendering",
    "store",
    "streets",
]


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure and where to write it."""

    what: What
    """The subject."""
    json: str | None = None
    """Write all numbers to this file or URI; "-" prints them instead of the table."""
    figure: str | None = None
    """Write the picture (PNG) to this file or URI, for subjects that draw one."""
    accuracy: AccuracyBenchmark = setting(AccuracyBenchmark(), expert=True)
    backend: BackendBenchmark = setting(BackendBenchmark(), expert=True)
    cameras: CamerasBenchmark = setting(CamerasBenchmark(), expert=True)
    city: CityBenchmark = setting(CityBenchmark(), expert=True)
    decode: DecodeBenchmark = setting(DecodeBenchmark(), expert=True)
    drive: DriveBenchmark = setting(DriveBenchmark(), expert=True)
    fleet: FleetBenchmark = setting(FleetBenchmark(), expert=True)
    fuse: FuseBenchmark = setting(FuseBenchmark(), expert=True)
    gpu: GpuBenchmark = setting(GpuBenchmark(), expert=True)
    joint: JointBenchmark = setting(JointBenchmark(), expert=True)
    network: NetworkBenchmark = setting(NetworkBenchmark(), expert=True)
    planning: PlanningBenchmark = setting(PlanningBenchmark(), expert=True)
    publish: PublishBenchmark = setting(PublishBenchmark(), expert=True)
    refine: RefinementBenchmark = setting(RefinementBenchmark(), expert=True)
    rendering: RenderingBenchmark = setting(RenderingBenchmark(), expert=True)
    store: StoreBenchmark = setting(StoreBenchmark(), expert=True)
    streets: StreetsBenchmark = setting(StreetsBenchmark(), expert=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""

    def benchmark() -> int:
        words = sys.argv[1:] if arguments is None else arguments
        subjects = [word.removeprefix("--what=") for word in words]  # --help shows the settings of those named
        config = settings_from(
            BenchmarkConfig, words, prog="jobs.benchmark", sections=subjects, elsewhere="--what SUBJECT --help"
        )
        return _benchmark(config)

    return run_command(benchmark)


def _benchmark(config: BenchmarkConfig) -> int:
    """Measure, print, write. Returns EXIT_FAILED where a required target was missed."""
    subject: Subject = getattr(config, config.what)
    machine = Machine.here()  # before the work: its load is not the benchmark's own
    measured = subject.measure(lambda line: show(line, sys.stderr))
    if config.figure is not None and measured.figure is None:
        raise ValueError(f"--figure: the benchmark {config.what} draws no picture")
    text = to_json(config.what, json.loads(json.dumps(asdict(subject))), machine, measured)  # type: ignore[call-overload]
    if config.json == "-":
        sys.stdout.write(text)
    else:
        print_table(config.what, machine, measured)
        if config.json is not None:
            storage.write_bytes_atomically(storage.absolute(config.json), text.encode())
    if config.figure is not None and measured.figure is not None:
        storage.write_bytes_atomically(storage.absolute(config.figure), measured.figure)
    return EXIT_FAILED if measured.failed else 0


if __name__ == "__main__":
    sys.exit(main())
