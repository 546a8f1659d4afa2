"""Measures the gain of refinement: rendered drives with and without it, and faults that the verdict must notice.

Every drive is rendered, reconstructed once with its calib.txt, then joined and published twice from the same
predictions: without and with refinement. The faults are put into copies of those predictions (one chunk turned, one
chunk with longer steps, random poses and depth) or into the calibration, and go the same way.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.backend import Verdict
from pipeline.benchmark.report import Measured, Row
from pipeline.cameras.camera import Camera
from pipeline.cameras.known_camera import KnownCamera
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job
from pipeline.config import RunConfig
from pipeline.evaluation import compare, evaluate, open_estimate, open_truth
from pipeline.finish import join_and_publish
from pipeline.forward.staging import STAGING_FOLDER, ChunkPrediction, attempt_uri, read_chunk, write_chunk
from pipeline.reconstruct import reconstruct
from pipeline.refine.tracks import Picture, track_pictures
from pipeline.staged_drive import StagedDrive, has_staged_drive, read_staged_drive
from pipeline.synthetic import DriveSpec, TrueDrive, read_drive, write_drive

Fault = Literal["random", "turned", "scaled", "focal"]
_FAULTS: tuple[Fault, ...] = get_args(Fault)
_TURN, _SCALE, _FOCAL = np.radians(3.0), 1.2, 1.3
_APART, _LEAST = 10, 3.0  # frames, and least metres, of a step whose length is compared
_KITTI_WIDTH, _TIMED_FRAMES = 1226, 40  # width and number of the pictures with which tracking is timed
_T = TypeVar("_T")
_GOOD = 1.0  # % of the path: if the ATE is below this in spite of a fault, the verdict may pass
_ATE, _WORSE, _DRIFT, _DEPTH, _COST = 0.50, 1.1, 1.10, 8.0, 0.15


@dataclass(frozen=True)
class RefinementBenchmark:
    """Rendered drives with and without refinement, and with faults. Exit code 1 where a target is missed."""

    drives: int = 10
    """Number of drives."""
    frames: int = 300
    """Frames of each drive."""
    seed: int = 1_000_100
    """Seed of the first drive."""
    faulty: int = 5
    """Number of drives into which faults are put, every fault into each of them."""
    supersample: int = 2
    """A pixel's colour is the mean of this number squared of rays."""
    folder: str | None = None
    """Folder in which rendered drives and figures are kept and reused, figures of an older version too (remove
    `figures` in it to measure again); by default a temporary folder."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name, least in (("drives", 1), ("frames", 30), ("seed", 0), ("faulty", 0), ("supersample", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"refine.{name} must be at least {least}, not {getattr(self, name)}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Render, reconstruct and compare all drives."""
        drives: list[_Drive] = []
        faults: list[_Faulty] = []
        with tempfile.TemporaryDirectory(prefix="refinement-") as scratch:
            folder = Path(self.folder or scratch).absolute()
            for number in range(self.drives):
                spec = DriveSpec(self.seed + number, self.frames, supersample=self.supersample)
                truth = read_drive(write_drive(spec, str(folder), f"{number:02d}"))
                self._predicted(folder, truth)
                drives.append(kept(folder, f"{truth.drive_id}-good", partial(_compared, folder, truth)))
                say(_line(drives[-1]))
            for number in range(min(self.faulty, self.drives)):
                truth = read_drive(str(folder), f"{number:02d}")
                for fault in _FAULTS:
                    faults += kept(folder, f"{truth.drive_id}-{fault}", partial(_with_fault, folder, truth, fault))
                    say("; ".join(_fault_line(one) for one in faults[-2:]))
        values = {"drives": drives, "faults": faults}
        return Measured(values, tuple(_rows(drives, faults)), must=True)

    def _predicted(self, folder: Path, truth: TrueDrive) -> None:
        """Reconstruct the drive once, and keep its predictions and tracks."""
        if has_staged_drive(str(folder / "out"), truth.drive_id):
            return
        source = storage.join(str(folder), "sequences", truth.drive_id)
        config = RunConfig(input=source, output=str(folder / "out"), keep_predictions=True, refine=False, loops=False)
        with Reporter(io.StringIO()) as reporter, ray_for_one_job():
            reconstruct(config, reporter)


class _Run(TypedDict):
    """One way to join a drive. ate: % of the path; rotation: degrees a frame (root mean square); drift: largest over
    smallest ratio of steps over 10 frames to the true ones; depth: mean relative error of published points, %."""

    ate: float
    rotation: float
    drift: float
    depth: float
    verdict: str
    reasons: list[str]


class _Drive(TypedDict):
    """The runs of one drive without and with refinement. track_seconds, refine_seconds: CPU seconds a frame for
    tracking (at KITTI's size) and for refining (at the rendered size)."""

    drive: str
    plain: _Run
    refined: _Run
    track_seconds: float
    refine_seconds: float


class _Faulty(TypedDict):
    drive: str
    fault: Fault
    refine: bool
    verdict: str
    ate: float
    reasons: list[str]


def kept(folder: Path, name: str, measure: Callable[[], _T]) -> _T:
    """The figures that an earlier run stored under a name, or else those of `measure`, which are stored."""
    path = folder / "figures" / f"{name}.json"
    found: _T
    if path.exists():
        found = json.loads(path.read_bytes())
        return found
    found = measure()
    storage.write_bytes_atomically(str(path), json.dumps(found, indent=1).encode())
    return found


def _compared(folder: Path, truth: TrueDrive) -> _Drive:
    """Join and publish a drive without and with refinement."""
    staged, config = read_staged_drive(str(folder / "out"), truth.drive_id)
    plain, _ = _joined(staged, replace(config, refine=False), folder / "out", truth)
    refined, seconds = _joined(staged, replace(config, refine=True), folder / "out", truth)
    return {
        "drive": truth.drive_id,
        "plain": plain,
        "refined": refined,
        "track_seconds": _track_seconds(truth),
        "refine_seconds": seconds / len(staged.kept),
    }


def _joined(
    staged: StagedDrive, config: RunConfig, output: Path, truth: TrueDrive, *, depth: bool = True
) -> tuple[_Run, float]:
    """Join a staged drive; returns its figures and the CPU seconds of its refinement, which runs in this process."""
    with _Timed() as reporter:
        settings = replace(config, overwrite=True, publish=replace(config.publish, with_points=depth))
        verdict = join_and_publish(staged, settings, str(output), reporter, lambda: None).verdict
    assert verdict is not None
    return _figures(output, truth, verdict, depth), reporter.refine_seconds


class _Timed(Reporter):
    """Measures the CPU seconds from its creation to the end of refinement."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self._begin = time.process_time()
        self.refine_seconds = 0.0

    def advance(self, stage: str, count: int, total: int | None, unit: str) -> None:
        """See Reporter.advance."""
        if stage == "refine":
            self.refine_seconds = time.process_time() - self._begin
        super().advance(stage, count, total, unit)


def _figures(output: Path, truth: TrueDrive, verdict: Verdict, depth: bool) -> _Run:
    sequence, _ = storage.parent_and_name(storage.parent_and_name(truth.image_uris[0])[0])
    comparison = compare(open_estimate(str(output), truth.drive_id), open_truth(sequence))
    found = evaluate(comparison, with_depth=depth)
    estimate, true = (poses[:, :3, 3] for poses in (comparison.estimated_poses, comparison.true_poses))
    errors = found.trajectory.sim3
    return {
        "ate": errors.ate.percent,
        "rotation": errors.rpe.over_1_frame.rotation_rmse or 0.0,
        "drift": drift_of_scale(estimate, true),
        "depth": 100 * found.depth.abs_rel if found.depth is not None else float("nan"),
        "verdict": verdict.level,
        "reasons": [f"{one.level}: {one.reason}" for one in verdict.findings],
    }


def drift_of_scale(estimate: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Largest over smallest ratio of steps over 10 frames, of positions (N, 3), to true ones of at least 3 m; 1 where
    there are none."""
    step, true_step = (np.linalg.norm(one[_APART:] - one[:-_APART], axis=1) for one in (estimate, true))
    ratio = step[true_step > _LEAST] / true_step[true_step > _LEAST]
    return float(ratio.max() / ratio.min()) if len(ratio) else 1.0


def _track_seconds(truth: TrueDrive) -> float:
    """CPU seconds of tracking for each frame, on the drive's first pictures, enlarged to KITTI's width."""
    grey = [
        cv2.cvtColor(truth.image(frame), cv2.COLOR_RGB2GRAY)
        for frame in range(min(_TIMED_FRAMES, len(truth.image_uris)))
    ]
    factor = _KITTI_WIDTH / grey[0].shape[1]
    large = [np.asarray(cv2.resize(one, None, fx=factor, fy=factor), np.uint8) for one in grey]
    cv2.setNumThreads(1)
    begin = time.process_time()
    track_pictures([Picture.of(one) for one in large])
    return (time.process_time() - begin) / len(large)


def _with_fault(folder: Path, truth: TrueDrive, fault: Fault) -> list[_Faulty]:
    """Put a fault into a copy of the predictions, and join it without and with refinement."""
    found: list[_Faulty] = []
    output = folder / f"fault-{fault}"
    staged, config = _spoilt(folder / "out", output, truth, fault)
    for refine in (False, True):
        run, _ = _joined(staged, replace(config, refine=refine), output, truth, depth=False)
        found.append(
            {
                "drive": truth.drive_id,
                "fault": fault,
                "refine": refine,
                "verdict": run["verdict"],
                "ate": run["ate"],
                "reasons": run["reasons"],
            }
        )
    shutil.rmtree(output)
    return found


def _spoilt(good: Path, output: Path, truth: TrueDrive, fault: Fault) -> tuple[StagedDrive, RunConfig]:
    """The staged drive copied to `output` with a fault in it."""
    drive_id = truth.drive_id
    focal, centre = np.diag(truth.intrinsics)[:2], truth.intrinsics[:2, 2].tolist()
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(good / STAGING_FOLDER / drive_id, output / STAGING_FOLDER / drive_id)
    staged, config = read_staged_drive(str(output), drive_id)
    folder = attempt_uri(str(output), drive_id, staged.attempt)
    for refined in Path(folder).glob("refined-*"):
        refined.unlink()
    rng = np.random.default_rng(0)
    middle = staged.chunk_count // 2
    if fault == "focal":
        camera = Camera(
            "pinhole", staged.facts.source_width, staged.facts.source_height, *(_FOCAL * focal).tolist(), *centre
        )
        seen = staged.facts.network_camera
        seen = None if seen is None else replace(seen, fx=_FOCAL * seen.fx, fy=_FOCAL * seen.fy)
        wrong = replace(staged.facts, camera=KnownCamera(camera, "calibration"), network_camera=seen)
        return replace(staged, facts=wrong), config
    for number in range(staged.chunk_count) if fault == "random" else [middle]:
        write_chunk(folder, number, spoil_chunk(read_chunk(folder, number), fault, rng))
    return staged, config


def spoil_chunk(chunk: ChunkPrediction, fault: Fault, rng: np.random.Generator) -> ChunkPrediction:
    """A chunk with a fault. random: poses and depth as from an untrained network; turned: its cameras are rotated by 3
    degrees; scaled: its steps are 1.2 times as long, and its depth is unchanged."""
    poses = np.array(chunk.cam_from_world)
    if fault == "scaled":
        poses[:, :, 3] *= _SCALE
    elif fault == "turned":
        cosine, sine = np.cos(_TURN), np.sin(_TURN)
        aside = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], np.float32)
        poses = aside @ poses
    else:
        poses[:, :, 3] = np.cumsum(rng.normal(0, 0.05, (len(poses), 3)), axis=0)
        turn, _ = np.linalg.qr(np.eye(3) + 0.05 * rng.normal(size=(len(poses), 3, 3)))
        poses[:, :, :3] = turn * np.sign(np.einsum("nii->ni", turn))[:, None, :]
        noise = rng.normal(0, 0.5, (*chunk.depth.shape[:1], 1, 1)) + rng.normal(0, 0.3, chunk.depth.shape)
        return replace(chunk, cam_from_world=poses, depth=np.exp(noise).astype(np.float32))
    return replace(chunk, cam_from_world=poses)


def _line(drive: _Drive) -> str:
    def words(run: _Run) -> str:
        return (
            f"ATE {run['ate']:.2f} %, {run['rotation']:.3f} deg a frame, drift {run['drift']:.2f}, "
            f"depth {run['depth']:.1f} %, {run['verdict']}"
        )

    return f"drive {drive['drive']}: {words(drive['plain'])} -> {words(drive['refined'])}"


def _fault_line(run: _Faulty) -> str:
    how = "refined" if run["refine"] else "as it is"
    return f"drive {run['drive']}, {run['fault']}, {how}: {run['verdict']}, ATE {run['ate']:.2f} %"


def _rows(drives: Sequence[_Drive], faults: Sequence[_Faulty]) -> list[Row]:
    plain, refined = [one["plain"] for one in drives], [one["refined"] for one in drives]

    def median(runs: Sequence[_Run], name: Literal["ate", "rotation", "drift", "depth"]) -> float:
        return float(np.median([run[name] for run in runs]))

    def both(name: Literal["ate", "rotation", "drift", "depth"], form: str) -> str:
        return f"{form.format(median(plain, name))} -> {form.format(median(refined, name))}"

    worse = max(after["ate"] / max(before["ate"], 1e-9) for before, after in zip(plain, refined, strict=True))
    warned = sum(run["verdict"] != "pass" for run in refined)
    allowed = max(len(drives) // 20, 1)
    track, refine = (float(np.median([one[name] for one in drives])) for name in ("track_seconds", "refine_seconds"))
    rows = [
        Row("ATE, median", both("ate", "{:.2f}") + " % of the path", f"{_ATE:.2f}", median(refined, "ate") <= _ATE),
        Row("worst drive, refined over not", f"{worse:.2f}", f"{_WORSE}", worse <= _WORSE),
        Row("rotation, median", both("rotation", "{:.3f}") + " degrees a frame"),
        Row("drift of scale, median", both("drift", "{:.2f}"), f"{_DRIFT:.2f}", median(refined, "drift") <= _DRIFT),
        Row(
            "depth of published points, median",
            both("depth", "{:.1f}") + " %",
            f"{_DEPTH}",
            median(refined, "depth") <= _DEPTH,
        ),
        Row("good drives that warn or fail", f"{warned} of {len(drives)}", f"{allowed}", warned <= allowed),
        Row(
            "CPU seconds a frame, tracks at KITTI's size and windows",
            f"{track:.3f} + {refine:.3f}",
            f"{_COST}",
            track + refine <= _COST,
        ),
    ]
    return rows + [_fault_row(fault, faults) for fault in _FAULTS if faults]


def _fault_row(fault: Fault, faults: Sequence[Mapping[str, object]]) -> Row:
    mine = [one for one in faults if one["fault"] == fault]
    passed = [one for one in mine if one["verdict"] == "pass"]
    harmless = [one for one in passed if isinstance(one["ate"], float) and one["ate"] < _GOOD]
    value = f"{len(passed)} of {len(mine)}, {len(harmless)} of them with an ATE below {_GOOD:.0f} %"
    return Row(f"fault {fault}: passes", value, "0 but for those", len(passed) == len(harmless))
