"""Weights files are memory-mapped, not read: how much memory opening them needs."""

import json

import pytest
import torch

from models import Reconstructor
from models.checkpoint import published_state
from tests.models.checkpoints import in_fresh_process, write
from tests.networks import small_network


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("scal3r_release", ".pt"),
        pytest.param("vggt_1b", ".safetensors", marks=pytest.mark.full),
        pytest.param("scal3r_release", ".safetensors", marks=pytest.mark.full),
        pytest.param("vggt_1b", ".pt", marks=pytest.mark.full),
    ],
)
def test_published_files_of_five_gigabytes_open_in_little_memory(shared, tmp_path, name, suffix):
    """Files of full size with the published names and shapes; they are sparse, so they take no disk."""
    out = in_fresh_process(
        """
        import json, math, struct, sys, time, warnings
        import torch
        from models import open_checkpoint

        manifest, path = json.load(open(sys.argv[1])), sys.argv[2]
        if path.endswith(".pt"):
            with torch.serialization.skip_data():
                torch.save({n: torch.empty(s) for n, s in manifest.items()}, path)
        else:
            header, at = {}, 0
            for n, s in manifest.items():
                header[n] = {"dtype": "F32", "shape": s, "data_offsets": [at, at + 4 * math.prod(s)]}
                at += 4 * math.prod(s)
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)
            with open(path, "wb") as file:
                file.write(struct.pack("<Q", len(text)) + text)
                file.truncate(8 + len(text) + at)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            model = open_checkpoint(path)
        peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
        print(json.dumps({
            "peak_mb": peak / 1024, "parameters": sum(p.numel() for p in model.parameters()),
            "heard": [str(w.message) for w in heard], "training": model.training,
            "gates": [m.proj.weight.abs().sum().item() for m in model.aggregator.memories.values()],
        }))
        """,
        shared / "golden" / f"{name}.manifest.json",
        tmp_path / f"weights{suffix}",
    )
    found = json.loads(out)
    assert found["peak_mb"] < 1500
    assert round(found["parameters"] / 1e6) == 1266
    assert found["training"] is False
    if name == "vggt_1b":
        assert len(found["heard"]) == 1
        assert "their 48 tensors get initial values that have no effect" in found["heard"][0]
        assert found["gates"] == [0.0] * 4
    else:
        assert found["heard"] == []


_BULKY = small_network(
    embed_dim=512,
    num_heads=8,
    memory_layers=(3,),
    dense_features=32,
    dense_channels=(16, 32, 64, 64),
    camera_heads=4,
)


@pytest.mark.parametrize(
    ("suffix", "dtype", "limit"),
    [(".pt", "float32", 1.3), (".safetensors", "float32", 1.3), (".safetensors", "bfloat16", 1.8)],
)
def test_the_weights_of_a_file_are_in_memory_only_once(tmp_path, suffix, dtype, limit):
    """A file of 200 MB is opened and every page read: its size in memory, and half of it again for a bfloat16 copy."""
    with torch.device("meta"):
        names = published_state(Reconstructor(_BULKY))
    path = write({n: torch.full(t.shape, 0.5) for n, t in names.items()}, tmp_path / f"weights{suffix}")
    size = path.stat().st_size / 2**20
    assert 150 < size < 300
    out = in_fresh_process(
        """
        import json, sys
        import torch
        from models import ModelConfig, Reconstructor, open_checkpoint

        path, dtype = sys.argv[1], getattr(torch, sys.argv[2])
        config = ModelConfig.from_dict(json.loads(sys.argv[3]))

        def peak():
            return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) / 1024

        with torch.device("meta"):  # so that torch's own start is not counted
            Reconstructor(config)
        torch.ones(8).bfloat16().float().sum()
        before = peak()
        model = open_checkpoint(path, config, dtype=dtype)
        total = sum(float(p.flatten()[::512].float().sum()) for p in model.parameters())
        print(peak() - before)
        """,
        path,
        dtype,
        json.dumps(_BULKY.to_dict()),
    )
    assert 0.9 * size < float(out) < limit * size
