import hashlib
from dataclasses import replace

import pytest
import torch

from models import ModelConfig, Reconstructor
from models.checkpoint import save_checkpoint
from pipeline.errors import CheckpointError
from pipeline.forward.network import NetworkSpec
from tests.forward.drives import CONFIG

CPU = torch.device("cpu")


def test_random_weights_are_the_same_on_every_worker_and_the_random_state_is_kept():
    spec = NetworkSpec("vit_small", None)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = spec.build(CPU), spec.build(CPU)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.training
    assert not spec.trained
    assert spec.sha256() == "untrained-vit_small-seed-0"


def test_a_checkpoint_of_the_project_contains_the_name_of_its_network(tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(Reconstructor(CONFIG), path)
    spec = NetworkSpec(None, str(path), "bfloat16")
    assert spec.config() == CONFIG
    assert spec.trained
    assert spec.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    model = spec.build(CPU)
    assert model.aggregator.frame_blocks[0].attn.qkv.weight.dtype == torch.bfloat16


def test_weights_of_other_programs_are_opened_as_the_published_network(tmp_path):
    path = tmp_path / "foreign.pt"
    torch.save({"agg_regator.camera_token": torch.zeros(1)}, path)
    spec = NetworkSpec(None, str(path))
    assert spec.config() == ModelConfig.scal3r()
    with pytest.raises(CheckpointError, match="missing"):
        spec.build(CPU)


def test_a_preset_that_does_not_fit_the_weights_is_refused(tmp_path):
    path = tmp_path / "small.safetensors"
    save_checkpoint(Reconstructor(CONFIG), path)
    with pytest.raises(CheckpointError, match="does not fit"):
        NetworkSpec("vit_small", str(path)).build(CPU)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_number_that_is_not_finite_deep_inside_a_tensor_is_found_before_any_work(tmp_path, number):
    path = tmp_path / "damaged.safetensors"
    model = Reconstructor(replace(CONFIG, dense_features=64))
    largest = max(model.parameters(), key=torch.Tensor.numel)
    assert largest.numel() > 2 * 8192, "the middle of the tensor must lie outside the parts that opening checks"
    with torch.no_grad():
        largest.view(-1)[largest.numel() // 2] = number
    save_checkpoint(model, path)
    with pytest.raises(CheckpointError, match=r"damaged.safetensors: numbers that are not finite in .*weight; take"):
        NetworkSpec(None, str(path)).check()


def test_a_network_needs_a_name():
    with pytest.raises(ValueError, match="preset or weights"):
        NetworkSpec(None, None).config()


def test_blocks_are_compiled_where_the_settings_ask_for_it(tmp_path, without_a_compiler):
    """What compiled blocks compute is asked in tests/models/test_compiled.py; here, whether they are asked for."""
    path = tmp_path / "small.safetensors"
    save_checkpoint(Reconstructor(CONFIG), path)
    said = []
    for compiled in (False, True):
        model = NetworkSpec(None, str(path), compiled=compiled).build(CPU, said.append)
        assert all(block._compiled_call_impl is None for block in model.aggregator.frame_blocks)
        assert len(said) == compiled
    assert "torch.compile does not work on this machine" in said[0]
