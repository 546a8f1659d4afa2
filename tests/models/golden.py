"""The golden files: random weights whose seeds are their names, configurations, and the comparison of their README."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from models import ModelConfig

TINY = ModelConfig(
    embed_dim=64,
    depth=4,
    num_heads=4,
    encoder="conv",
    image_size=56,
    patch_size=14,
    memory_layers=(1, 3),
    dense_layers=(0, 1, 2, 3),
    dense_features=32,
    dense_channels=(16, 32, 64, 64),
    camera_trunk_depth=2,
    camera_heads=4,
)
SMALL = ModelConfig(
    embed_dim=384,
    depth=6,
    num_heads=6,
    encoder="dinov2_vits14_reg",
    image_size=70,
    memory_layers=(2, 5),
    dense_layers=(1, 2, 3, 5),
    dense_features=64,
    dense_channels=(32, 64, 128, 128),
    camera_trunk_depth=4,
    camera_heads=8,
)
_TOKENS = {
    "camera_token",
    "register_token",
    "cls_token",
    "register_tokens",
    "mask_token",
    "pos_embed",
    "empty_pose_tokens",
}


def made_up_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A random tensor whose seed is its name (golden README, "Weights")."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gamma":
        x = 0.3 + 0.05 * x
    elif leaf in ("w0", "w1", "w2"):
        x = x / math.sqrt(shape[1])
    elif "norm" in name and leaf == "weight":
        x = 1 + 0.1 * x
    elif leaf not in _TOKENS and len(shape) == 1:
        x = 0.05 * x
    elif leaf in _TOKENS:
        x = 0.2 * x
    else:
        x = x / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def made_up_state(manifest: Path) -> dict[str, torch.Tensor]:
    """All tensors of a manifest (name -> shape)."""
    return {n: made_up_tensor(n, tuple(s)) for n, s in json.loads(manifest.read_text()).items()}


def relative(found: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance in float64."""
    found = np.asarray(found, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
