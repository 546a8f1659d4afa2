"""Everything that wants a GPU, in one run of a few minutes: python -m models.benchmark.gpu_check [--json FILE].

Needs torch and this project's models/ alone. Published network at full size with made-up weights, chunks of 60 frames
of 518x154, bfloat16: new frames a second, share of the measured matrix rate phase by phase, speed-up over the
published schedule on the same GPU, memory for a drive of 4,541 frames, differences from the float32 plain twin,
which attention kernel was taken, what torch.compile adds. `--device cpu --preset city_tiny ...` runs the same lines
small, to test them. Exits with 1 where a target is missed or attention fell back to its plain form.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from models.benchmark.limits import attention_kernel, copy_rate, flops_of_chunk, matrix_rate
from models.benchmark.modes import (
    Timed,
    depth_difference,
    made_up_frames,
    made_up_network,
    pose_difference,
    run,
)
from models.compiled import CompileError, compile_blocks
from models.config import ModelConfig

_LONG_DRIVE = 4541  # frames of KITTI 00
_TARGETS = {"share_of_matrix_rate": 0.45, "new_frames_per_second": 80.0, "speedup_vs_release_like": 8.0}
_GPU_BYTES = 80e9


def chunks_of(frames: int, size: int, overlap: int) -> list[range]:
    """Chunk k starts at frame k (size - overlap); the first that reaches the last frame is the last."""
    count = 1 if frames <= size else -((overlap - frames) // (size - overlap))
    return [range(k * (size - overlap), min(k * (size - overlap) + size, frames)) for k in range(count)]


def check(options: argparse.Namespace) -> dict[str, Any]:
    """All measurements. Raises RuntimeError where attention has no fast kernel."""
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    config = ModelConfig.preset(options.preset)
    patches = options.height * options.width // config.patch_size**2
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True  # finer than bfloat16, which was asked for
    kernel = attention_kernel(device, dtype, config.num_heads, config.embed_dim // config.num_heads)
    if kernel == "plain":
        raise RuntimeError("attention fell back to its plain form: nothing else is worth measuring")
    size, overlap = options.chunk_size, options.overlap
    flops = flops_of_chunk(config, size, options.height, options.width, size - overlap)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "preset": options.preset,
        "precision": options.precision,
        "chunk": [size, overlap, options.height, options.width],
        "attention_kernel": kernel,
        "matrix_flops_per_second": matrix_rate(device, dtype, size * patches, config.embed_dim),
        "copy_bytes_per_second": copy_rate(device, options.copy_bytes),
    }
    frames = made_up_frames(options.frames, options.height, options.width)
    chunks = chunks_of(options.frames, size, overlap)
    model = made_up_network(config, dtype, device)
    run("fast", model, frames[:size], chunks[:1])  # kernels are chosen, memory is had
    fast, held, peak = _measured("fast", model, frames, chunks, device)
    whole = sum(flops.values()) * len(chunks)
    spent = fast.spent(device)
    # everything that waits for a barrier of the long drive, the network, and the work on one chunk
    long_drive = len(chunks_of(_LONG_DRIVE, size, overlap)) * fast.state_bytes
    found |= {
        "fast_seconds": fast.seconds,
        "flops_per_chunk": flops,
        "flops_per_second": {name: flops[name] * len(chunks) / spent[name] for name in flops},
        "share_of_matrix_rate": whole / sum(spent.values()) / found["matrix_flops_per_second"],
        "new_frames_per_second": options.frames / fast.total,
        "state_bytes_per_chunk": fast.state_bytes,
        "network_bytes": held,
        "peak_memory_bytes": peak,
        "long_drive_bytes": held + long_drive + max(0, peak - held - len(chunks) * fast.state_bytes),
    }
    if options.compiled:
        try:
            compile_blocks(model)
            run("fast", model, frames[:size], chunks[:1])
            found["compiled_speedup"] = fast.total / run("fast", model, frames, chunks).total
        except (CompileError, RuntimeError) as error:  # the other figures do not need it
            found["compile_error"] = " ".join(str(error).split())[:300]
    del model
    plain_model = made_up_network(config, torch.float32, device)
    few = chunks[: max(2, min(options.twin_chunks, len(chunks)))]
    until = few[-1].stop
    again = run("fast", made_up_network(config, dtype, device), frames[:until], few)
    plain = run("plain", plain_model, frames[:until], few)
    run("release", plain_model, frames[: few[0].stop], few[:1])
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 as published
    release = run("release", plain_model, frames[:until], few)
    found |= {
        "speedup_vs_release_like": release.total / again.total,
        "pose_relative_difference": pose_difference(again.predictions, plain.predictions),
        "depth_relative_difference": depth_difference(again.predictions, plain.predictions),
        "release_seconds": release.seconds,
    }
    return found


def _measured(
    mode: Any, model: Any, frames: torch.Tensor, chunks: Sequence[range], device: torch.device
) -> tuple[Timed, int, int]:
    """A run, the bytes the device held before it and the most it held."""
    if device.type != "cuda":
        return run(mode, model, frames, chunks), 0, 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return run(mode, model, frames, chunks), before, torch.cuda.max_memory_allocated(device)


def table(found: dict[str, Any]) -> tuple[str, bool]:
    """The lines for people, and whether all targets were reached."""
    lines, good = [], True
    for name, target in _TARGETS.items():
        met = found[name] >= target
        good &= met
        lines.append(f"{name:34s}{found[name]:12.2f}   target {target:g}  {'met' if met else 'MISSED'}")
    met = found["long_drive_bytes"] <= _GPU_BYTES
    good &= met
    lines.append(
        f"{'GB for 4,541 frames, no spilling':34s}{found['long_drive_bytes'] / 1e9:12.1f}   target 80  "
        f"{'met' if met else 'MISSED'}"
    )
    for name, rate in found["flops_per_second"].items():
        share = rate / found["matrix_flops_per_second"]
        lines.append(
            f"  {name:32s}{rate / 1e12:12.2f}   TFLOP/s, {share:.0%} of the matrix rate, "
            f"{found['fast_seconds'][name]:.2f} s"
        )
    for name in (
        "matrix_flops_per_second",
        "copy_bytes_per_second",
        "state_bytes_per_chunk",
        "peak_memory_bytes",
        "pose_relative_difference",
        "depth_relative_difference",
    ):
        lines.append(f"{name:34s}{found[name]:12.4g}")
    if "compiled_speedup" in found:
        lines.append(f"{'blocks compiled, against without':34s}{found['compiled_speedup']:12.2f}   x")
    if "compile_error" in found:
        lines.append(found["compile_error"])
    lines.append(
        f"attention: {found['attention_kernel']}; {found['device']}; torch {found['torch']}; "
        f"{found['seconds']:.0f} s in all"
    )
    return "\n".join(lines), good


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.benchmark.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to test these lines")
    parser.add_argument("--preset", default="scal3r", help="network")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"), help="of the fast path")
    parser.add_argument("--frames", type=int, default=330, help="of the drive that is timed")
    parser.add_argument("--height", type=int, default=154)
    parser.add_argument("--width", type=int, default=518)
    parser.add_argument("--chunk-size", type=int, default=60)
    parser.add_argument("--overlap", type=int, default=30)
    parser.add_argument("--twin-chunks", type=int, default=3, help="chunks of the slow comparisons")
    parser.add_argument("--copy-bytes", type=int, default=1_000_000_000)
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time blocks that went through torch.compile",
    )
    parser.add_argument("--json", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; --device cpu --preset city_tiny runs the same lines small", file=sys.stderr)
        return 1
    begin = time.perf_counter()
    try:
        found = check(options)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found["seconds"] = time.perf_counter() - begin
    text, good = table(found)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
