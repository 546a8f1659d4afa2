"""The encoders against a plain twin of the vision transformer; position embeddings; frames are independent."""

import math

import pytest
import torch
from torch import Tensor

from models.encoder import PatchProjection, VisionTransformer, make_encoder
from tests.models import twins
from tests.models.golden import SMALL, TINY

WIDTH, SIDE, PATCH = 128, 3, 14


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vit() -> VisionTransformer:
    return twins.randomised(VisionTransformer(WIDTH, 2, SIDE * PATCH, PATCH)).eval()


def _plain_patches(image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """image (3, H, W) -> (patches, width), patch by patch, row by row."""
    rows, cols = image.shape[1] // PATCH, image.shape[2] // PATCH
    tokens = [
        (weight * image[None, :, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH]).sum((1, 2, 3)) + bias
        for r in range(rows)
        for c in range(cols)
    ]
    return torch.stack(tokens)


def _cubic_resized(values: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing along the first axis, from the definition (a = -0.5, as in Pillow)."""
    count = values.shape[0]
    scale = count / size
    stretch = max(scale, 1.0)  # the filter grows where the result is coarser

    def cubic(t: float) -> float:
        t, a = abs(t), -0.5
        if t < 1:
            return ((a + 2) * t - (a + 3)) * t * t + 1
        return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0

    rows = []
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = torch.tensor([cubic((j + 0.5 - centre) / stretch) for j in range(count)], dtype=values.dtype)
        rows.append(torch.tensordot(weights / weights.sum(), values, dims=1))
    return torch.stack(rows)


def test_the_convolution_gives_one_token_a_patch_row_by_row():
    encoder = twins.randomised(make_encoder(TINY))
    assert isinstance(encoder, PatchProjection)
    images = _random(2, 3, 28, 42)
    found = encoder(images)
    w = twins.doubles(encoder)
    for s in range(2):
        expected = _plain_patches(images[s].double(), w["proj.weight"], w["proj.bias"])
        torch.testing.assert_close(found[s].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
def test_the_transformer_equals_its_plain_twin(vit, grid):
    """CLS and patches get positions, then four registers are put between them; only normalised patches are returned."""
    w = twins.doubles(vit)
    image = _random(3, grid[0] * PATCH, grid[1] * PATCH)
    tokens = _plain_patches(image.double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"])
    square = w["pos_embed"][0, 1:].view(SIDE, SIDE, WIDTH)
    if grid != (SIDE, SIDE):
        square = _cubic_resized(square, grid[0])
        square = _cubic_resized(square.transpose(0, 1), grid[1]).transpose(0, 1)
    cls = w["cls_token"][0] + w["pos_embed"][0, :1]
    x = torch.cat([cls, w["register_tokens"][0], tokens + square.reshape(-1, WIDTH)])
    for i in range(2):
        x = twins.block(x, twins.under(w, f"blocks.{i}."), WIDTH // 64, eps=1e-6)
    expected = twins.layer_norm(x, 1e-6, w["norm.weight"], w["norm.bias"])[5:]
    found = vit(image[None])[0].double()
    assert found.shape == (grid[0] * grid[1], WIDTH)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_at_the_training_size_the_position_embedding_is_used_as_it_is(vit):
    cls, patches = vit.position((SIDE, SIDE))
    assert torch.equal(patches, vit.pos_embed[:, 1:])
    assert patches.data_ptr() == vit.pos_embed[:, 1:].data_ptr()  # not even resized to its own size
    assert torch.equal(cls, vit.pos_embed[:, :1])


@pytest.mark.parametrize("grid", [(2, 2), (1, 4), (4, 3), (6, 7)])
def test_at_other_sizes_the_patch_part_is_resized_with_antialiasing_and_cls_keeps_its_own(vit, grid):
    cls, patches = vit.position(grid)
    square = vit.pos_embed[0, 1:].double().view(SIDE, SIDE, WIDTH)
    expected = _cubic_resized(_cubic_resized(square, grid[0]).transpose(0, 1), grid[1]).transpose(0, 1)
    assert patches.shape == (1, grid[0] * grid[1], WIDTH)
    torch.testing.assert_close(patches[0].double(), expected.reshape(-1, WIDTH), rtol=1e-4, atol=1e-5)
    assert torch.equal(cls, vit.pos_embed[:, :1])


def test_each_frame_is_encoded_by_itself(vit):
    images = _random(4, 3, 28, 42)
    together = vit(images)
    for s in range(4):
        torch.testing.assert_close(vit(images[s : s + 1])[0], together[s], rtol=1e-4, atol=1e-5)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(vit(images[order]), together[order], rtol=1e-4, atol=1e-5)
    other = images.clone()
    other[1] = 0
    unchanged = [0, 2, 3]
    torch.testing.assert_close(vit(other)[unchanged], together[unchanged], rtol=1e-4, atol=1e-5)


def test_the_mask_token_is_loaded_and_unused(vit):
    images = _random(1, 3, 28, 42)
    before = vit(images)
    with torch.no_grad():
        vit.mask_token.add_(100)
    assert torch.equal(vit(images), before)


def test_the_named_transformer_has_its_published_size():
    with torch.device("meta"):
        encoder = make_encoder(SMALL)
    assert isinstance(encoder, VisionTransformer)
    assert len(encoder.blocks) == 12
    assert encoder.blocks[0].attn.heads == 6
    assert encoder.norm.normalized_shape == (384,)
    assert encoder.pos_embed.shape == (1, 1 + 5 * 5, 384)


def test_the_aggregator_normalises_images_by_the_mean_and_deviation_of_imagenet(tiny):
    images = torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    plain = images.double()
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        plain[:, channel] = (plain[:, channel] - mean) / deviation
    w = twins.doubles(tiny.aggregator.encoder)
    found = tiny.encode(images)
    for s in range(2):
        expected = _plain_patches(plain[s], w["proj.weight"], w["proj.bias"])
        torch.testing.assert_close(found[s].double(), expected, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_positions_are_still_resized_in_float32(vit):
    low = VisionTransformer(WIDTH, 2, SIDE * PATCH, PATCH)
    low.load_state_dict(vit.state_dict())
    low.bfloat16()
    _, patches = low.position((2, 5))
    square = low.pos_embed[0, 1:].double().view(SIDE, SIDE, WIDTH)
    expected = _cubic_resized(_cubic_resized(square, 2).transpose(0, 1), 5).transpose(0, 1)
    assert patches.dtype == torch.bfloat16
    # one rounding at the end, none on the way
    error = (patches[0].double() - expected.reshape(-1, WIDTH)).abs()
    assert (error <= 2**-8 * expected.reshape(-1, WIDTH).abs() + 1e-6).all()
    assert math.isfinite(low(_random(1, 3, 28, 70)).float().sum().item())
