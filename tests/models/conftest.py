"""The tiny network of the golden files, for every test of this wing."""

from pathlib import Path

import pytest
import torch

from models import Reconstructor
from models.checkpoint import load_published
from tests.models.golden import TINY, made_up_state

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def tiny() -> Reconstructor:
    """TINY with its made-up weights, in float32. Shared by all tests: copy it before changing it."""
    model = Reconstructor(TINY)
    load_published(model, made_up_state(DATA / "tiny.manifest.json"))
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """The tiny network's tensors under their published names. Shared: copy before changing."""
    return made_up_state(DATA / "tiny.manifest.json")
