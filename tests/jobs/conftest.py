"""Fixtures for tests of jobs: a drive of generated images, and the weights of a small network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import Reconstructor
from models.checkpoint import save_checkpoint
from tests.networks import small_network

NETWORK = small_network(chunk_size=6, chunk_overlap=3)
FRAMES = 15


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small network whose memories have an effect, with poses near the identity and some parallax."""
    torch.manual_seed(3)
    model = Reconstructor(NETWORK)
    for memory in model.aggregator.memories.values():
        torch.nn.init.normal_(memory.proj.weight, std=0.2)
    with torch.no_grad():
        model.camera_head.pose_branch.fc2.weight.mul_(0.1)
        bias = torch.tensor([0, 0, 0.1, 0, 0, 0, 1, 0.8, 1.2]) / 4  # the corrections of four rounds are summed
        model.camera_head.pose_branch.fc2.bias.copy_(bias)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_checkpoint(model, path)
    return str(path)


def image(number: int, size: tuple[int, int] = (120, 62)) -> Image.Image:
    """A textured picture that moves with its number."""
    base = np.random.default_rng(1).integers(0, 256, (size[1], size[0] + 40, 3), dtype=np.uint8)
    return Image.fromarray(np.ascontiguousarray(base[:, number : number + size[0]]))


def folder_of_images(path: Path, count: int = FRAMES) -> Path:
    """A drive: frame0.png, frame1.png ... (natural order: frame2 before frame10)."""
    path.mkdir(parents=True)
    for number in range(count):
        image(number).save(path / f"frame{number}.png")
    return path


@pytest.fixture
def drive(tmp_path):
    """The folder of a drive called drive-1."""
    return folder_of_images(tmp_path / "drive-1")
