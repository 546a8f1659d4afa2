"""A small drive in three chunks for tests of the whole network, and a comparison of predictions."""

from dataclasses import fields

import torch
from torch import Tensor

from models import ModelConfig, Prediction, Reconstructor
from models.checkpoint import load_published, published_state
from tests.models.golden import made_up_tensor

CHUNKS = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6]]
GRID = (2, 3)


def some_images(count: int = 7, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 28, 42, generator=torch.Generator().manual_seed(seed))


def made_up(config: ModelConfig) -> Reconstructor:
    """A network of any configuration, with random weights whose seeds are their published names."""
    model = Reconstructor(config).eval().requires_grad_(False)
    load_published(model, {n: made_up_tensor(n, tuple(t.shape)) for n, t in published_state(model).items()})
    return model


def assert_same(found: Prediction, expected: Prediction, tolerance: float = 0.0) -> None:
    """Assert that every field is within a relative distance; 0 means equal bits."""
    for f in fields(Prediction):
        a, b = getattr(found, f.name), getattr(expected, f.name)
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        distance = ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12)).item()
        assert distance <= tolerance, f"{f.name} is {distance:.2e} away"
