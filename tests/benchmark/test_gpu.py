"""Each part of the GPU benchmark, on a GPU if there is one, and on a CPU."""

import pytest
import torch

from models import ModelConfig
from pipeline.benchmark.allreduce import allreduce_seconds, free_port
from pipeline.benchmark.drive import DriveBenchmark, reconstruct_made_up
from pipeline.benchmark.gpu import rendering, training_step
from pipeline.benchmark.isolated_process import run_isolated

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
EITHER = pytest.mark.parametrize("kind", ["cpu", GPU])


@EITHER
def test_a_training_step_lowers_the_loss(kind):
    seconds, losses = training_step(kind)
    assert seconds > 0 and losses[-1] < losses[0]


@EITHER
def test_the_renderer_gives_the_same_image_as_on_a_cpu(kind):
    frames_per_second, same = rendering(kind)
    assert frames_per_second > 0 and same


@pytest.mark.slow
@EITHER
def test_a_group_of_all_devices_sums_a_memorys_step(kind):
    ranks = torch.cuda.device_count() if kind == "cuda" else 1
    preset = "scal3r" if kind == "cuda" else "city_tiny"
    assert 0 < allreduce_seconds(ranks, ModelConfig.preset(preset), free_port(), kind) < 60


@pytest.mark.cluster
@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.full), pytest.param("gpu", marks=GPU.marks)])
def test_a_whole_drive_is_reconstructed_with_the_defaults_of_the_device(device):
    small = DriveBenchmark(lengths=(24,), width=112, height=56, chunk_size=8, overlap=4)
    found = run_isolated(reconstruct_made_up, small, 24, device)
    assert found["points"] > 0 and 0 < found["network_seconds"] <= found["seconds"]["forward"]
