"""Fixtures of the network's tests: the tiny network of the golden files, and others."""

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


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Plain twins are compared on one thread: with more, sums are split in other places, and random weights enlarge the
    difference (1.9e-5 in float32, 7e-3 if a step is rounded to bfloat16)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
