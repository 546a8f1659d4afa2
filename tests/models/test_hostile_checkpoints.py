"""Files that are not checkpoints, or contain an impossible configuration, are refused before anything is built."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from models.checkpoint import CheckpointError, stored_config
from models.config import WEIGHTS_FOLDER

SHIPPED = WEIGHTS_FOLDER / "city_tiny.safetensors"


@pytest.mark.parametrize("size", [0, 4, 5000, 1_000_000])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(SHIPPED.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is not a readable checkpoint"):
        stored_config(path)


@pytest.mark.parametrize(
    "change",
    [{"depth": 10**7}, {"embed_dim": 10**9}, {"image_size": 16 * 10**6}, {"chunk_size": 10**9}, {"embed_dim": "x"}],
)
def test_an_impossible_network_is_refused_before_it_is_built(tmp_path, change):
    with safe_open(SHIPPED, "pt") as file:
        config = json.loads(file.metadata()["model_config"])
        tensor = file.get_tensor(next(iter(file.keys())))
    path = tmp_path / "huge.safetensors"
    save_file({"a": tensor}, path, {"model_config": json.dumps({**config, **change})})
    with pytest.raises(CheckpointError, match="contains a configuration that cannot be built"):
        stored_config(path)


def test_a_deeply_nested_configuration_is_refused(tmp_path):
    with safe_open(SHIPPED, "pt") as file:
        tensor = file.get_tensor(next(iter(file.keys())))
    for depth in (20_000, 100_000):
        path = tmp_path / "deep.safetensors"
        save_file({"a": tensor}, path, {"model_config": "[" * depth + "]" * depth})
        with pytest.raises(CheckpointError, match="cannot be built"):
            stored_config(path)
