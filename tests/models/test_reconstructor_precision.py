"""The whole network in bfloat16, back in float32, and on a GPU."""

import copy
from dataclasses import fields

import pytest
import torch

from models import Prediction, Reconstructor
from models.context_memory import ContextMemory, RMSNorm
from tests.models.drives import CHUNKS, GRID, assert_same, some_images


@pytest.fixture(scope="module")
def lowered(tiny) -> Reconstructor:
    return copy.deepcopy(tiny).set_precision(torch.bfloat16)


def test_in_bfloat16_a_drive_stays_within_a_few_percent(tiny, lowered):
    exact, low = (m.forward_drive(some_images(), CHUNKS) for m in (tiny, lowered))
    for a, b in zip(low, exact, strict=True):
        for f in fields(Prediction):
            assert getattr(a, f.name).dtype == getattr(b, f.name).dtype  # float32 out, whatever runs inside
        assert_same(a, b, 0.05)
        assert (a.depth - b.depth).norm() > 1e-4 * b.depth.norm()  # and it did run in bfloat16


def test_in_bfloat16_rates_norms_fast_weights_and_heads_stay_float32_unrounded(tiny, lowered):
    original = tiny.state_dict()
    kept = set()
    for name, module in lowered.named_modules():
        if isinstance(module, (torch.nn.LayerNorm, RMSNorm)) or not name.startswith("aggregator"):
            kept.update(f"{name}.{n}" for n, _ in module.named_parameters(recurse=False))
        if isinstance(module, ContextMemory):
            kept.update(f"{name}.{n}" for n in ("w0", "w1", "w2", "lrs.weight", "lrs.bias"))
    for name, parameter in lowered.named_parameters():
        if name in kept or not name.startswith("aggregator"):
            assert parameter.dtype == torch.float32, name
            assert torch.equal(parameter, original[name]), name
        else:
            assert parameter.dtype == torch.bfloat16, name


def test_in_bfloat16_tokens_are_bfloat16_and_steps_and_memories_float32(lowered):
    state = lowered.aggregator.run_segment(lowered.begin(lowered.encode(some_images(3))[None], GRID))
    step = lowered.aggregator.memory_step(state)
    weights = lowered.aggregator.memory_update(0, step, torch.float32)
    assert {w.dtype for w in (*step, *weights)} == {torch.float32}
    after = lowered.aggregator.finish_segment(state, weights)
    assert {t.dtype for t in (after.tokens, *after.features.values())} == {torch.bfloat16}


def test_back_in_float32_nothing_is_left_in_bfloat16(lowered):
    model = copy.deepcopy(lowered).set_precision(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_other_precisions_are_refused(tiny):
    with pytest.raises(ValueError, match=r"float32 or bfloat16, not torch\.float16"):
        copy.deepcopy(tiny).set_precision(torch.float16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_drive_agrees_with_the_cpu(tiny):
    expected = tiny.forward_drive(some_images(), CHUNKS)
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        model = copy.deepcopy(tiny).cuda()
        found = model.forward_drive(some_images().cuda(), CHUNKS)
        low = copy.deepcopy(model).set_precision(torch.bfloat16).forward_drive(some_images().cuda(), CHUNKS)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
    for predictions, tolerance in ((found, 3e-4), (low, 0.1)):
        for a, b in zip(predictions, expected, strict=True):
            on_cpu = Prediction(*(getattr(a, f.name).cpu() for f in fields(Prediction)))
            assert_same(on_cpu, b, tolerance)
