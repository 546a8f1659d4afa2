"""Compiled blocks give the numbers of the plain ones for every size, and are compiled once."""

import copy
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from models.benchmark.modes import depth_difference, made_up_frames, made_up_network, pose_difference, run
from models.block import Block
from models.compiled import CompileError, compile_blocks
from models.mixed_precision import residual_sum
from pipeline.ingest.chunks import plan_chunks
from tests.networks import small_network

CONFIG = small_network(memory_layers=(1,), dense_channels=(8, 8, 16, 16))


@pytest.fixture
def model():
    torch._dynamo.reset()
    counters.clear()
    yield made_up_network(CONFIG, torch.float32, torch.device("cpu"))
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_give_the_same_numbers_and_no_size_of_chunk_compiles_again(model):
    plain = copy.deepcopy(model)
    assert compile_blocks(model) is model
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    for count, size, height, width in ((9, 4, 28, 56), (11, 6, 56, 42)):
        frames, chunks = made_up_frames(count, height, width), plan_chunks(count, size, 2)
        found, expected = (run("fast", network, frames, chunks).predictions for network in (model, plain))
        assert pose_difference(found, expected) < 1e-5
        assert depth_difference(found, expected) < 1e-5
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_sum_in_bfloat16_keeps_special_tokens_in_float32():
    generator = torch.Generator().manual_seed(0)
    x, branch = (torch.randn(2, 15, 8, generator=generator).bfloat16() for _ in range(2))
    factor = torch.rand(8, generator=generator).bfloat16()
    special = torch.randn(6, 2, 8, generator=generator)
    kept = special.clone()
    expected = residual_sum(x, branch, factor, special)
    found = torch.compile(residual_sum, dynamic=True)(x, branch, factor, kept)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(kept, special)
    assert torch.equal(found.view(6, 5, 8)[:, :2], kept.bfloat16())


def test_without_a_compiler_one_line_says_so_and_the_network_still_works(model, without_a_compiler):
    with pytest.raises(CompileError, match=r"torch.compile does not work on this machine: .*do without it") as caught:
        compile_blocks(model)
    assert "\n" not in str(caught.value)
    assert all(block._compiled_call_impl is None for block in model.modules() if isinstance(block, Block))
    run("fast", model, made_up_frames(4, 28, 56), [range(4)])
