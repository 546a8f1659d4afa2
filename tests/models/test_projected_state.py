"""Features that the depth head projects early give the same depth and take fewer bytes."""

from pathlib import Path

import pytest
import torch

from models import ModelConfig, Reconstructor
from models.checkpoint import load_published
from models.tokens import middle_first
from tests.models.golden import TINY, made_up_state
from tests.networks import small_network

# TINY with memories before the end, a dense layer without a memory, and layers after the last memory
CONFIG = small_network(
    embed_dim=64, depth=6, num_heads=4, dense_layers=(0, 1, 2, 5), dense_channels=(16, 16, 32, 32), camera_heads=4
)
CHUNKS = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]


def run(model, images, projected):
    """Run the drive as the pipeline does; returns predictions and the most bytes that a chunk held at a barrier."""
    aggregator = model.aggregator
    keep = {"keep": model.keep_projected} if projected else {}
    widest = 0
    states = [model.begin(model.encode(images[middle_first(c)])[None], model.grid_of(images)) for c in CHUNKS]
    for segment in range(len(model.config.segments)):
        states = [aggregator.run_segment(s, **keep) for s in states]
        widest = max(widest, *(s.nbytes for s in states))
        steps = [aggregator.memory_step(s) for s in states]
        weights = None
        if steps[0] is not None:
            total = type(steps[0])(*(sum(parts) for parts in zip(*steps, strict=True)))
            weights = aggregator.memory_update(segment, total, torch.float32)
        states = [aggregator.finish_segment(s, weights, **keep) for s in states]
    orders = [middle_first(c) for c in CHUNKS]
    return [model.predict(s, o, projected=projected) for s, o in zip(states, orders, strict=True)], widest


def network(config, dtype=torch.float32):
    torch.manual_seed(0)
    model = Reconstructor(config)
    for memory in model.aggregator.memories.values():
        torch.nn.init.normal_(memory.proj.weight, std=0.2)
    return model.requires_grad_(False).set_precision(dtype).eval()


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("config", [CONFIG, TINY, ModelConfig.city_tiny()], ids=["plain tail", "tiny", "city_tiny"])
def test_early_projection_gives_the_numbers_of_the_plain_twin(config):
    model = network(config)
    side = 2 * config.patch_size
    images = torch.rand(7, 3, side, 2 * side, generator=torch.Generator().manual_seed(1))
    plain = model.forward_drive(images, CHUNKS, with_points=False)
    fast, widest = run(model, images, projected=True)
    _, whole = run(model, images, projected=False)
    for a, b in zip(fast, plain, strict=True):
        assert distance(a.depth, b.depth) < 1e-6
        assert distance(a.depth_confidence, b.depth_confidence) < 1e-6
        assert distance(a.pose_encoding, b.pose_encoding) < 1e-6
    assert widest < whole


def test_in_bfloat16_the_projected_features_add_less_error_than_bfloat16_itself():
    images = torch.rand(7, 3, 28, 56, generator=torch.Generator().manual_seed(1))
    exact = network(CONFIG).forward_drive(images, CHUNKS, with_points=False)
    model = network(CONFIG, torch.bfloat16)
    plain = model.forward_drive(images, CHUNKS, with_points=False)
    fast, _ = run(model, images, projected=True)
    for f, p, e in zip(fast, plain, exact, strict=True):
        assert torch.equal(f.pose_encoding, p.pose_encoding)
        assert distance(p.depth, e.depth) > 1e-5
        assert distance(f.depth, e.depth) < 1.5 * distance(p.depth, e.depth)


def test_points_are_refused_if_only_the_depth_heads_projection_was_kept():
    model = network(TINY)
    state = model.begin(model.encode(torch.rand(2, 3, 28, 56))[None], (2, 4))
    for _ in model.config.segments:
        state = model.aggregator.run_segment(state, model.keep_projected)
        state = model.aggregator.finish_segment(state, None, model.keep_projected)
    with pytest.raises(ValueError, match="points need whole features"):
        model.predict(state, [0, 1], with_points=True, projected=True)


def barrier_bytes(config, frames, size, device):
    """Bytes that a chunk holds at each of its barriers, in bfloat16, from the tensors themselves."""
    with torch.device(device):
        model = Reconstructor(config)
    model.requires_grad_(False).set_precision(torch.bfloat16).eval()
    grid = (size[0] // config.patch_size, size[1] // config.patch_size)
    tokens = torch.zeros(1, frames, grid[0] * grid[1], config.embed_dim, dtype=torch.bfloat16, device=device)
    state = model.begin(tokens, grid)
    held = []
    for _ in config.segments:
        state = model.aggregator.run_segment(state, model.keep_projected)
        held.append(state.nbytes)
        state = model.aggregator.finish_segment(state, None, model.keep_projected)
    return held


def test_a_chunk_of_the_published_network_holds_less_than_200_megabytes_at_a_barrier():
    # tensors without data count like real ones:
    assert barrier_bytes(TINY, 3, (28, 56), "meta") == barrier_bytes(TINY, 3, (28, 56), "cpu")
    held = barrier_bytes(ModelConfig.scal3r(), 60, (154, 518), "meta")
    print([f"{h / 1e6:.0f} MB" for h in held])
    assert len(held) == 4
    assert max(held) <= 200e6


def test_the_weights_of_the_golden_files_give_the_same_both_ways():
    model = Reconstructor(TINY).eval().requires_grad_(False)
    load_published(model, made_up_state(Path(__file__).parent / "data" / "tiny.manifest.json"))
    images = torch.rand(7, 3, 28, 56, generator=torch.Generator().manual_seed(1))
    plain = model.forward_drive(images, CHUNKS, with_points=False)
    for a, b in zip(run(model, images, projected=True)[0], plain, strict=True):
        assert distance(a.depth, b.depth) < 3e-6
