"""Accuracy of a network on rendered drives that were not used in training, with and without its memories; no loops."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch

from models import Reconstructor, open_checkpoint
from models.config import WEIGHTS_FOLDER
from pipeline.benchmark.report import Measured, Row
from pipeline.evaluation.turns import find_turns, turn_errors
from pipeline.ingest.chunks import plan_chunks
from pipeline.synthetic import CityDrive
from pipeline.training.config import ValidationSettings
from pipeline.training.data import Frames
from pipeline.training.run import FIRST_SEED
from pipeline.training.validation import SCOPES, DriveScore, compare, join_drive

_TARGET_ATE, _TARGET_TURN, _TARGET_DEPTH = 2.0, 10.0, 0.12
_FIELDS = ("images", "depth", "world_from_camera", "intrinsics")
_ROUTE_FRAMES = 1200  # the route depends on its number of frames, so all drives are planned with as many


@dataclass(frozen=True)
class AccuracyBenchmark:
    """Held-out drives, reconstructed by `Reconstructor.forward_drive` and joined with the defaults of
    `jobs.reconstruct`."""

    weights: str | None = None
    """Checkpoint; None: the one that comes with the project. Its chunk size and overlap are used."""
    drives: int = 10
    """Number of drives."""
    frames: int = 400
    """Frames of each, the first ones of a route of 1,200."""
    first_seed: int = 800
    """First seed; seeds whose drives have too few turns are skipped. Training used seeds from 100,000."""
    turns: int = 1
    """Turns of 60 degrees or more that a drive must have."""
    ablation: bool = False
    """Also measure with a separate memory for each chunk (without GCS) and without memories (without GCM); this takes
    three times as long."""
    supersample: int = 2
    """A pixel's colour is the mean of this number squared of rays: 2 as in stored drives, 1 renders four times as
    fast."""
    cache: str | None = None
    """Folder in which rendered drives are kept for later runs."""
    height: int = 64
    """Height of the rendered frames."""
    width: int = 128
    """Width of the rendered frames."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name, least in (("drives", 1), ("frames", 2), ("first_seed", 0), ("turns", 0), ("supersample", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"accuracy.{name} must be at least {least}, not {getattr(self, name)}")
        if self.frames > _ROUTE_FRAMES:
            raise ValueError(f"accuracy.frames must be at most {_ROUTE_FRAMES}, not {self.frames}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Reconstruct and compare drive by drive. Raises ValueError if too few drives have enough turns."""
        model = open_checkpoint(self.weights or str(WEIGHTS_FOLDER / "city_tiny.safetensors"))
        settings = ValidationSettings(chunk=model.config.chunk_size, overlap=model.config.chunk_overlap)
        scopes = list(SCOPES) if self.ablation else ["full"]
        drives: list[_DriveScores] = []
        for seed, drive in self._chosen():
            truth = self._truth(seed, drive)
            found = {scope: score(model, truth, settings, scope) for scope in scopes}
            drives.append({"seed": seed, "scores": found})
            ate = ", ".join(f"{scope} {found[scope]['ate_percent']:.2f}" for scope in scopes)
            say(
                f"accuracy: drive {len(drives)} of {self.drives}, seed {seed}: "
                f"ATE % {ate}; depth {found['full']['abs_rel']:.3f}"
            )
        summary = {scope: summed([d["scores"][scope] for d in drives]) for scope in scopes}
        values = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "chunk": settings.chunk,
            "chunks_a_drive": len(plan_chunks(self.frames, settings.chunk, settings.overlap)),
            "summary": summary,
            "drives": drives,
        }
        return Measured(values, tuple(_rows(summary, [d["scores"] for d in drives])))

    def _truth(self, seed: int, drive: CityDrive) -> Frames:
        """The first frames of a drive, from the cache if they are in it."""
        name = f"{seed}-{self.frames}x{self.height}x{self.width}x{self.supersample}-focal-{drive.focal:.3f}.npz"
        kept = Path(self.cache) / name if self.cache else None
        if kept is not None and kept.exists():
            with np.load(kept) as arrays:
                return Frames(*(arrays[field] for field in _FIELDS))
        rendered = drive.render(range(self.frames))
        truth = Frames(rendered.images, rendered.depth, rendered.world_from_camera, rendered.intrinsics)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_name(f".{os.getpid()}-{name}")
            np.savez(partial, **{field: getattr(truth, field) for field in _FIELDS})
            partial.replace(kept)
        return truth

    def _chosen(self) -> Iterator[tuple[int, CityDrive]]:
        count = 0
        for seed in range(self.first_seed, FIRST_SEED):
            drive = CityDrive(seed, _ROUTE_FRAMES, self.height, self.width, supersample=self.supersample)
            if len(find_turns(drive.world_from_camera[: self.frames])) < self.turns:
                continue
            yield seed, drive
            count += 1
            if count == self.drives:
                return
        raise ValueError(
            f"accuracy: {count} of {self.drives} drives of {self.frames} frames from seed {self.first_seed} on "
            f"have {self.turns} turns: set accuracy.turns lower"
        )


class _Score(TypedDict):
    """One drive with one scope of the memories: figures of DriveScore, the length of its path, and its turns."""

    ate_percent: float
    abs_rel: float
    path_metres: float
    turns: list[dict[str, float]]


class _DriveScores(TypedDict):
    """One drive: its scores by scope."""

    seed: int
    scores: dict[str, _Score]


class _Summary(TypedDict):
    """Over all drives of one scope."""

    ate_percent_median: float
    ate_percent_mean: float
    ate_percent_range: list[float]
    abs_rel_mean: float
    abs_rel_range: list[float]
    turns: int
    turn_error_median: float | None
    turn_error_largest: float | None


def score(model: Reconstructor, truth: Frames, settings: ValidationSettings, scope: str) -> _Score:
    """One drive's errors with one scope of the memories; scores that are not defined for the drive are None."""
    with torch.no_grad():
        poses, depth = join_drive(model, truth, settings, SCOPES[scope])
    values: DriveScore = compare(poses, depth, truth)
    turns = turn_errors(poses, truth.world_from_camera, np.arange(len(poses)))
    path = float(np.linalg.norm(np.diff(truth.world_from_camera[:, :3, 3], axis=0), axis=1).sum())
    plain = {name: value if isfinite(value) else None for name, value in asdict(values).items()}
    return cast(_Score, {**plain, "path_metres": path, "turns": [asdict(turn) for turn in turns]})


def summed(scores: Sequence[_Score]) -> _Summary:
    """Median, mean and range over drives; median and largest error over all their turns."""
    ate, depth = (np.array([s[name] for s in scores]) for name in ("ate_percent", "abs_rel"))
    errors = np.array([turn["error"] for s in scores for turn in s["turns"]])
    return {
        "ate_percent_median": float(np.median(ate)),
        "ate_percent_mean": float(ate.mean()),
        "ate_percent_range": [float(ate.min()), float(ate.max())],
        "abs_rel_mean": float(depth.mean()),
        "abs_rel_range": [float(depth.min()), float(depth.max())],
        "turns": len(errors),
        "turn_error_median": float(np.median(errors)) if len(errors) else None,
        "turn_error_largest": float(errors.max()) if len(errors) else None,
    }


def _rows(summary: dict[str, _Summary], drives: Sequence[dict[str, _Score]]) -> Iterator[Row]:
    full = summary["full"]
    ate, depth = full["ate_percent_median"], full["abs_rel_mean"]
    low, high = full["ate_percent_range"]
    yield Row(
        "ATE after Sim(3), median",
        f"{ate:.2f} % of the path (mean {full['ate_percent_mean']:.2f}, {low:.2f} to {high:.2f})",
        f"{_TARGET_ATE:g} %",
        ate <= _TARGET_ATE,
    )
    turn = full["turn_error_median"]
    if turn is not None:
        yield Row(
            "rotation over a turn, median",
            f"{turn:.1f} degrees (largest {full['turn_error_largest']:.1f}, {full['turns']} turns)",
            f"{_TARGET_TURN:g} degrees",
            turn <= _TARGET_TURN,
        )
    low, high = full["abs_rel_range"]
    yield Row(
        "depth abs-rel, mean", f"{depth:.3f} ({low:.3f} to {high:.3f})", f"{_TARGET_DEPTH:g}", depth <= _TARGET_DEPTH
    )
    for scope, values in summary.items():
        if scope == "full":
            continue
        wins = sum(d["full"]["ate_percent"] <= d[scope]["ate_percent"] for d in drives)
        yield Row(
            f"{scope}: ATE, depth",
            f"{values['ate_percent_median']:.2f} % (mean {values['ate_percent_mean']:.2f}), "
            f"{values['abs_rel_mean']:.3f}; full is ahead on {wins} of {len(drives)} drives",
            "not below full",
            values["ate_percent_median"] >= ate,
        )
