"""One small network with random weights, for all tests that need a network."""

from dataclasses import replace

from models import ModelConfig

SMALL = ModelConfig(
    embed_dim=32,
    depth=4,
    num_heads=2,
    encoder="conv",
    image_size=56,
    memory_layers=(1, 3),
    dense_layers=(0, 1, 2, 3),
    dense_features=16,
    dense_channels=(16, 16, 16, 16),
    camera_trunk_depth=1,
    camera_heads=2,
    layer_scale=0.5,
)


def small_network(**changes) -> ModelConfig:
    """The small network with some settings changed."""
    return replace(SMALL, **changes)
