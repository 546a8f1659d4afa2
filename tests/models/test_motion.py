"""The motion cue: correlation and its gradient agree with a plain twin; single frames are not changed."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import ModelConfig, Reconstructor
from models.motion import MotionCue, correlate
from models.tokens import middle_first


def correlate_plainly(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """Products of each cell's features with those of the cells around it in the other image, one product after another.

    first, second (..., H, W, channels) -> (..., H, W, (2 radius + 1)^2), by rows of the offset; 0 outside.
    """
    height, width = first.shape[-3:-1]
    padded = torch.nn.functional.pad(second, (0, 0, radius, radius, radius, radius))
    return torch.stack(
        [
            (first * padded[..., dy : dy + height, dx : dx + width, :]).sum(-1)
            for dy in range(2 * radius + 1)
            for dx in range(2 * radius + 1)
        ],
        dim=-1,
    )


def test_both_directions_and_their_gradients_agree_with_the_plain_twin():
    torch.manual_seed(0)
    first, second = (torch.randn(2, 5, 7, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    there, back = correlate(first, second, 2)
    plain_there, plain_back = correlate_plainly(first, second, 2), correlate_plainly(second, first, 2)
    torch.testing.assert_close(there, plain_there)
    torch.testing.assert_close(back, plain_back)
    a, b = torch.randn_like(there), torch.randn_like(back)
    grads = torch.autograd.grad((there * a + back * b).sum(), (first, second))
    plain = torch.autograd.grad((plain_there * a + plain_back * b).sum(), (first, second))
    for found, expected in zip(grads, plain, strict=True):
        torch.testing.assert_close(found, expected)


def _cue():
    torch.manual_seed(0)
    return MotionCue(width=8, cells=2, channels=4, radius=1)


def test_a_single_frame_has_no_motion():
    tokens = torch.randn(1, 1, 6, 8)
    assert torch.equal(_cue()(tokens, torch.randn(1, 1, 6, 16), (2, 3)), tokens)


def test_a_frames_motion_depends_on_its_neighbours_in_time_only():
    cue, tokens = _cue(), torch.zeros(1, 5, 6, 8)
    order = middle_first([0, 1, 2, 3, 4])
    fine = torch.randn(1, 5, 6, 16)
    changed = fine.clone()
    changed[:, order.index(4)] += 1.0  # the last frame in time
    difference = (cue(tokens, fine, (2, 3)) - cue(tokens, changed, (2, 3))).abs().amax((0, 2, 3))
    moved = {order[i] for i in range(5) if difference[i] > 1e-6}
    assert moved == {3, 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "conv"}, "motion_radius 3 must be 0"),
        ({"motion_radius": 0}, "dense_skip uses the motion cue's features"),
        ({"patch_size": 2, "image_size": 128}, "patch_size that is a multiple of 4"),
    ],
)
def test_a_cue_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(ModelConfig.city_tiny(), **changes)


def test_fine_features_reach_the_depth_head():
    torch.manual_seed(0)
    model = Reconstructor(ModelConfig.city_tiny()).eval()
    images = torch.rand(3, 3, 32, 64)
    before = model.forward_drive(images, [[0, 1, 2]], with_points=False)[0].depth
    with torch.no_grad():
        model.depth_head.skip.weight.normal_(std=0.1)
    after = model.forward_drive(images, [[0, 1, 2]], with_points=False)[0].depth
    assert (after - before).abs().max() > 1e-3
