"""The optimised functions give the numbers of their plain twins, with fewer kernels and bytes, and without casts."""

import pytest
import torch

from models import ModelConfig
from models.benchmark.kernels import count_parts
from models.benchmark.modes import depth_difference, made_up_frames, made_up_network, pose_difference, run
from models.benchmark.switches import ALWAYS, EAGER, all_undone, plain_memory_step, plain_rms_norm, plain_rotate
from models.context_memory import ContextMemory, RMSNorm
from models.rope import rope_table, rotate
from tests.models import twins
from tests.networks import small_network

CONFIG = small_network(dense_channels=(8, 8, 16, 16))
CPU = torch.device("cpu")
FRAMES, CHUNKS = made_up_frames(5, 28, 56), [range(3), range(2, 5)]
BLOCKS = ("frame block", "global block")
MEMORY = ("memory step", "memory read")


@pytest.mark.parametrize("name", [*EAGER, *ALWAYS])
def test_an_improvement_undone_gives_the_same_numbers(name):
    model = made_up_network(CONFIG, torch.float32, CPU)
    expected = run("fast", model, FRAMES, CHUNKS).predictions
    with (EAGER | ALWAYS)[name](model):
        found = run("fast", model, FRAMES, CHUNKS).predictions
    assert pose_difference(found, expected) < 1e-6
    assert depth_difference(found, expected) < 1e-6
    again = run("fast", model, FRAMES, CHUNKS).predictions
    assert pose_difference(again, expected) == 0  # and the switch leaves nothing behind


def test_in_bfloat16_the_fast_forms_are_no_further_from_float32_than_their_twins():
    exact = run("fast", made_up_network(CONFIG, torch.float32, CPU), FRAMES, CHUNKS).predictions
    model = made_up_network(CONFIG, torch.bfloat16, CPU)
    fast = run("fast", model, FRAMES, CHUNKS).predictions
    with all_undone(model):
        twin = run("fast", model, FRAMES, CHUNKS).predictions
    assert 0 < pose_difference(fast, exact) < 1.2 * pose_difference(twin, exact)
    assert 0 < depth_difference(fast, exact) < 1.2 * depth_difference(twin, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_memorys_step_and_read_equal_their_plain_twins(dtype):
    memory = twins.randomised(ContextMemory(16, 4, 0.01, 5))
    for layer in (memory.qkv, memory.proj):
        layer.to(dtype)
    x = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    rope = rope_table((2, 3), 16, 0, 100.0)
    tolerance = 1e-6 if dtype == torch.float32 else 0.01
    torch.testing.assert_close(rotate(x, rope), plain_rotate(x, rope), rtol=tolerance, atol=tolerance)
    norm = twins.randomised(RMSNorm(16, eps=None))
    assert torch.equal(norm(x), plain_rms_norm(norm, x))
    for found, expected in zip(memory.step(x, rope), plain_memory_step(memory, x, rope), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()


@pytest.fixture(scope="module")
def counts():
    """At the published width, with a memory; two layers are enough, since 24 are equal."""
    config = ModelConfig(depth=4, encoder="conv", memory_layers=(1,), dense_layers=(0, 1, 2, 3))
    return count_parts(config, 60, 154, 518, all_undone), count_parts(config, 60, 154, 518)


def test_no_kernel_inside_a_block_or_a_memory_only_casts(counts):
    before, now = counts
    for name in (*BLOCKS, *MEMORY):
        assert before[name].casts > 3, name  # so casts are counted
        assert now[name].casts == 0, name


def test_blocks_memories_and_heads_start_fewer_kernels_that_move_fewer_bytes(counts):
    before, now = counts
    for name in (*BLOCKS, *MEMORY):
        assert now[name].kernels <= 0.5 * before[name].kernels, name
        assert now[name].nbytes <= 0.7 * before[name].nbytes, name
    head = "depth head, 8 frames"
    assert now[head].kernels <= 0.5 * before[head].kernels and now[head].nbytes < before[head].nbytes


def test_tensors_are_counted_as_often_as_they_are_read_or_written():
    from models.benchmark.kernels import count

    x = torch.empty(10, device="meta")
    counted = count(lambda: (x.view(2, 5) + 1).bfloat16())
    assert (counted.kernels, counted.nbytes, counted.casts) == (2, 80 + 60, 1)
