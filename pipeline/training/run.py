"""A training run, from its start or its last checkpoint to its end, on one worker or many.

Read `train` first: data source, trainer, resume, then steps with metrics, validation and checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from models import CheckpointError, ModelConfig, Reconstructor, open_checkpoint
from pipeline.errors import PipelineError
from pipeline.synthetic import CityDrive
from pipeline.training import checkpoints
from pipeline.training.config import TrainConfig
from pipeline.training.data import Frames, PoolSource, Source
from pipeline.training.metrics import MetricsFile, plot_metrics
from pipeline.training.objective import Objective
from pipeline.training.pool import fill
from pipeline.training.stored_drives import StoredSource
from pipeline.training.trainer import Alone, NotFiniteError, Peers, Trainer, start_near_identity
from pipeline.training.validation import SCOPES, mean_scores, score_drive

FIRST_SEED = 100_000  # of training drives; held-out drives have smaller seeds
_POOL_WAIT_S = 600.0  # the first drive is rendered in seconds, on a busy machine in minutes


_FILES = ("metrics.jsonl", "metrics.png", "final.safetensors", "checkpoints")


class TrainingError(PipelineError):
    """A training run cannot continue; the message says what to do."""


def train(config: TrainConfig, *, peers: Peers | None = None, device: torch.device | None = None) -> Path:
    """Run to the end. Returns the file of the final weights, <output>/final.safetensors (rank 0 writes it).

    peers: communication with the other workers, None: there are none. Raises TrainingError (loss not finite, no data,
    full disk, foreign output folder), CheckpointError, DriveError.
    """
    try:
        return _train(config, peers or Alone(), device)
    except OSError as error:  # from metrics, settings, the plot or the pool; checkpoints raise CheckpointError
        raise TrainingError(
            f"training into {config.output} stopped: {error}; the checkpoints are complete: remove the cause "
            "(is the disk full?) and run again to resume"
        ) from error


def _train(config: TrainConfig, peers: Peers, device: torch.device | None) -> Path:
    device = device or torch.device("cuda" if config.use_gpu else "cpu")
    output = Path(config.output)
    first = peers.rank == 0
    if first:
        refuse_foreign_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    if first:
        (output / "config.json").write_text(checkpoints.settings_json(config))
    with _renderers(config, output, active=first):
        trainer = make_trainer(config, open_source(config, output), peers, device)
        trained = checkpoints.resume(trainer, output)
        _wait_for_data(trainer.source)
        _train_steps(trainer, output, trained)
    if first:
        return _finish(trainer, output)
    return output / "final.safetensors"


def refuse_foreign_folder(output: Path) -> None:
    """Raises TrainingError if training could replace files that are not a training run's: a run writes its settings to
    config.json first, and no other folder may contain files with the names that a run uses."""
    settings = output / "config.json"
    if settings.exists():
        try:
            values = json.loads(settings.read_text())
        except (ValueError, RecursionError):
            values = None
        known = {field.name for field in fields(TrainConfig)}
        if isinstance(values, dict) and 2 * len(known & set(values)) > len(known):  # versions differ in some settings
            return
        taken = [settings]
    else:
        taken = [output / name for name in _FILES if (output / name).exists()]
    if taken:
        raise TrainingError(f"{taken[0]} is not of a training run of this program: choose another --output, or move it")


def make_trainer(config: TrainConfig, source: Source, peers: Peers, device: torch.device) -> Trainer:
    """Network (random, or from `weights`), objective and optimizer; equal on all workers."""
    torch.manual_seed(config.seed)
    model_config = ModelConfig.preset(config.preset)
    if config.weights is None:
        model = Reconstructor(model_config)
        start_near_identity(model)
    else:
        model = open_checkpoint(config.weights, model_config).requires_grad_(True).train()
    if not config.loss.points:
        model.point_head.requires_grad_(False)
    objective = Objective(model_config.embed_dim, model_config.patch_size, config.loss)
    return Trainer(config, model.to(device), objective.to(device), source, peers)


def open_source(config: TrainConfig, output: Path) -> Source:
    """The drives to train on."""
    if config.data:
        network = ModelConfig.preset(config.preset)
        return StoredSource(
            config.data, width=network.image_size, patch=network.patch_size, least_frames=config.batch.longest
        )
    return PoolSource(_pool_folder(config, output))


def _pool_folder(config: TrainConfig, output: Path) -> Path:
    return Path(config.pool) if config.pool else output / "pool"


@contextlib.contextmanager
def _renderers(config: TrainConfig, output: Path, *, active: bool) -> Iterator[None]:
    """Background processes that fill the pool; they are ended on leaving."""
    processes = []
    if active and not config.data:
        spawn = multiprocessing.get_context("spawn")
        for number in range(config.renderers):
            arguments = (
                str(_pool_folder(config, output)),
                FIRST_SEED + number,
                config.renderers,
                config.pool_drives - number,
                config.city,
                os.getpid(),
            )
            process = spawn.Process(target=fill, args=arguments, daemon=True)
            process.start()
            processes.append(process)
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _wait_for_data(source: Source) -> None:
    deadline = time.monotonic() + _POOL_WAIT_S
    while not source.drives():
        if time.monotonic() > deadline:
            raise TrainingError(
                "there is no drive to train on: the pool is empty and no process renders (see renderers, pool, data)"
            )
        time.sleep(0.2)


def _train_steps(trainer: Trainer, output: Path, trained: float) -> None:
    """All steps of the run, with metrics, checkpoints and validation between them."""
    config, first = trainer.config, trainer.peers.rank == 0
    metrics = MetricsFile(output) if first else None
    if metrics:
        metrics.forget_after(trainer.step)
    held_out = validation_drives(config) if first else []
    begin = time.monotonic() - trained
    seen: list[dict[str, float]] = []
    frames = 0
    while True:
        # all workers use the smallest progress, so that they end after the same step
        progress = _progress(trainer, time.monotonic() - begin)
        if progress >= 1:
            break
        plan = trainer.plan()
        try:
            seen.append(trainer.advance(progress))
        except NotFiniteError as error:
            raise TrainingError(_keep_bad_batch(error, output, trainer.peers.rank)) from error
        frames += plan.length * plan.chunks * trainer.peers.world
        if metrics and trainer.step % config.log_every == 0:
            seconds = time.monotonic() - begin
            rate = max(group["lr"] for group in trainer.optimizer.param_groups)
            metrics.write(
                {
                    "kind": "train",
                    "step": trainer.step,
                    "seconds": round(seconds, 1),
                    "frames": frames,
                    **_means(seen),
                    "rate": rate,
                }
            )
            seen, frames = [], 0
        if first and trainer.step % config.save_every == 0:
            checkpoints.save(trainer, output, time.monotonic() - begin)
        if metrics and held_out and trainer.step % config.validation.every == 0:
            validate(trainer, held_out, metrics)
    if first and checkpoints.newest_checkpoint(output) != _checkpoint_of(output, trainer.step):
        checkpoints.save(trainer, output, time.monotonic() - begin)
    if metrics and held_out and trainer.step % config.validation.every:
        validate(trainer, held_out, metrics)


def _checkpoint_of(output: Path, step: int) -> Path:
    return checkpoints.checkpoint_folder(output) / f"step-{step:08d}.safetensors"


def _progress(trainer: Trainer, seconds: float) -> float:
    config = trainer.config
    progress = trainer.step / config.steps
    if config.minutes is not None:
        permille = trainer.peers.least(int(1000 * seconds / 60 / config.minutes))
        progress = max(progress, permille / 1000)
    return progress


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each value over the steps that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {n: float(np.mean([row[n] for row in rows if n in row])) for n in names}


def _keep_bad_batch(error: NotFiniteError, output: Path, rank: int) -> str:
    path = output / f"not-finite-step-{error.step:08d}-rank-{rank}.pt"
    kept = f"the batch is in {path}"
    try:
        torch.save({"step": error.step, "parts": error.parts, "batch": error.batch.state()}, path)
    except (OSError, RuntimeError) as full:  # torch.save turns a full disk into a RuntimeError
        path.unlink(missing_ok=True)
        kept = f"the batch could not be written ({str(full).splitlines()[0]})"
    return f"{error}; {kept}; the last checkpoint is good: lower the rates, or inspect the batch"


def validation_drives(config: TrainConfig) -> list[Frames]:
    """The held-out drives, rendered with four rays per pixel like stored drives."""
    settings = config.validation
    drives = []
    for seed in range(settings.first_seed, settings.first_seed + settings.drives):
        rendered = CityDrive(seed, settings.frames, config.city.height, config.city.width, supersample=2).render(
            range(settings.frames)
        )
        drives.append(Frames(rendered.images, rendered.depth, rendered.world_from_camera, rendered.intrinsics))
    return drives


def validate(trainer: Trainer, drives: list[Frames], metrics: MetricsFile) -> dict[str, dict[str, float]]:
    """Mean scores over drives, for each scope of the memories (all chunks, each chunk alone, none); also written to the
    metrics."""
    model = checkpoints.averaged_model(trainer)
    results = {}
    for name, scope in SCOPES.items():
        scores = [score_drive(model, drive, trainer.config.validation, scope) for drive in drives]
        results[name] = mean_scores(scores)
        metrics.write({"kind": "validation", "step": trainer.step, "scope": name, **results[name]})
    return results


def _finish(trainer: Trainer, output: Path) -> Path:
    final = output / "final.safetensors"
    newest = checkpoints.newest_checkpoint(output)
    if newest is None:
        raise CheckpointError(f"{output}: the run ended without a checkpoint")
    partial = final.with_name(final.name + ".partial")
    partial.write_bytes(newest.read_bytes())
    partial.replace(final)
    metrics = output / "metrics.jsonl"
    if metrics.exists():
        plot_metrics(metrics, output / "metrics.png")
    return final
