"""Checkpoints: a resumed run continues exactly, foreign files are refused, a full disk spares the last checkpoint."""

import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from models import CheckpointError, Reconstructor, open_checkpoint
from pipeline.training import checkpoints
from pipeline.training.config import BatchSettings, OptimizerSettings, TrainConfig
from pipeline.training.objective import LossWeights, Objective
from pipeline.training.trainer import Trainer
from tests.training.makers import SMALL, WallSource


def small_trainer(**changes):
    torch.manual_seed(0)
    model_config = changes.pop("model", SMALL)
    config = TrainConfig(
        output="unused",
        steps=8,
        batch=BatchSettings(frames=8, longest=4),
        loss=LossWeights(steps=0.5),
        optimizer=OptimizerSettings(warmup=2, memory_rate=1e-3, backbone_rate=1e-3, average=0.9),
        **changes,
    )
    objective = Objective(model_config.embed_dim, model_config.patch_size, config.loss)
    return Trainer(config, Reconstructor(model_config), objective, WallSource())


def test_a_resumed_run_gives_the_same_result_as_an_uninterrupted_one(tmp_path):
    whole = small_trainer()
    for step in range(8):
        whole.advance(step / 8)
    first = small_trainer()
    for step in range(5):
        first.advance(step / 8)
    checkpoints.save(first, tmp_path, 12.5)
    second = small_trainer()
    assert checkpoints.resume(second, tmp_path) == 12.5 and second.step == 5
    for step in range(5, 8):
        second.advance(step / 8)
    for name, tensor in whole.averaged_state().items():
        assert torch.equal(tensor, second.averaged_state()[name]), name
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_the_saved_weights_open_as_a_network_and_are_the_average(tmp_path):
    trainer = small_trainer()
    for step in range(4):
        trainer.advance(step / 8)
    model = open_checkpoint(checkpoints.save(trainer, tmp_path, 1.0))
    assert model.config == SMALL
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in trainer.averaged_state().items())
    assert not all(torch.equal(state[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_only_the_two_newest_checkpoints_are_kept(tmp_path):
    trainer = small_trainer()
    for step in range(4):
        trainer.advance(step / 8)
        checkpoints.save(trainer, tmp_path, 1.0)
    names = sorted(p.name for p in checkpoints.checkpoint_folder(tmp_path).iterdir())
    assert names == [f"step-0000000{n}.{end}" for n in (3, 4) for end in ("safetensors", "state.pt")]


def test_a_state_without_its_weights_is_ignored(tmp_path):
    trainer = small_trainer()
    checkpoints.save(trainer, tmp_path, 1.0)
    trainer.advance(0.0)
    checkpoints.save(trainer, tmp_path, 2.0)
    (checkpoints.checkpoint_folder(tmp_path) / "step-00000001.safetensors").unlink()  # killed before the last write
    other = small_trainer()
    assert checkpoints.resume(other, tmp_path) == 1.0 and other.step == 0


def test_a_run_of_another_network_is_refused_with_the_difference(tmp_path):
    checkpoints.save(small_trainer(), tmp_path, 1.0)
    with pytest.raises(CheckpointError, match=r"of another network: memory_layers, register_tokens differ"):
        checkpoints.resume(small_trainer(model=replace(SMALL, memory_layers=(2,), register_tokens=2)), tmp_path)


def test_a_state_of_another_program_or_a_damaged_state_is_refused(tmp_path):
    checkpoints.save(small_trainer(), tmp_path, 1.0)
    state = checkpoints.checkpoint_folder(tmp_path) / "step-00000000.state.pt"
    torch.save({"model": {}}, state)
    with pytest.raises(CheckpointError, match="not a training state of this project"):
        checkpoints.resume(small_trainer(), tmp_path)
    state.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a readable training state"):
        checkpoints.resume(small_trainer(), tmp_path)


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from models import CheckpointError
from pipeline.training import checkpoints
from tests.training.test_checkpoints import small_trainer
trainer = small_trainer()
checkpoints.save(trainer, Path(sys.argv[1]), 1.0)
trainer.advance(0.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    checkpoints.save(trainer, Path(sys.argv[1]), 2.0)
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, share):
    """The kernel refuses to write past a limit, in the middle of the state (0.1) or of the weights (0.5)."""
    trainer = small_trainer()
    reference = checkpoints.save(trainer, tmp_path / "size", 1.0)
    weights = reference.stat().st_size
    limit = weights // 2 if share == 0.1 else weights + 10_000
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path / "run"), str(limit)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be written" in done.stdout and "step-00000000.safetensors" in done.stdout, done.stderr
    assert "last good one" in done.stdout
    names = sorted(p.name for p in checkpoints.checkpoint_folder(tmp_path / "run").iterdir())
    assert names == ["step-00000000.safetensors", "step-00000000.state.pt"]
    again = small_trainer()
    assert checkpoints.resume(again, tmp_path / "run") == 1.0
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
