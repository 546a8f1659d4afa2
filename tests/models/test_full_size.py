"""The published network at full size with random weights runs on a CPU in limited memory."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_PROGRAM = """
    import json, resource, time
    import torch
    from models import ModelConfig, Reconstructor
    from models.checkpoint import published_state

    torch.set_num_threads(1)
    begun = time.process_time()
    with torch.device("meta"):
        model = Reconstructor(ModelConfig.scal3r())
    model.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in published_state(model).items():
        if name.endswith(".gamma"):
            tensor.fill_(0.3)
        elif "norm" in name and name.endswith("weight"):
            tensor.fill_(1.0)
        elif tensor.ndim == 1:
            tensor.zero_()
        else:  # uniform, as wide as keeps a token's size through a layer
            rows = tensor.shape[1] if name.endswith((".w0", ".w1", ".w2")) else tensor[0].numel()
            width = 0.2 if name.endswith(("_token", "_tokens", "pos_embed")) else (3 / rows) ** 0.5
            tensor.uniform_(-width, width, generator=generator)
    made = time.process_time()
    images = torch.rand(3, 3, 70, 112, generator=generator)
    predictions = model.forward_drive(images, [[0, 1], [1, 2]], with_points=True)
    apart = model.forward_drive(images, [[0, 1]], with_points=False)[0]
    peak = next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_gb": peak / 2**20,
        "seconds_making": made - begun, "seconds_running": time.process_time() - made,
        "frames": [p.frame_index.tolist() for p in predictions],
        "shapes": [[list(t.shape) for t in (p.pose_encoding, p.depth, p.points)] for p in predictions],
        "finite": all(
            bool(t.isfinite().all())
            for p in predictions
            for t in (p.pose_encoding, p.depth, p.depth_confidence, p.points, p.points_confidence)
        ),
        "spread": (predictions[0].depth.std() / predictions[0].depth.mean()).item(),
        "moved_by_the_other_chunk":
            ((predictions[0].depth - apart.depth).norm() / apart.depth.norm()).item(),
    }))
"""


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_published_network_runs_three_small_frames_on_a_cpu_in_nine_gigabytes():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert round(found["parameters"] / 1e6) == 1266
    assert found["peak_gb"] < 9
    assert found["frames"] == [[0, 1], [1, 2]]
    assert found["shapes"] == [[[2, 9], [2, 70, 112], [2, 70, 112, 3]]] * 2
    assert found["finite"]
    assert found["spread"] > 1e-3  # an image came out, not a constant
    assert found["moved_by_the_other_chunk"] > 1e-4  # and the four memories carried something across
