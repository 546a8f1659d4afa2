"""Saving a network: the configuration is stored with the weights, and a file is complete or absent."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import CheckpointError, ModelConfig, Reconstructor, open_checkpoint
from models.checkpoint import published_state, save_checkpoint
from tests.models.checkpoints import REPOSITORY, assert_holds, write
from tests.models.golden import TINY


def test_a_saved_model_opens_as_it_was_with_its_own_configuration(tiny, state, tmp_path):
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path, notes={"trained_on": "nothing"})
    model = open_checkpoint(path)
    assert model.config == TINY
    assert_holds(model, state)
    assert [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]
    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    found, expected = (m.forward_drive(images, [[0, 1, 2]])[0].depth for m in (model, tiny))
    # The tensors are equal (above). Those of a mapped file are aligned differently, so MKL may sum in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_notes_are_kept_beside_the_configuration(tiny, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path, notes={"trained_on": "nothing"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["trained_on"] == "nothing"
    assert ModelConfig.from_dict(json.loads(metadata["model_config"])) == TINY


def test_a_model_in_bfloat16_is_saved_in_float32(state, tmp_path):
    path = tmp_path / "own.safetensors"
    first = open_checkpoint(write(state, tmp_path / "weights.pt"), TINY, dtype=torch.bfloat16)
    save_checkpoint(first, path)
    assert {t.dtype for t in load_file(path).values()} == {torch.float32}
    assert_holds(open_checkpoint(path, dtype=torch.bfloat16), published_state(first))


def test_a_given_configuration_replaces_that_of_the_file(tiny, tmp_path):
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        open_checkpoint(path, replace(TINY, dense_features=64))


def test_saving_over_a_file_leaves_a_model_that_is_mapped_from_it_as_it_was(tiny, state, tmp_path):
    """The new file takes the name; the old file's pages exist as long as a model is mapped from them."""
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path)
    mapped = open_checkpoint(path)
    torch.manual_seed(0)
    other = Reconstructor(TINY)
    save_checkpoint(other, path)
    assert_holds(mapped, state)
    assert_holds(open_checkpoint(path), published_state(other))


@pytest.mark.parametrize("stored", ["{", "[]", '{"colour": 1}', '{"depth": 0}', '{"depth": "four"}'])
def test_a_configuration_in_the_file_that_cannot_be_built_is_refused(state, tmp_path, stored):
    path = tmp_path / "own.safetensors"
    save_file(state, path, metadata={"model_config": stored})
    with pytest.raises(CheckpointError, match="contains a configuration that cannot be built"):
        open_checkpoint(path)


def test_a_killed_save_leaves_the_old_file_whole(tiny, tmp_path):
    """The process is killed while it writes; the file under the name can still be opened."""
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path)
    code = """
        import sys
        from dataclasses import replace
        from models import ModelConfig, Reconstructor
        from models.checkpoint import save_checkpoint

        model = Reconstructor(replace(ModelConfig.city_tiny(), dense_features=256, dense_channels=(512,) * 4))
        print("ready", flush=True)
        while True:
            save_checkpoint(model, sys.argv[1])
    """
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(path)],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert child.stdout.readline() == "ready\n"
            while not _halves(path):
                assert child.poll() is None
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=30)
            child.stdout.close()
        assert open_checkpoint(path).config.depth in (4, 6)  # the old one, or a whole new one
        if _halves(path):
            return
    pytest.fail("no kill came while a file was written, so the test has shown nothing")


def _halves(path: Path) -> list[Path]:
    return [p for p in path.parent.iterdir() if p != path]
