"""The whole network with segments, chunks and memories, against one plain loop over layers."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from models import Prediction, Reconstructor
from models.fast_weights import FastWeights
from models.rope import RopeTable, rope_table
from models.tokens import ChunkState, middle_first
from tests.models.drives import CHUNKS, GRID, assert_same, made_up, some_images
from tests.models.golden import TINY


def _plainly(
    model: Reconstructor, images: Tensor, chunks: list[list[int]], dtype: torch.dtype = torch.float32
) -> list[Prediction]:
    """The network as one loop over layers with all chunks beside it: no segments, no states."""
    config, aggregator = model.config, model.aggregator
    rows, cols = images.shape[2] // 14, images.shape[3] // 14
    specials = 1 + config.register_tokens
    orders = [middle_first(list(chunk)) for chunk in chunks]

    def table(frames: int, width: int, special: int) -> RopeTable:
        one = rope_table((rows, cols), width, special, config.rope_base)
        return RopeTable(one.cos.repeat(frames, 1), one.sin.repeat(frames, 1))

    head_width = config.embed_dim // config.num_heads
    tokens = []
    for order in orders:
        frames = []
        for place, frame in enumerate(order):
            which = 0 if place == 0 else 1
            special = [aggregator.camera_token[0, which], aggregator.register_token[0, which]]
            frames.append(torch.cat([*special, aggregator.encode(images[frame : frame + 1])[0]]))
        tokens.append(torch.stack(frames))  # (S, P, d)
    features: list[dict[int, Tensor]] = [{} for _ in chunks]
    for layer in range(config.depth):
        frame_half = [aggregator.frame_blocks[layer](x, table(1, head_width, specials)) for x in tokens]
        tokens = [
            aggregator.global_blocks[layer](x.flatten(0, 1)[None], table(len(x), head_width, specials))[0].view(x.shape)
            for x in frame_half
        ]
        if layer in config.memory_layers:
            memory = aggregator.memories[str(layer)]
            patches = [x[:, specials:].flatten(0, 1)[None] for x in tokens]
            ropes = [table(len(x), config.embed_dim, 0) for x in tokens]
            steps = [memory.step(x, rope) for x, rope in zip(patches, ropes, strict=True)]
            weights = memory.update(FastWeights(*(sum(parts) for parts in zip(*steps, strict=True))), dtype)
            for x, p, rope in zip(tokens, patches, ropes, strict=True):
                x[:, specials:] = memory.apply_to(p, weights, rope).view(x[:, specials:].shape)
        for kept, before, x in zip(features, frame_half, tokens, strict=True):
            kept[layer] = torch.cat([before, x], dim=-1)
    predictions = []
    for order, kept in zip(orders, features, strict=True):
        dense = [kept[layer][:, specials:] for layer in config.dense_layers]
        depth, depth_confidence = model.depth_head(dense, (rows, cols))
        points, points_confidence = model.point_head(dense, (rows, cols))
        predictions.append(
            Prediction(
                frame_index=torch.tensor(order),
                pose_encoding=model.camera_head(kept[config.depth - 1][None, :, 0])[0],
                depth=depth[..., 0].exp(),
                depth_confidence=depth_confidence,
                points=points.sign() * (points.abs().exp() - 1),
                points_confidence=points_confidence,
            )
        )
    return predictions


@pytest.mark.parametrize("memory_layers", [(1, 3), (0, 2), (3,), (0, 1, 2, 3), ()])
def test_segments_give_the_same_as_one_loop_over_layers(memory_layers):
    model = made_up(replace(TINY, memory_layers=memory_layers))
    found = model.forward_drive(some_images(), CHUNKS)
    for a, b in zip(found, _plainly(model, some_images(), CHUNKS), strict=True):
        assert_same(a, b, 1e-5)


def test_dense_features_may_come_from_any_four_layers():
    model = made_up(replace(TINY, depth=6, memory_layers=(1, 4), dense_layers=(0, 1, 3, 4)))
    found = model.forward_drive(some_images(), CHUNKS)
    for a, b in zip(found, _plainly(model, some_images(), CHUNKS), strict=True):
        assert_same(a, b, 1e-5)


def test_segments_may_be_run_separately_with_any_barrier_between_them(tiny):
    """As in the pipeline's worker: steps are summed elsewhere, and states are stored in between."""
    expected = tiny.forward_drive(some_images(), CHUNKS)
    orders = [middle_first(chunk) for chunk in CHUNKS]
    states = [tiny.begin(tiny.encode(some_images()[order])[None], GRID) for order in orders]
    for segment in range(len(TINY.segments)):
        states = [tiny.aggregator.run_segment(state) for state in states]
        total = None
        for state in states:
            step = tiny.aggregator.memory_step(state)
            total = step if total is None else FastWeights(*(a + b for a, b in zip(total, step, strict=True)))
        weights = tiny.aggregator.memory_update(segment, total, torch.float32)
        states = [tiny.aggregator.finish_segment(state, weights) for state in states]
    for state, order, prediction in zip(states, orders, expected, strict=True):
        assert state.next_segment == len(TINY.segments)
        assert_same(tiny.predict(state, order, with_points=True), prediction, 1e-5)


def test_a_chunk_at_a_barrier_holds_no_feature_that_the_memory_will_change(tiny):
    """TINY keeps the features of layers 0 to 3; of layer 1, only the frame half before its memory was read."""
    state = tiny.aggregator.run_segment(tiny.begin(tiny.encode(some_images(2))[None], GRID))
    assert set(state.features) == {0}
    assert state.frame_half is not None
    finished = tiny.aggregator.finish_segment(state, None)
    assert set(finished.features) == {0, 1}
    assert finished.frame_half is None
    assert finished.nbytes == 4 * (2 * 11 * 64 + 2 * (2 * 6 * 128))


def test_the_order_of_chunks_is_irrelevant(tiny):
    expected = tiny.forward_drive(some_images(), CHUNKS)
    order = [2, 0, 1]
    found = tiny.forward_drive(some_images(), [CHUNKS[i] for i in order])
    for i, prediction in zip(order, found, strict=True):
        assert_same(prediction, expected[i], 1e-5)


def test_chunks_influence_each_other_through_the_memory_only(tiny):
    changed = some_images()
    changed[6] = 1 - changed[6]  # in the last chunk only
    for scope, moves in (("drive", True), ("chunk", False), ("off", False)):
        before, after = (tiny.forward_drive(x, CHUNKS, memory_scope=scope)[0] for x in (some_images(), changed))
        assert torch.equal(before.pose_encoding, after.pose_encoding) is not moves
        assert torch.equal(before.depth, after.depth) is not moves


def test_with_one_chunk_the_drives_memory_is_the_chunks(tiny):
    drive, chunk, off = (
        tiny.forward_drive(some_images(), CHUNKS[:1], memory_scope=scope)[0] for scope in ("drive", "chunk", "off")
    )
    assert_same(drive, chunk)
    assert not torch.allclose(off.depth, drive.depth, rtol=1e-2)


def test_chunk_scope_equals_each_chunk_as_a_separate_drive(tiny):
    together = tiny.forward_drive(some_images(), CHUNKS, memory_scope="chunk")
    for chunk, prediction in zip(CHUNKS, together, strict=True):
        assert_same(prediction, tiny.forward_drive(some_images(), [chunk])[0])
    assert not torch.allclose(tiny.forward_drive(some_images(), CHUNKS)[0].depth, together[0].depth, rtol=1e-2)


def test_scope_off_equals_a_network_without_memories(tiny):
    plain = made_up(replace(TINY, memory_layers=()))
    for a, b in zip(
        tiny.forward_drive(some_images(), CHUNKS, memory_scope="off"),
        plain.forward_drive(some_images(), CHUNKS),
        strict=True,
    ):
        assert_same(a, b, 1e-5)


def test_two_equal_chunks_change_the_memory_as_much_as_one(tiny):
    """The sum is twice as large, but Newton-Schulz normalises it."""
    once, twice = (tiny.forward_drive(some_images(), [CHUNKS[0]] * n)[0] for n in (1, 2))
    assert_same(twice, once, 1e-5)


def test_the_dtype_of_newton_schulz_is_an_argument(tiny):
    exact, low = (
        tiny.forward_drive(some_images(), CHUNKS, orthogonalise_dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    for a, b in zip(low, _plainly(tiny, some_images(), CHUNKS, torch.bfloat16), strict=True):
        assert_same(a, b, 1e-3)
    distance = (low[0].depth - exact[0].depth).norm() / exact[0].depth.norm()
    assert 1e-3 < distance < 0.3


def test_points_are_an_option(tiny):
    with_points, without = (tiny.forward_drive(some_images(), CHUNKS[:1], with_points=w)[0] for w in (True, False))
    assert without.points is None
    assert without.points_confidence is None
    assert torch.equal(without.depth, with_points.depth)


def test_long_chunks_pass_the_heads_a_few_frames_at_a_time_and_no_number_changes(tiny):
    images, chunk = some_images(19), list(range(19))
    assert_same(tiny.forward_drive(images, [chunk])[0], _plainly(tiny, images, [chunk])[0], 1e-5)


def test_a_drive_of_one_frame_works(tiny):
    prediction = tiny.forward_drive(some_images(1), [[0]])[0]
    assert prediction.frame_index.tolist() == [0]
    assert prediction.pose_encoding.shape == (1, 9)
    assert prediction.depth.shape == (1, 28, 42)
    assert prediction.points.shape == (1, 28, 42, 3)
    assert all(torch.isfinite(getattr(prediction, f.name)).all() for f in fields(Prediction))


def test_frame_order_changes_the_camera_token_only():
    """The frames are equal: without frame_order, all except the reference frame get the same result."""
    same = some_images(1).expand(5, -1, -1, -1)
    plain, ordered = (made_up(replace(TINY, frame_order=on)) for on in (False, True))
    tokens = [m.begin(m.encode(same)[None], GRID).tokens for m in (plain, ordered)]
    assert torch.equal(tokens[0][:, :, 1:], tokens[1][:, :, 1:])
    assert torch.equal(tokens[0][:, 0], tokens[1][:, 0])  # the reference is at zero
    offset = torch.tensor([0.0, -2, -1, 1, 2])
    place = torch.stack([offset / 10, torch.tanh(offset / 2)], dim=-1)
    expected = tokens[0][0, :, 0] + place @ ordered.aggregator.frame_order.weight.T
    torch.testing.assert_close(tokens[1][0, :, 0], expected)
    poses = [m.forward_drive(same, [[0, 1, 2, 3, 4]])[0].pose_encoding for m in (plain, ordered)]
    torch.testing.assert_close(poses[0][1:], poses[0][1:2].expand(4, -1), rtol=1e-4, atol=1e-4)
    assert (poses[1][1] - poses[1][4]).norm() > 1e-2


def test_the_reference_frame_has_tokens_of_its_own(tiny):
    tokens = tiny.begin(tiny.encode(some_images(3))[None], GRID).tokens[0]
    camera, register = tiny.aggregator.camera_token[0], tiny.aggregator.register_token[0]
    for frame, which in enumerate((0, 1, 1)):
        assert torch.equal(tokens[frame, :1], camera[which])
        assert torch.equal(tokens[frame, 1:5], register[which])


# -- chunks stacked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_memories", [False, True])
def test_stacked_chunks_give_the_same_as_each_alone(tiny, own_memories):
    aggregator = tiny.aggregator
    patches = [tiny.encode(some_images(4, seed)) for seed in range(3)]
    stacked, alone = tiny.begin(torch.stack(patches), GRID), [tiny.begin(p[None], GRID) for p in patches]
    for segment in range(len(TINY.segments)):
        stacked = aggregator.run_segment(stacked)
        alone = [aggregator.run_segment(state) for state in alone]
        steps = aggregator.memory_step(stacked)
        single = [aggregator.memory_step(state) for state in alone]
        for a, parts in zip(steps, zip(*single, strict=True), strict=True):
            torch.testing.assert_close(a, torch.cat(parts), rtol=1e-3, atol=1e-4)
        if not own_memories:  # one drive: summed over the stack
            steps = FastWeights(*(g.sum(0, keepdim=True) for g in steps))
            single = [FastWeights(*(sum(parts) for parts in zip(*single, strict=True)))] * 3
        weights = aggregator.memory_update(segment, steps, torch.float32)
        stacked = aggregator.finish_segment(stacked, weights)
        alone = [
            aggregator.finish_segment(state, aggregator.memory_update(segment, step, torch.float32))
            for state, step in zip(alone, single, strict=True)
        ]
    for b, state in enumerate(alone):
        torch.testing.assert_close(stacked.camera[b], state.camera[0], rtol=1e-3, atol=1e-4)
        for layer in TINY.dense_layers:
            torch.testing.assert_close(stacked.features[layer][b], state.features[layer][0], rtol=1e-3, atol=1e-4)


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 28, 42), (2, 1, 28, 42), (2, 3, 27, 42), (2, 3, 28, 43), (2, 3, 0, 42), (2, 28, 42, 3)]
)
def test_images_of_the_wrong_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r"images must be \(N, 3, H, W\), sides multiples of 14, not"):
        tiny.forward_drive(torch.zeros(shape), [[0, 1]])


@pytest.mark.parametrize("chunks", [[], [[]], [[0, 1], []]])
def test_a_drive_without_chunks_or_a_chunk_without_frames_is_refused(tiny, chunks):
    with pytest.raises(ValueError, match="at least one"):
        tiny.forward_drive(some_images(2), chunks)


@pytest.mark.parametrize(("chunks", "named"), [([[0, 1], [1, 2]], 2), ([[-1, 0]], -1)])
def test_chunks_that_name_absent_frames_are_refused(tiny, chunks, named):
    with pytest.raises(ValueError, match=f"chunks name frame {named}, there are 2"):
        tiny.forward_drive(some_images(2), chunks)


def test_an_unfinished_chunk_gives_no_prediction(tiny):
    state = tiny.begin(tiny.encode(some_images(2))[None], GRID)
    with pytest.raises(ValueError, match="has not passed all segments yet"):
        tiny.predict(state, [0, 1])


def test_a_segment_is_run_before_it_is_finished(tiny):
    state = tiny.begin(tiny.encode(some_images(2))[None], GRID)
    with pytest.raises(ValueError, match="finish_segment must follow run_segment"):
        tiny.aggregator.finish_segment(state, None)


def test_without_a_memory_update_and_read_are_refused():
    model = made_up(replace(TINY, memory_layers=(1,)))
    aggregator, memory = model.aggregator, model.aggregator.memories["1"]
    state = ChunkState(model.begin(model.encode(some_images(2))[None], GRID).tokens, GRID, next_segment=1)
    state = aggregator.run_segment(state)
    assert aggregator.memory_step(state) is None
    with pytest.raises(ValueError, match="there is no memory at the end of segment 1"):
        aggregator.memory_update(1, memory.start, torch.float32)
    with pytest.raises(ValueError, match="there is no memory at the end of segment 1"):
        aggregator.finish_segment(state, memory.start)


# -- training, and another device ---------------------------------------------------------------------------


def test_gradients_reach_every_parameter_through_the_update_and_the_sum_over_chunks():
    """As in training, where the inner update is differentiated through."""
    model = made_up(TINY).requires_grad_(True)
    chunks = CHUNKS[:2]
    orders = [middle_first(chunk) for chunk in chunks]
    states = [model.begin(model.encode(some_images()[order])[None], GRID) for order in orders]
    for segment in range(len(TINY.segments)):
        states = [model.aggregator.run_segment(state) for state in states]
        steps = [model.aggregator.memory_step(state) for state in states]
        total = FastWeights(*(sum(parts) for parts in zip(*steps, strict=True)))
        weights = model.aggregator.memory_update(segment, total, torch.float32)
        states = [model.aggregator.finish_segment(state, weights) for state in states]
    prediction = model.predict(states[0], orders[0], with_points=True)
    outputs = [getattr(prediction, f.name) for f in fields(Prediction) if f.name != "frame_index"]
    sum(output.square().mean() for output in outputs).backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []
