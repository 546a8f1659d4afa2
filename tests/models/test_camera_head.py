"""The camera head against a plain twin, round by round."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.camera_head import CameraHead
from tests.models import twins
from tests.models.golden import TINY

CONFIG = replace(TINY, embed_dim=16, num_heads=2)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def head() -> CameraHead:
    return twins.randomised(CameraHead(CONFIG), seed=2).eval()


def _plain_rounds(camera: Tensor, w: dict[str, Tensor], rounds: int = 4) -> list[Tensor]:
    """camera (S, 2d) -> the raw running estimate of every round."""
    t = twins.layer_norm(camera, 1e-5, w["token_norm.weight"], w["token_norm.bias"])
    estimate, estimates = None, []
    for _ in range(rounds):
        seen = w["empty_pose_tokens"][0].expand(len(camera), 9) if estimate is None else estimate
        m = seen @ w["embed_pose.weight"].T + w["embed_pose.bias"]
        modulation = twins.silu(m) @ w["modulation.weight"].T + w["modulation.bias"]
        shift, scale, gate = modulation.chunk(3, dim=-1)
        x = gate * (twins.layer_norm(t, 1e-6) * (1 + scale) + shift) + t
        for i in range(CONFIG.camera_trunk_depth):
            x = twins.block(x, twins.under(w, f"trunk.{i}."), CONFIG.camera_heads)
        x = twins.layer_norm(x, 1e-5, w["trunk_norm.weight"], w["trunk_norm.bias"])
        hidden = twins.gelu(x @ w["pose_branch.fc1.weight"].T + w["pose_branch.fc1.bias"])
        out = hidden @ w["pose_branch.fc2.weight"].T + w["pose_branch.fc2.bias"]
        estimate = out if estimate is None else estimate + out
        estimates.append(estimate)
    return estimates


def _activated(estimate: Tensor) -> Tensor:
    return torch.cat([estimate[:, :7], estimate[:, 7:].clamp(min=0)], dim=-1)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_every_round_is_that_of_the_plain_twin(head, scale):
    """Inputs a thousandth as large show the epsilon of the first norm."""
    camera = scale * _random(2, 5, 32)
    found = head.all_rounds(camera)
    assert len(found) == 4
    for b in range(2):
        expected = _plain_rounds(camera[b].double(), twins.doubles(head))
        for round_found, estimate in zip(found, expected, strict=True):
            difference = round_found[b].double() - _activated(estimate)
            assert difference.norm() < 1e-4 * _activated(estimate).norm()


def test_the_modulated_norm_has_its_own_smaller_epsilon(head):
    with torch.no_grad():  # tokens so small after the first norm that the second one's epsilon counts
        head.token_norm.weight.mul_(1e-3)
        head.token_norm.bias.zero_()
    camera = _random(1, 5, 32)
    expected = _activated(_plain_rounds(camera[0].double(), twins.doubles(head))[-1])
    assert (head(camera)[0].double() - expected).norm() < 1e-4 * expected.norm()


def test_the_result_is_that_of_the_last_round(head):
    camera = _random(1, 5, 32)
    assert torch.equal(head(camera), head.all_rounds(camera)[-1])


def test_only_the_output_is_rectified_the_running_estimate_is_not(head):
    """A field of view that starts below zero must be refined from its real value, not from zero."""
    camera = _random(1, 5, 32)
    with torch.no_grad():
        head.pose_branch.fc2.bias[7:] -= 0.3
    raw = _plain_rounds(camera[0].double(), twins.doubles(head))
    assert (raw[0][:, 7:] < 0).any()
    found = head.all_rounds(camera)
    assert all((r[..., 7:] >= 0).all() for r in found)
    assert any((r[..., :7] < 0).any() for r in found)
    for round_found, estimate in zip(found, raw, strict=True):
        torch.testing.assert_close(round_found[0].double(), _activated(estimate), rtol=1e-4, atol=1e-5)


def test_the_frames_of_a_chunk_attend_to_each_other_in_any_order(head):
    camera = _random(1, 5, 32)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(head(camera)[:, order], head(camera[:, order]), rtol=1e-4, atol=1e-5)
    other = camera.clone()
    other[0, 0] = 0
    assert not torch.allclose(head(other)[:, 1:], head(camera)[:, 1:], atol=1e-4)


def test_the_number_of_rounds_is_the_configurations():
    head = CameraHead(replace(CONFIG, camera_rounds=2))
    assert len(head.all_rounds(_random(1, 3, 32))) == 2
