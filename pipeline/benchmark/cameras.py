"""Measures the effect of lenses on a trajectory: rendered drives through a fisheye and a barrel lens are compared with
the same drives through pinholes of the same field of view, with the whole pipeline.

Each drive is reconstructed six times: through pinholes as wide as the two lenses are rectified to (100 and 64 degrees)
with their calibration, through both lenses with theirs, and through both lenses without, where the verdict must warn of
the lens.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from pipeline.benchmark.report import Measured, Row
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.rectify import view_of
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job
from pipeline.config import RunConfig
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.reconstruct import reconstruct
from pipeline.synthetic import DriveSpec, write_drive
from pipeline.synthetic.lens import named_lens

_RATIO = 1.15  # target: median error through the lens over that through the pinhole
_LENSES = ("fisheye", "barrel")


@dataclass(frozen=True)
class CamerasBenchmark:
    """Drives of the rendered city through lenses and through pinholes."""

    drives: int = 10
    """Number of drives."""
    frames: int = 300
    """Frames of each drive, ten a second."""
    seed: int = 5_000_001
    """Seed of the first drive; training used 100,000 to 4,999,999."""
    height: int = 96
    """Height of the rendered frames."""
    width: int = 192
    """Width of the rendered frames."""
    supersample: int = 1
    """A pixel's colour is the mean of this number squared of rays."""
    folder: str | None = None
    """Folder in which rendered drives and results are kept and reused; by default a temporary folder."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name, least in (("drives", 1), ("frames", 30), ("seed", 0), ("height", 28), ("width", 28)):
            if getattr(self, name) < least:
                raise ValueError(f"cameras.{name} must be at least {least}, not {getattr(self, name)}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Render, reconstruct and compare all drives."""
        drives: list[dict[str, CameraRun]] = []
        with tempfile.TemporaryDirectory(prefix="cameras-") as scratch, ray_for_one_job():
            for number in range(self.drives):
                drives.append(self._drive(Path(self.folder or scratch), self.seed + number))
                say(f"cameras: drive {number + 1} of {self.drives}: {_line(drives[-1])}")
        return Measured({"drives": drives}, tuple(row for lens in _LENSES for row in _rows(lens, drives)))

    def _drive(self, folder: Path, seed: int) -> dict[str, CameraRun]:
        runs: dict[str, CameraRun] = {}
        for lens in _LENSES:
            view = view_of(named_lens(lens, self.width, self.height), self.width, self.height)
            degrees = round(view.degrees_across, 1)
            plain = DriveSpec(seed, self.frames, self.height, self.width, self.supersample, field_of_view=degrees)
            bent = DriveSpec(seed, self.frames, self.height, self.width, self.supersample, lens)
            runs[f"pinhole as {lens}"] = _run(folder, plain, f"pinhole-{degrees:g}-{seed}")
            runs[lens] = _run(folder, bent, f"{lens}-{seed}")
            runs[f"{lens}, not calibrated"] = _run(folder, bent, f"{lens}-{seed}", is_calibrated=False)
        return runs


class CameraRun(TypedDict):
    """One reconstruction: its ATE after Sim(3) and the true path in metres, its verdict, and whether that warns of the
    lens."""

    seed: int
    ate: float
    path: float
    verdict: str
    warned: bool


def _run(folder: Path, spec: DriveSpec, drive_id: str, *, is_calibrated: bool = True) -> CameraRun:
    sequence = write_drive(spec, str(folder), drive_id)
    output = folder / ("calibrated" if is_calibrated else "without")
    config = RunConfig(
        input=sequence,
        output=str(output),
        preset="city_tiny",
        camera=CameraConfig(file=None if is_calibrated else "none"),
    )
    with Reporter(io.StringIO()) as reporter:
        reconstruct(config, reporter)
    return compared(str(output), drive_id, sequence)


def compared(output: str, drive_id: str, sequence: str) -> CameraRun:
    """Compare a published drive with its truth."""
    estimate = open_estimate(output, drive_id)
    assert estimate.drive is not None
    errors = evaluate(compare(estimate, open_truth(sequence)), with_depth=False).trajectory
    quality = estimate.drive.manifest.quality
    findings = quality.get("findings")
    return {
        "seed": int(drive_id.rpartition("-")[2]),
        "ate": errors.sim3.ate.rmse,
        "path": errors.path_length,
        "verdict": str(quality["verdict"]),
        "warned": isinstance(findings, list) and any(one.get("kind") == "lens" for one in findings),
    }


def _line(runs: dict[str, CameraRun]) -> str:
    return ", ".join(f"{name} {run['ate']:.2f} m{' (lens)' if run['warned'] else ''}" for name, run in runs.items())


def _rows(lens: str, drives: Sequence[dict[str, CameraRun]]) -> tuple[Row, ...]:
    plain_name = f"pinhole as {lens}"
    plain, bent = (np.array([runs[name]["ate"] for runs in drives]) for name in (plain_name, lens))
    ratio = float(np.median(bent) / np.median(plain))
    each = np.sort(bent / plain)
    blind = [runs[f"{lens}, not calibrated"] for runs in drives]
    warned = sum(run["warned"] for run in blind)
    wrongly = sum(runs[name]["warned"] for runs in drives for name in (plain_name, lens))
    count = len(drives)
    return (
        Row(
            f"{lens} against a pinhole as wide",
            f"median ATE {np.median(bent):.2f} m against {np.median(plain):.2f} m: {ratio:.2f} x",
            f"{_RATIO:g} x",
            ratio <= _RATIO,
        ),
        Row("  by drive", f"{each[0]:.2f} to {each[-1]:.2f} x, median {np.median(each):.2f} x"),
        Row(
            "  without calibration, warned of the lens",
            f"{warned} of {count}; median ATE {np.median([run['ate'] for run in blind]):.2f} m",
            "all",
            warned == count,
        ),
        Row("  with, warned of a lens", f"{wrongly} of {2 * count}", "none", wrongly == 0),
    )
