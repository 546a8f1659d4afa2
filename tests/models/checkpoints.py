"""Helpers for tests of weights files: VGGT's names, the published tensor names and shapes, and fresh processes."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from safetensors.torch import save_file

from models import Reconstructor
from models.checkpoint import published_state

REPOSITORY = Path(__file__).resolve().parents[2]
_TO_VGGT = {
    "agg_regator.": "aggregator.",
    "cam_decoder.": "camera_head.",
    "xyz_decoder.": "point_head.",
    "dpt_decoder.": "depth_head.",
}


def as_vggt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as in a VGGT-1B checkpoint: under its names, without memories, with a tracking head."""
    renamed = {}
    for name, tensor in state.items():
        if ".ttt." not in name:
            prefix = next(p for p in _TO_VGGT if name.startswith(p))
            renamed[_TO_VGGT[prefix] + name.removeprefix(prefix)] = tensor
    return renamed | {"track_head.tracker.weight": torch.ones(3, 3)}


def manifest(shared: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors without data, with the names and shapes of a published checkpoint (../shared/golden)."""
    shapes = json.loads((shared / "golden" / f"{name}.manifest.json").read_text())
    return {tensor: torch.empty(shape, device="meta") for tensor, shape in shapes.items()}


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_holds(model: Reconstructor, state: dict[str, torch.Tensor]) -> None:
    found = published_state(model)
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def in_fresh_process(code: str, *arguments: str | Path, timeout: float = 240) -> str:
    """Run code in a new Python process, to measure the memory of this code only; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
