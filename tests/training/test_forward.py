"""Training's forward pass over stacked chunks against the network's plain reference."""

import pytest
import torch

from models import Reconstructor
from models.tokens import middle_first
from pipeline.training.forward import forward_groups
from tests.training.makers import SMALL


def _opened(seed=0):
    """A network whose memories have an effect, as after training."""
    torch.manual_seed(seed)
    model = Reconstructor(SMALL)
    for memory in model.aggregator.memories.values():
        torch.nn.init.normal_(memory.proj.weight, std=0.05)
    return model


@pytest.mark.parametrize("scope", ["drive", "chunk", "off"])
def test_stacked_chunks_give_the_same_as_the_plain_loop(scope):
    model = _opened()
    images = torch.rand(9, 3, 16, 32)
    chunks = [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
    plain = model.eval().forward_drive(images, chunks, memory_scope=scope)
    stacked = torch.stack([images[middle_first(chunk)] for chunk in chunks])
    with torch.no_grad():
        outputs = forward_groups(model, stacked, 3, memory_scope=scope)
    for i, one in enumerate(plain):
        torch.testing.assert_close(outputs.rounds[-1][i], one.pose_encoding, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs.depth.unflatten(0, (3, 5))[i], one.depth, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(outputs.points.unflatten(0, (3, 5))[i], one.points, atol=1e-4, rtol=1e-4)


def test_groups_in_a_batch_do_not_influence_each_other():
    model = _opened()
    a, b = torch.rand(2, 3, 3, 16, 32), torch.rand(2, 3, 3, 16, 32)
    with torch.no_grad():
        both = forward_groups(model, torch.cat([a, b]), 2)
        alone = forward_groups(model, a, 2)
        one_group = forward_groups(model, torch.cat([a, b]), 4)
    torch.testing.assert_close(both.depth[:6], alone.depth, atol=1e-5, rtol=1e-5)
    assert (one_group.depth[:6] - alone.depth).abs().max() > 1e-4


def test_dense_heads_run_for_the_given_frames_only():
    model = _opened()
    images = torch.rand(2, 4, 3, 16, 32)
    with torch.no_grad():
        every = forward_groups(model, images, 2)
        some = forward_groups(model, images, 2, dense_frames=[1, 3], with_points=False)
    assert some.points is None
    torch.testing.assert_close(some.depth, every.depth.unflatten(0, (2, 4))[:, [1, 3]].flatten(0, 1))


def test_chunks_that_do_not_split_into_groups_are_refused():
    with pytest.raises(ValueError, match="3 chunks do not split into groups of 2"):
        forward_groups(_opened(), torch.rand(3, 2, 3, 16, 32), 2)
