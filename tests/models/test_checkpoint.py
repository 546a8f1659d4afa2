"""Weights from files: published names, strictness, nothing pickled, memory-mapped, whole or not at all."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import CheckpointError, ModelConfig, Reconstructor, open_checkpoint
from models.checkpoint import published_state, read_tensors, save_checkpoint
from tests.models.golden import TINY, made_up_state

DATA = Path(__file__).parent / "data"
REPOSITORY = Path(__file__).resolve().parents[2]
_TO_VGGT = {
    "agg_regator.": "aggregator.",
    "cam_decoder.": "camera_head.",
    "xyz_decoder.": "point_head.",
    "dpt_decoder.": "depth_head.",
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The tiny network's tensors under their published names. Shared: copy before changing."""
    return made_up_state(DATA / "tiny.manifest.json")


def _as_vggt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as VGGT-1B would hold them: its names, no memories, a tracking head beside."""
    renamed = {}
    for name, tensor in state.items():
        if ".ttt." not in name:
            prefix = next(p for p in _TO_VGGT if name.startswith(p))
            renamed[_TO_VGGT[prefix] + name.removeprefix(prefix)] = tensor
    return renamed | {"track_head.tracker.weight": torch.ones(3, 3)}


def _manifest(shared: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors without data of a published manifest."""
    shapes = json.loads((shared / "golden" / f"{name}.manifest.json").read_text())
    return {tensor: torch.empty(shape, device="meta") for tensor, shape in shapes.items()}


def _write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def _assert_holds(model: Reconstructor, state: dict[str, torch.Tensor]) -> None:
    found = published_state(model)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def _run(code: str, *arguments: str | Path, timeout: float = 240) -> str:
    """A fresh interpreter, so that its memory is its own; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


# -- names --------------------------------------------------------------------------------------------------


def test_the_published_checkpoints_names_and_shapes_are_exactly_the_networks(shared):
    with torch.device("meta"):
        model = Reconstructor(ModelConfig.scal3r())
    expected = {n: tuple(t.shape) for n, t in _manifest(shared, "scal3r_release").items()}
    assert len(expected) == 1451
    assert {n: tuple(t.shape) for n, t in published_state(model).items()} == expected
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 1266
    model.load_published(_manifest(shared, "scal3r_release"))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("scal3r_release", ".pt"),
        ("vggt_1b", ".safetensors"),
        pytest.param("scal3r_release", ".safetensors", marks=pytest.mark.slow),
        pytest.param("vggt_1b", ".pt", marks=pytest.mark.slow),
    ],
)
def test_published_files_of_five_gigabytes_open_in_little_memory(shared, tmp_path, name, suffix):
    """Full size, names and shapes of the manifests, in a file with holes: mapped, not read."""
    out = _run(
        """
        import json, math, struct, sys, time, warnings
        import torch
        from models import open_checkpoint

        manifest, path = json.load(open(sys.argv[1])), sys.argv[2]
        if path.endswith(".pt"):
            with torch.serialization.skip_data():
                torch.save({n: torch.empty(s) for n, s in manifest.items()}, path)
        else:
            header, at = {}, 0
            for n, s in manifest.items():
                header[n] = {"dtype": "F32", "shape": s, "data_offsets": [at, at + 4 * math.prod(s)]}
                at += 4 * math.prod(s)
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            with open(path, "wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                file.truncate(8 + len(text) + at)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model = open_checkpoint(path)
        peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
        print(json.dumps({
            "peak_mb": peak / 1024, "parameters": sum(p.numel() for p in model.parameters()),
            "heard": [str(w.message) for w in heard], "training": model.training,
            "gates": [m.proj.weight.abs().sum().item() for m in model.aggregator.memories.values()],
        }))
        """,
        shared / "golden" / f"{name}.manifest.json",
        tmp_path / f"weights{suffix}",
    )
    found = json.loads(out)
    assert found["peak_mb"] < 1500
    assert round(found["parameters"] / 1e6) == 1266
    assert found["training"] is False
    if name == "vggt_1b":
        assert len(found["heard"]) == 1
        assert "48 memory tensors start fresh and have no effect" in found["heard"][0]
        assert found["gates"] == [0.0] * 4
    else:
        assert found["heard"] == []


def test_vggts_tensors_are_the_releases_but_for_memories_and_tracking_head(shared):
    release, vggt = _manifest(shared, "scal3r_release"), _manifest(shared, "vggt_1b")
    memories = {n for n in release if ".ttt." in n}
    assert len(memories) == 48
    without = {n: t for n, t in _as_vggt(release).items() if not n.startswith("track_head.")}
    found = {n: t for n, t in vggt.items() if not n.startswith("track_head.")}
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in without.items()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_vggt_checkpoint_opens_with_fresh_memories_of_no_effect_and_says_so(state, tmp_path, suffix):
    path = _write(_as_vggt(state), tmp_path / f"vggt{suffix}")
    with pytest.warns(UserWarning, match="VGGT checkpoint: its 24 memory tensors start fresh"):
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


def test_what_vggt_does_not_have_is_still_missed(state, tmp_path):
    weights = _as_vggt(state)
    del weights["camera_head.empty_pose_tokens"]
    weights |= {"camera_head.surprise": torch.ones(1), "colour": torch.ones(1)}
    path = _write(weights, tmp_path / "vggt.pt")
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
        model.load_published(wrong)
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
    path = _write(state, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r"checkpoint does not fit the network: .* misshapen: "):
        open_checkpoint(path, replace(TINY, dense_features=64))
    with pytest.raises(CheckpointError, match=r"missing: agg_regator\.frame_blocks\.10"):
        open_checkpoint(path)  # no configuration of its own: taken for the release


def test_loading_into_a_model_copies_so_that_the_callers_tensors_stay_its_own(state):
    model = Reconstructor(TINY)
    model.load_published(state)
    _assert_holds(model, state)
    with torch.no_grad():
        model.aggregator.camera_token.zero_()
    assert state["agg_regator.camera_token"].any()


# -- files --------------------------------------------------------------------------------------------------


def test_both_kinds_of_file_give_equal_models_ready_for_inference(state, tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = open_checkpoint(str(_write(state, tmp_path / name)), TINY)
        _assert_holds(model, state)
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "network"])
def test_a_state_dict_may_be_wrapped_with_other_plain_values(state, tmp_path, wrapper):
    path = tmp_path / "weights.pt"
    torch.save({wrapper: state, "step": 60000, "notes": {"lr": 1e-4}}, path)
    _assert_holds(open_checkpoint(path, TINY), state)


class _Malice:
    """Pickles as a command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("how", ["torch", "torch_legacy", "pickle"])
def test_what_is_pickled_beyond_tensors_is_refused_and_not_executed(state, tmp_path, how):
    path, mark = tmp_path / "weights.pt", tmp_path / "executed"
    held = {"agg_regator.camera_token": state["agg_regator.camera_token"], "extra": _Malice(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save(held, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, TINY)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    if how == "torch":
        assert "holds more than tensors, refused" in str(caught.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Malice(mark)))  # it would have left its mark
    assert mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("left", [0, 4, 100, 0.5, -1])
def test_truncated_files_are_refused_by_name_in_one_line(state, tmp_path, suffix, left):
    path = _write(state, tmp_path / f"weights{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(CheckpointError, match="weights") as caught:
        open_checkpoint(path, TINY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [{}, {"a": 1}, {"model": {"a": "text"}}, [torch.ones(1)], torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path, held):
    path = tmp_path / "weights.pt"
    torch.save(held, path)
    with pytest.raises(CheckpointError, match="is no state dict of tensors"):
        read_tensors(path)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(CheckpointError, match=f"no weights file at {path}"):
            open_checkpoint(path, TINY)


def test_text_by_the_name_of_weights_is_refused(tmp_path):
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_text("<html>not found</html>" * 100)
        with pytest.raises(CheckpointError, match=name):
            open_checkpoint(tmp_path / name, TINY)


# -- precision ----------------------------------------------------------------------------------------------


def test_bfloat16_on_load_lowers_products_and_leaves_the_rest(state, tmp_path):
    model = open_checkpoint(_write(state, tmp_path / "weights.safetensors"), TINY, dtype=torch.bfloat16)
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
    path = _write({n: t.to(stored) for n, t in state.items()}, tmp_path / "weights.safetensors")
    model = open_checkpoint(path, TINY)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.forward_drive(torch.rand(2, 3, 28, 28), [[0, 1]])
    low = open_checkpoint(path, TINY, dtype=torch.bfloat16)
    assert {p.dtype for p in low.depth_head.parameters()} == {torch.float32}


# -- memory -------------------------------------------------------------------------------------------------


_BULKY = ModelConfig(
    embed_dim=512, depth=4, num_heads=8, encoder="conv", image_size=56, memory_layers=(3,),
    dense_layers=(0, 1, 2, 3), dense_features=32, dense_channels=(16, 32, 64, 64),
    camera_trunk_depth=1, camera_heads=4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "dtype", "limit"),
    [(".pt", "float32", 1.3), (".safetensors", "float32", 1.3), (".safetensors", "bfloat16", 1.8)],
)
def test_a_files_weights_lie_in_memory_once(tmp_path, suffix, dtype, limit):
    """A file of 200 MB, opened and every page touched: once for the file, half again for a bfloat16 copy."""
    with torch.device("meta"):
        names = published_state(Reconstructor(_BULKY))
    path = _write({n: torch.full(t.shape, 0.5) for n, t in names.items()}, tmp_path / f"weights{suffix}")
    size = path.stat().st_size / 2**20
    assert 150 < size < 300
    out = _run(
        """
        import json, sys
        import torch
        from models import ModelConfig, Reconstructor, open_checkpoint

        path, dtype = sys.argv[1], getattr(torch, sys.argv[2])
        config = ModelConfig.from_dict(json.loads(sys.argv[3]))

        def peak():
            return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024

        with torch.device("meta"):  # what torch needs to wake up shall not count
            Reconstructor(config)
        torch.ones(8).bfloat16().float().sum()
        before = peak()
        model = open_checkpoint(path, config, dtype=dtype)
        total = sum(float(p.flatten()[::512].float().sum()) for p in model.parameters())
        print(peak() - before)
        """,
        path,
        dtype,
        json.dumps(_BULKY.to_dict()),
    )
    assert 0.9 * size < float(out) < limit * size


# -- saving -------------------------------------------------------------------------------------------------


def test_a_saved_model_opens_as_it_was_with_its_own_configuration(tiny, state, tmp_path):
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path, notes={"trained_on": "nothing"})
    model = open_checkpoint(path)
    assert model.config == TINY
    _assert_holds(model, state)
    assert [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]
    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    found, expected = (m.forward_drive(images, [[0, 1, 2]])[0].depth for m in (model, tiny))
    assert torch.equal(found, expected)


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
    first = open_checkpoint(_write(state, tmp_path / "weights.pt"), TINY, dtype=torch.bfloat16)
    save_checkpoint(first, path)
    assert {t.dtype for t in load_file(path).values()} == {torch.float32}
    _assert_holds(open_checkpoint(path, dtype=torch.bfloat16), published_state(first))


def test_a_given_configuration_goes_before_the_files_own(tiny, tmp_path):
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path)
    with pytest.raises(CheckpointError, match="does not fit the network"):
        open_checkpoint(path, replace(TINY, dense_features=64))


def test_saving_over_a_file_leaves_a_model_that_is_mapped_from_it_as_it_was(tiny, state, tmp_path):
    """A new file takes the name; the old one's pages stay until nobody reads them."""
    path = tmp_path / "own.safetensors"
    save_checkpoint(tiny, path)
    mapped = open_checkpoint(path)
    torch.manual_seed(0)
    other = Reconstructor(TINY)
    save_checkpoint(other, path)
    _assert_holds(mapped, state)
    _assert_holds(open_checkpoint(path), published_state(other))


@pytest.mark.parametrize("stored", ["{", "[]", '{"colour": 1}', '{"depth": 0}', '{"depth": "four"}'])
def test_a_configuration_in_the_file_that_cannot_be_built_is_refused(state, tmp_path, stored):
    path = tmp_path / "own.safetensors"
    save_file(state, path, metadata={"model_config": stored})
    with pytest.raises(CheckpointError, match="carries a configuration that cannot be built"):
        open_checkpoint(path)


def test_a_killed_save_leaves_the_old_file_whole(tiny, tmp_path):
    """Killed in the middle of writing: what stands under the name still opens."""
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
            cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
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
    pytest.fail("no kill came in the middle of writing: the test has shown nothing")


def _halves(path: Path) -> list[Path]:
    return [p for p in path.parent.iterdir() if p != path]
