"""Losses are zero for the truth, rise with the error, and ignore pixels without truth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses import camera_loss, depth_loss, plain_depth_loss, point_loss, relative_pose_loss
from models.tokens import time_offsets


def _poses(seed, frames=5):
    generator = torch.Generator().manual_seed(seed)
    encoding = torch.randn(2, frames, 9, generator=generator) * 0.1
    encoding[..., 6] += 1
    encoding[..., 3:7] /= encoding[..., 3:7].norm(dim=-1, keepdim=True)
    return encoding


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_truth_costs_nothing_and_an_error_in_the_last_round_most(seed):
    target, wrong = _poses(seed), _poses(seed + 1)
    assert camera_loss([target] * 4, target) == 0
    assert relative_pose_loss(target, target, time_offsets(5)) == pytest.approx(0, abs=1e-5)
    late = camera_loss([target, target, target, wrong], target)
    early = camera_loss([wrong, target, target, target], target)
    assert late > early > 0


def test_relative_motion_ignores_the_length_of_a_quaternion_and_penalises_drift():
    target = _poses(3)
    longer = target.clone()
    longer[..., 3:7] *= 2
    assert relative_pose_loss(longer, target, time_offsets(5)) == pytest.approx(0, abs=1e-4)
    drifted = target.clone()
    drifted[..., 0] += torch.arange(5) * 0.1
    assert relative_pose_loss(drifted, target, time_offsets(5)) > 0.1


def test_a_head_that_gives_zero_has_a_finite_gradient():
    estimate = torch.zeros(1, 3, 9, requires_grad=True)
    target = _poses(1, 3)[:1]
    (relative_pose_loss(estimate, target, time_offsets(3)) + camera_loss([estimate], target)).backward()
    assert estimate.grad.isfinite().all()


def test_single_frames_have_no_motion_to_judge():
    assert relative_pose_loss(_poses(0, 1), _poses(1, 1), [0]) == 0


@pytest.mark.parametrize("loss", ["depth", "points"])
def test_pixels_without_truth_change_nothing_but_their_confidence(loss):
    torch.manual_seed(0)
    target = 1 + torch.rand(1, 6, 8)
    valid = torch.ones(1, 6, 8, dtype=torch.bool)
    valid[:, :2] = False
    confidence = torch.full((1, 6, 8), 1.5, requires_grad=True)

    def cost(said):
        if loss == "depth":
            return depth_loss(said, confidence, target * valid, valid)
        points = torch.stack([said] * 3, -1)
        return point_loss(points, confidence, torch.stack([target * valid] * 3, -1), valid)

    said = (target * 1.1).clone()
    other = said.clone()
    other[:, :2] *= 5
    torch.testing.assert_close(cost(said), cost(other))
    (gradient,) = torch.autograd.grad(cost(said), confidence)
    assert (gradient[:, :2] > 0).all()  # less confidence where there is no truth


def test_confidence_rises_where_the_error_is_small_and_falls_where_it_is_large():
    target = torch.ones(1, 4, 4)
    said = target.clone()
    said[:, :2] *= 3
    confidence = torch.full((1, 4, 4), 2.0, requires_grad=True)
    loss = depth_loss(said, confidence, target, torch.ones(1, 4, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, confidence)
    assert (gradient[:, :2] > 0).all() and (gradient[:, 2:] < 0).all()


def test_depth_counts_relative_errors_and_edges():
    target = torch.linspace(1, 4, 16).view(1, 4, 4)
    confidence, valid = torch.ones(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    near = depth_loss(target * 1.1, confidence, target, valid)
    far = depth_loss(target * 110, confidence, target * 100, valid)
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-4)
    rough = target * torch.tensor([1.1, 1 / 1.1]).repeat(2).view(1, 1, 4)
    assert depth_loss(rough, confidence, target, valid) > near + 0.05


def test_the_plain_depth_loss_does_not_depend_on_confidence():
    target = torch.ones(1, 4, 4)
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[0, 0, 0] = False
    said = (target * 1.5).requires_grad_()
    loss = plain_depth_loss(said, target, valid)
    assert loss.item() == pytest.approx(0.5, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, said)
    assert gradient[0, 0, 0] == 0 and torch.allclose(gradient[valid], torch.full((15,), 1 / 15), atol=1e-5)
