"""The three ways to run the network give the same numbers, and operations and kernels are counted correctly."""

import json

import pytest
import torch

from models.benchmark.gpu_check import main
from models.benchmark.limits import attention_kernel, flops_of_chunk
from models.benchmark.modes import chunks_of, depth_difference, made_up_frames, made_up_network, pose_difference, run
from pipeline.ingest.chunks import plan_chunks
from tests.networks import small_network

CPU = torch.device("cpu")
CONFIG = small_network(depth=5, dense_layers=(0, 1, 3, 4), dense_channels=(8, 8, 16, 16))


def test_published_schedule_plain_twin_and_fast_path_give_the_same_numbers():
    model = made_up_network(CONFIG, torch.float32, CPU)
    frames, chunks = made_up_frames(9, 28, 56), plan_chunks(9, 4, 2)
    images = frames.float() / 255
    twin = model.forward_drive(images, chunks, with_points=False)
    found = {mode: run(mode, model, frames, chunks) for mode in ("release", "plain", "fast")}
    for timed in found.values():
        assert pose_difference(timed.predictions, twin) < 1e-6
        assert depth_difference(timed.predictions, twin) < 1e-6
        assert timed.total > 0 and timed.cpu_total > 0
        assert set(timed.seconds) == {"encode", "layers", "memory steps", "memory reads", "heads"}
    assert found["fast"].state_bytes < found["release"].state_bytes
    assert pose_difference(twin[:1], twin[1:2]) > 1e-4  # the frames do matter


def test_operations_are_those_of_the_matrices():
    counted = flops_of_chunk(CONFIG, 3, 28, 56, 2)
    d, patches = CONFIG.embed_dim, 8
    assert counted["encode"] == 2 * 2 * patches * 3 * 14 * 14 * d
    tokens, own = 3 * (patches + 5), patches + 5
    block = 2 * tokens * 12 * d * d
    attention = 4 * d * tokens * (own + tokens)
    projected = sum(2 * 3 * patches * 2 * d * c for c in CONFIG.dense_channels[:1])
    layers = CONFIG.depth * (2 * block + attention) + projected
    assert counted["layers"] == pytest.approx(layers, rel=0.02)
    assert counted["heads"] > 0


def test_the_attention_kernel_is_named():
    assert attention_kernel(CPU, torch.float32, 2, 16) == "flash"
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert attention_kernel(CPU, torch.float32, 2, 16) == "plain"


SMALL = (
    "--device",
    "cpu",
    "--preset",
    "city_tiny",
    "--precision",
    "float32",
    "--frames",
    "8",
    "--height",
    "32",
    "--width",
    "64",
    "--chunk-size",
    "4",
    "--overlap",
    "2",
    "--twin-chunks",
    "2",
    "--copy-bytes",
    "1000000",
)


@pytest.mark.full
def test_the_gpu_check_runs_small_on_a_cpu_and_names_missed_targets(tmp_path, capsys):
    file = tmp_path / "check.json"
    assert main([*SMALL, "--json", str(file)]) == 1
    said = json.loads(file.read_text())
    out = capsys.readouterr().out
    assert "MISSED" in out and "attention: flash; cpu" in out and "blocks compiled, against without" in out
    assert said["compiled_speedup"] > 0
    assert said["pose_relative_difference"] < 1e-5
    assert said["long_drive_bytes"] == len(plan_chunks(4541, 4, 2)) * said["state_bytes_per_chunk"]
    assert [list(c) for c in chunks_of(17, 6, 3)] == [list(c) for c in plan_chunks(17, 6, 3)]
    if not torch.cuda.is_available():
        assert main([]) == 1
        assert "there is no GPU here" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_check_runs_on_a_gpu_and_names_missed_targets(tmp_path, capsys):
    file = tmp_path / "check.json"
    code = main(["--frames", "120", "--json", str(file)])
    said = json.loads(file.read_text())
    assert said["speedup_vs_release_like"] > 1 and said["pose_relative_difference"] < 0.1
    assert code == int("MISSED" in capsys.readouterr().out)


def test_without_a_compiler_the_other_figures_are_still_measured(tmp_path, capsys, without_a_compiler):
    file = tmp_path / "check.json"
    assert main([*SMALL, "--json", str(file)]) == 1
    said = json.loads(file.read_text())
    assert "compiled_speedup" not in said and said["speedup_vs_release_like"] > 0
    assert said["compile_error"] in capsys.readouterr().out
