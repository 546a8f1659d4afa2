"""Weights from files: published names, strict loading, both kinds of file, precision."""

import warnings
from dataclasses import replace

import pytest
import torch

from models import CheckpointError, ModelConfig, Reconstructor, open_checkpoint
from models.checkpoint import load_published, published_state
from tests.models.checkpoints import as_vggt, assert_holds, manifest, write
from tests.models.golden import TINY


def test_the_published_checkpoints_names_and_shapes_are_exactly_the_networks(shared):
    with torch.device("meta"):
        model = Reconstructor(ModelConfig.scal3r())
    expected = {n: tuple(t.shape) for n, t in manifest(shared, "scal3r_release").items()}
    assert len(expected) == 1451
    assert {n: tuple(t.shape) for n, t in published_state(model).items()} == expected
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 1266
    load_published(model, manifest(shared, "scal3r_release"))


def test_vggts_tensors_are_those_of_the_release_except_memories_and_tracking_head(shared):
    release, vggt = manifest(shared, "scal3r_release"), manifest(shared, "vggt_1b")
    memories = {n for n in release if ".ttt." in n}
    assert len(memories) == 48
    without = {n: t for n, t in as_vggt(release).items() if not n.startswith("track_head.")}
    found = {n: t for n, t in vggt.items() if not n.startswith("track_head.")}
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in without.items()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_vggt_checkpoint_opens_with_memories_without_effect_and_a_warning(state, tmp_path, suffix):
    path = write(as_vggt(state), tmp_path / f"vggt{suffix}")
    with pytest.warns(UserWarning, match="VGGT checkpoint without memories: their 24 tensors"):
        model = open_checkpoint(path, TINY)
    found = published_state(model)
    assert all(torch.equal(found[n], t) for n, t in state.items() if ".ttt." not in n)
    fresh = {n: t for n, t in found.items() if ".ttt." in n}
    assert len(fresh) == 24
    assert all(not t.any() for n, t in fresh.items() if ".proj." in n)
    assert all(t.any() for n, t in fresh.items() if n.endswith((".w0", ".w1", ".w2", "norm.weight")))
    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    drive, off = (model.forward_drive(images, [[0, 1, 2]], memory_scope=s)[0] for s in ("drive", "off"))
    assert torch.equal(drive.depth, off.depth)


def test_other_tensors_that_a_vggt_checkpoint_lacks_are_reported(state, tmp_path):
    weights = as_vggt(state)
    del weights["camera_head.empty_pose_tokens"]
    weights |= {"camera_head.surprise": torch.ones(1), "colour": torch.ones(1)}
    path = write(weights, tmp_path / "vggt.pt")
    with (
        pytest.warns(UserWarning),
        pytest.raises(
            CheckpointError,
            match=r"1 missing: cam_decoder\.empty.*2 unexpected: cam_decoder\.surprise, colour",
        ),
    ):
        open_checkpoint(path, TINY)


# -- strictness ---------------------------------------------------------------------------------------------


def test_missing_unexpected_and_misshapen_tensors_are_all_listed_at_once_and_nothing_is_loaded(state):
    torch.manual_seed(0)
    model = Reconstructor(TINY)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    wrong = dict(state)
    missing = ["agg_regator.camera_token", "dpt_decoder.norm.bias"]
    for name in missing:
        del wrong[name]
    wrong |= {"agg_regator.colour": torch.ones(2), "track_head.x": torch.ones(2)}
    wrong["cam_decoder.embed_pose.weight"] = torch.ones(128, 8)
    wrong["agg_regator.global_blocks.1.ttt.w0"] = torch.ones(64, 256)
    with pytest.raises(CheckpointError) as caught:
        load_published(model, wrong)
    message = str(caught.value)
    assert f"2 missing: {', '.join(missing)}" in message
    assert "2 unexpected: agg_regator.colour, track_head.x" in message
    assert "2 misshapen: " in message
    assert "cam_decoder.embed_pose.weight is (128, 8), expected (128, 9)" in message
    assert "agg_regator.global_blocks.1.ttt.w0 is (64, 256), expected (1, 64, 256)" in message
    assert "\n" not in message
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_checkpoint_error_is_a_value_error_so_that_jobs_print_it():
    assert issubclass(CheckpointError, ValueError)


def test_the_wrong_networks_weights_are_refused(state, tmp_path):
    path = write(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint does not fit the network: .* misshapen: "):
        open_checkpoint(path, replace(TINY, dense_features=64))
    with pytest.raises(CheckpointError, match=r"missing: agg_regator\.frame_blocks\.10"):
        open_checkpoint(path)  # no configuration of its own: taken for the release


def test_loading_into_a_model_copies_so_that_the_callers_tensors_stay_its_own(state):
    model = Reconstructor(TINY)
    load_published(model, state)
    assert_holds(model, state)
    with torch.no_grad():
        model.aggregator.camera_token.zero_()
    assert state["agg_regator.camera_token"].any()


def test_both_kinds_of_file_give_equal_models_ready_for_inference(state, tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = open_checkpoint(str(write(state, tmp_path / name)), TINY)
        assert_holds(model, state)
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "network"])
def test_a_state_dict_may_be_wrapped_with_other_plain_values(state, tmp_path, wrapper):
    path = tmp_path / "weights.pt"
    torch.save({wrapper: state, "step": 60000, "notes": {"lr": 1e-4}}, path)
    assert_holds(open_checkpoint(path, TINY), state)


def test_bfloat16_on_load_lowers_products_and_leaves_the_rest(state, tmp_path):
    model = open_checkpoint(write(state, tmp_path / "weights.safetensors"), TINY, dtype=torch.bfloat16)
    found = published_state(model)
    lowered = "agg_regator.frame_blocks.0.attn.qkv.weight"
    assert torch.equal(found[lowered], state[lowered].bfloat16())
    for name in (
        "agg_regator.global_blocks.1.ttt.w0",
        "agg_regator.global_blocks.1.ttt.lrs.weight",
        "agg_regator.global_blocks.1.ttt.o_norm.weight",
        "agg_regator.global_blocks.2.norm1.weight",
        "agg_regator.global_blocks.2.attn.q_norm.bias",
        "cam_decoder.embed_pose.weight",
        "dpt_decoder.projects.0.weight",
        "xyz_decoder.norm.bias",
    ):
        assert torch.equal(found[name], state[name]), name


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_file_in_half_precision_opens_as_float32_throughout(state, tmp_path, stored):
    path = write({n: t.to(stored) for n, t in state.items()}, tmp_path / "weights.safetensors")
    model = open_checkpoint(path, TINY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.forward_drive(torch.rand(2, 3, 28, 28), [[0, 1]])
    low = open_checkpoint(path, TINY, dtype=torch.bfloat16)
    assert {p.dtype for p in low.depth_head.parameters()} == {torch.float32}
