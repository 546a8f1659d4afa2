"""Checkpoints of a training run, from which it can be resumed.

<output>/checkpoints/step-00001000.state.pt     optimizer, weights, their average, step: tensors and plain values
<output>/checkpoints/step-00001000.safetensors  the weights to use (the average, if there is one), with the
configuration

The second file is written last; a state without it is ignored. Both are written under another name first, so that a
full disk or a killed process does not damage the checkpoint before.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import torch

from models import CheckpointError, Reconstructor
from models.checkpoint import save_checkpoint
from pipeline.training.config import TrainConfig
from pipeline.training.trainer import Trainer

_NAME = re.compile(r"^step-(\d{8})\.safetensors$")
_FORMAT = "training-state-1"
_KEPT = 2  # the newest, and the one before in case the newest is broken


def checkpoint_folder(output: Path) -> Path:
    """The folder of a run's checkpoints."""
    return output / "checkpoints"


def newest_checkpoint(output: Path) -> Path | None:
    """The .safetensors file of the newest finished checkpoint; None if there is none."""
    folder = checkpoint_folder(output)
    names = sorted(p.name for p in folder.iterdir() if _NAME.match(p.name)) if folder.is_dir() else []
    return folder / names[-1] if names else None


def save(trainer: Trainer, output: Path, seconds: float) -> Path:
    """Write a checkpoint and remove all but the two newest. Returns the .safetensors file.

    seconds: of training so far. Raises CheckpointError if it cannot be written; earlier checkpoints are then unchanged.
    """
    folder = checkpoint_folder(output)
    name = f"step-{trainer.step:08d}"
    state = folder / f"{name}.state.pt"
    weights = folder / f"{name}.safetensors"
    partial = state.with_name(state.name + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(_state(trainer, seconds), partial)
        partial.replace(state)
        save_checkpoint(averaged_model(trainer), weights, notes=_notes(trainer, seconds))
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        for leftover in (partial, weights.with_name(weights.name + ".partial")):
            leftover.unlink(missing_ok=True)
        if not weights.exists():
            state.unlink(missing_ok=True)
        kept = newest_checkpoint(output)
        raise CheckpointError(
            f"checkpoint of step {trainer.step} cannot be written to {folder}: {_first_line(error)}; "
            f"the last good one is {kept.name if kept else 'none'}: free some space and run again to resume from it"
        ) from error
    _remove_old(folder)
    return weights


def resume(trainer: Trainer, output: Path) -> float:
    """Load the newest checkpoint of a run, if it has one. Returns the seconds trained so far, 0.0 without a checkpoint.

    Raises CheckpointError if the checkpoint belongs to another network or cannot be read.
    """
    newest = newest_checkpoint(output)
    if newest is None:
        return 0.0
    path = newest.with_name(newest.name.replace(".safetensors", ".state.pt"))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's own errors for what is not plain tensors, OSError, EOFError
        raise CheckpointError(f"{path} is not a readable training state: {_first_line(error)}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a training state of this project (expected {_FORMAT})")
    try:
        theirs, ours = dict(json.loads(state["model_config"])), trainer.model.config.to_dict()
        mean, step, seconds = state["mean"], int(state["step"]), float(state["seconds"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a training state of this project: {_first_line(error)}") from error
    if theirs != ours:
        different = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        raise CheckpointError(
            f"{path} is of another network: {', '.join(different)} differ from preset {trainer.config.preset}; "
            "choose another output folder"
        )
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.objective.load_state_dict(state["objective"])
        trainer.load_optimizer(state["optimizer"])
        if trainer.mean is not None and mean is not None:
            trainer.mean = {name: tensor.to(trainer.device) for name, tensor in mean.items()}
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} does not fit this run: {_first_line(error)}") from error
    if trainer.mean is not None and mean is None:
        trainer.mean = {name: p.detach().clone() for name, p in trainer.model.state_dict().items()}
    trainer.step = step
    return seconds


def averaged_model(trainer: Trainer) -> Reconstructor:
    """A new model with the weights to validate and publish, on the trainer's device."""
    model = Reconstructor(trainer.model.config).to(trainer.device)
    model.load_state_dict(trainer.averaged_state())
    return model.eval().requires_grad_(False)


def _state(trainer: Trainer, seconds: float) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "model_config": json.dumps(trainer.model.config.to_dict()),
        "train_config": json.dumps(asdict(trainer.config)),
        "model": trainer.model.state_dict(),
        "mean": trainer.mean,
        "objective": trainer.objective.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "step": trainer.step,
        "seconds": seconds,
    }


def _notes(trainer: Trainer, seconds: float) -> dict[str, str]:
    return {
        "trained_steps": str(trainer.step),
        "trained_seconds": f"{seconds:.0f}",
        "train_config": json.dumps(asdict(trainer.config)),
        "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _remove_old(folder: Path) -> None:
    finished = sorted(p.name for p in folder.iterdir() if _NAME.match(p.name))
    for name in finished[:-_KEPT]:
        (folder / name).unlink(missing_ok=True)  # the marker first
        (folder / name.replace(".safetensors", ".state.pt")).unlink(missing_ok=True)


def settings_json(config: TrainConfig) -> str:
    """The resolved settings as JSON, as stored in the output folder of a run."""
    return json.dumps(asdict(config), indent=1)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
