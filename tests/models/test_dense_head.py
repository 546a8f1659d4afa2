"""The dense head against a plain twin in the published order of operations."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.dense_head import DenseHead, ResidualUnit, depth_from, grid_embedding, points_from
from tests.models import twins
from tests.models.golden import TINY

CONFIG = replace(TINY, embed_dim=16, num_heads=2, dense_features=16, dense_channels=(8, 12, 16, 16))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _plain_grid(channels: int, height: int, width: int, aspect: float) -> Tensor:
    """The grid embedding times its factor, number by number, in Python's floats."""
    n = math.sqrt(aspect**2 + 1)
    quarter = channels // 4

    def place(index: int, count: int, extent: float) -> float:
        end = extent / n * (count - 1) / count
        return -end + 2 * end * index / (count - 1) if count > 1 else -end

    grid = torch.empty(channels, height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            for axis, p in enumerate((place(c, width, aspect), place(r, height, 1.0))):
                for j in range(quarter):
                    f = 100 ** (-j / quarter)
                    grid[axis * 2 * quarter + j, r, c] = math.sin(p * f)
                    grid[axis * 2 * quarter + quarter + j, r, c] = math.cos(p * f)
    return grid


@pytest.mark.parametrize(
    ("channels", "height", "width", "aspect"),
    [(8, 3, 5, 5 / 3), (16, 5, 8, 112 / 70), (4, 1, 6, 2.0), (12, 4, 1, 0.5), (8, 3, 4, 3.4)],
)
def test_the_grid_embedding_equals_its_plain_twin(channels, height, width, aspect):
    found = grid_embedding(channels, height, width, aspect)
    assert found.dtype == torch.float32
    expected = _plain_grid(channels, height, width, aspect)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-7)


def test_a_residual_unit_adds_the_rectified_input():
    unit = twins.randomised(ResidualUnit(8))
    x = _random(2, 8, 5, 6)
    before = x.clone()

    def conv(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, getattr(unit, name).weight, getattr(unit, name).bias, padding=1)

    branch = conv("conv2", F.relu(conv("conv1", F.relu(x))))
    found = unit(x)
    torch.testing.assert_close(found, branch + F.relu(x))
    assert not torch.allclose(found, branch + x, atol=1e-2)
    assert torch.equal(x, before)  # the input is not changed


def _lerp(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, corners aligned: x (C, h, w) -> (C, height, width), from the definition."""

    def along_last(y: Tensor, count: int) -> Tensor:
        old = y.shape[-1]
        columns = []
        for i in range(count):
            at = i * (old - 1) / (count - 1) if count > 1 else 0.0
            low = min(int(at), old - 1)
            high = min(low + 1, old - 1)
            columns.append(y[..., low] * (1 - (at - low)) + y[..., high] * (at - low))
        return torch.stack(columns, dim=-1)

    return along_last(along_last(x, width).transpose(-1, -2), height).transpose(-1, -2)


def _plain_head(features: list[Tensor], w: dict[str, Tensor], grid: tuple[int, int]) -> Tensor:
    """One frame: four features (patches, 2d) -> raw output (H, W, values + 1); in the published order of operations."""
    height, width = grid[0] * 14, grid[1] * 14
    aspect = width / height

    def conv(x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv2d(x[None], w[f"{name}.weight"], w.get(f"{name}.bias"), **how)[0]

    def with_grid(x: Tensor) -> Tensor:
        return x + 0.1 * _plain_grid(x.shape[0], x.shape[1], x.shape[2], aspect)

    def unit(x: Tensor, name: str) -> Tensor:
        inner = conv(F.relu(x), f"{name}.conv1", padding=1)
        return conv(F.relu(inner), f"{name}.conv2", padding=1) + F.relu(x)

    laterals = []
    for i, feature in enumerate(features):
        tokens = twins.layer_norm(feature, 1e-5, w["norm.weight"], w["norm.bias"])
        x = with_grid(conv(tokens.T.reshape(-1, *grid), f"projects.{i}"))
        if i < 2:
            how = {"stride": 4 if i == 0 else 2}
            x = F.conv_transpose2d(x[None], w[f"resize.{i}.weight"], w[f"resize.{i}.bias"], **how)[0]
        elif i == 3:
            x = conv(x, "resize.3", stride=2, padding=1)
        laterals.append(conv(x, f"lateral.{i}", padding=1))
    y = unit(laterals[3], "fusion.3.unit2")
    for i in (3, 2, 1, 0):
        if i < 3:
            y = unit(y + unit(laterals[i], f"fusion.{i}.unit1"), f"fusion.{i}.unit2")
        size = laterals[i - 1].shape[1:] if i else (2 * y.shape[1], 2 * y.shape[2])
        y = conv(_lerp(y, *size), f"fusion.{i}.out")  # resized first; the product code resizes last, which is cheaper
    y = with_grid(_lerp(conv(y, "output1", padding=1), height, width))
    y = F.relu(conv(y, "output2.0", padding=1))
    return conv(y, "output2.2").permute(1, 2, 0)


@pytest.mark.parametrize("values", [1, 3])
@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 1)])
def test_the_dense_head_equals_its_plain_twin(values, grid):
    head = twins.randomised(DenseHead(CONFIG, values), seed=4).eval()
    features = [_random(2, grid[0] * grid[1], 32, seed=i) for i in range(4)]
    found, confidence = head(features, grid)
    height, width = grid[0] * 14, grid[1] * 14
    assert found.shape == (2, height, width, values)
    assert confidence.shape == (2, height, width)
    assert (confidence >= 1).all()
    for s in range(2):
        raw = _plain_head([f[s].double() for f in features], twins.doubles(head), grid)
        assert (found[s].double() - raw[..., :-1]).norm() < 2e-5 * raw[..., :-1].norm()
        expected = 1 + raw[..., -1].exp()
        assert (confidence[s].double() - expected).norm() < 2e-5 * expected.norm()


def test_one_norm_is_shared_and_adds_its_epsilon():
    head = twins.randomised(DenseHead(CONFIG, 1), seed=4).eval()
    features = [1e-3 * _random(1, 6, 32, seed=i) for i in range(4)]
    raw = _plain_head([f[0].double() for f in features], twins.doubles(head), (2, 3))
    assert (head(features, (2, 3))[0][0].double() - raw[..., :-1]).norm() < 2e-5 * raw[..., :-1].norm()
    larger = [1e3 * f for f in features]  # without the epsilon, scale would make no difference at all
    assert not torch.allclose(head(larger, (2, 3))[0], head(features, (2, 3))[0], atol=1e-3)


def test_the_deepest_fusion_has_no_first_unit():
    head = DenseHead(CONFIG, 1)
    assert [block.unit1 is None for block in head.fusion] == [False, False, False, True]


def test_depth_is_the_exponential():
    y = torch.tensor([[[[-2.0], [0.0], [1.5]]]])
    torch.testing.assert_close(depth_from(y), torch.tensor([[[math.exp(-2), 1.0, math.exp(1.5)]]]))


def test_points_are_the_inverse_logarithm_with_its_sign():
    y = torch.tensor([[[[-2.0, 0.0, 1e-6]]]])
    expected = torch.tensor([[[[-(math.exp(2) - 1), 0.0, 1e-6]]]])
    torch.testing.assert_close(points_from(y), expected, rtol=1e-6, atol=0)  # exact near zero, too
