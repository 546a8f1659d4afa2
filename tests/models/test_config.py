"""The configuration: presets, segments, round trips, and every refusal."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from models import ModelConfig
from tests.models.golden import TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "resnet"}, "encoder must be one of conv, .*, not 'resnet'"),
        ({"encoder": "dinov2_vits14_reg"}, "gives tokens 384 wide, embed_dim is 64"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, not 0"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"num_heads": 0}, "num_heads must be at least 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"dense_features": 0}, "dense_features must be at least 1"),
        ({"camera_trunk_depth": 0}, "camera_trunk_depth must be at least 1"),
        ({"camera_heads": 0}, "camera_heads must be at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio must be at least 1"),
        ({"memory_hidden_ratio": 0}, "memory_hidden_ratio must be at least 1"),
        ({"memory_steps": 0}, "memory_steps must be at least 1"),
        ({"camera_rounds": -1}, "camera_rounds must be at least 1, not -1"),
        ({"register_tokens": -1}, "register_tokens must not be negative, not -1"),
        ({"memory_base_rate": 0.0}, "memory_base_rate must be above 0"),
        ({"memory_base_rate": float("nan")}, "memory_base_rate must be above 0"),
        ({"rope_base": -2.0}, "rope_base must be above 0"),
        ({"num_heads": 3}, "embed_dim 64 over num_heads 3 must be a multiple of 4"),
        ({"num_heads": 32}, "embed_dim 64 over num_heads 32 must be a multiple of 4"),
        ({"camera_heads": 3}, "multiple of camera_heads 3"),
        ({"image_size": 57}, "image_size 57 is not a multiple of patch_size 14"),
        ({"dense_layers": (0, 1, 2)}, "must name four layers and four widths"),
        ({"dense_channels": (16, 32, 64)}, "must name four layers and four widths"),
        ({"dense_channels": (16, 32, 64, 66)}, "dense_channels must be multiples of 4"),
        ({"dense_channels": (0, 32, 64, 64)}, "dense_channels must be multiples of 4"),
        ({"dense_features": 36}, "dense_features of 8"),
        ({"memory_layers": (3, 1)}, r"memory_layers \(3, 1\) must rise and lie within 0..3"),
        ({"memory_layers": (1, 1)}, "memory_layers .* must rise"),
        ({"memory_layers": (1, 4)}, "memory_layers .* within 0..3"),
        ({"memory_layers": (-1,)}, "memory_layers .* within 0..3"),
        ({"dense_layers": (0, 2, 1, 3)}, "dense_layers .* must rise"),
        ({"dense_layers": (0, 1, 2, 9)}, "dense_layers .* within 0..3"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("memory_layers", "segments"),
    [
        ((1, 3), (range(2), range(2, 4))),
        ((1,), (range(2), range(2, 4))),
        ((3,), (range(4),)),
        ((), (range(4),)),
        ((0, 1, 2, 3), (range(1), range(1, 2), range(2, 3), range(3, 4))),
    ],
)
def test_a_segment_ends_at_every_memory_and_at_the_last_layer(memory_layers, segments):
    assert replace(TINY, memory_layers=memory_layers).segments == segments


def test_the_published_network_is_the_paper_authors_configuration():
    config = ModelConfig.scal3r()
    assert config == ModelConfig()
    assert config.memory_layers == (14, 17, 20, 23)
    assert config.dense_layers == (4, 11, 17, 23)
    assert [len(s) for s in config.segments] == [15, 3, 3, 3]
    assert config.special_tokens == 5


@pytest.mark.parametrize("name", ["scal3r", "city_tiny", "vit_small"])
def test_every_preset_is_found_by_its_name_and_survives_json(name):
    config = ModelConfig.preset(name)
    assert config == getattr(ModelConfig, name)()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_preset_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no preset 'huge'; there are city_tiny, scal3r, vit_small"):
        ModelConfig.preset("huge")


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValueError, match="unknown model settings: colour, width"):
        ModelConfig.from_dict({"width": 3, "colour": "red", "depth": 4})


def test_a_configuration_does_not_change():
    with pytest.raises(FrozenInstanceError):
        TINY.depth = 5
