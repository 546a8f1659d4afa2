"""Compiled blocks give the numbers of the plain ones for every size, and are compiled once."""

import copy
import shutil

import pytest
import torch
from torch._dynamo.utils import counters

from models.benchmark.modes import depth_difference, made_up_frames, made_up_network, pose_difference, run
from models.block import Block
from models.compiled import CompileError, compile_blocks
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


def test_without_a_compiler_one_line_says_so_and_the_network_still_works(model, without_a_compiler):
    with pytest.raises(CompileError, match=r"torch.compile does not work on this machine: .*do without it") as caught:
        compile_blocks(model)
    assert "\n" not in str(caught.value)
    assert all(block._compiled_call_impl is None for block in model.modules() if isinstance(block, Block))
    run("fast", model, made_up_frames(4, 28, 56), [range(4)])
