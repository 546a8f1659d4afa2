"""Measures the network's speed, memory and accuracy on a GPU: python -m models.benchmark.gpu_check [--json FILE].

It needs torch, safetensors and the folder models/ only, and at most 8 minutes. It runs the published network at full
size with random weights, chunks of 60 frames of 518x154 and the defaults of `jobs.reconstruct`. It prints new frames
per second, the share of the measured matrix rate, seconds by phase and by kernel, GPU memory, the gain of each
optimisation, the speed-up over the published schedule on the same GPU, differences from the plain order of work in
float32, and trajectory errors of the trained small network on rendered frames in both precisions. At the end stands a
table of targets; the exit code is 1 if one is missed or attention has no fast kernel. `--device cpu --preset city_tiny`
with small sizes runs the same code on a CPU, to test it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from models.benchmark.city_drive import city_errors, read_drive, views
from models.benchmark.kernels import count_parts
from models.benchmark.limits import attention_kernel, copy_rate, flops_of_chunk, matrix_rate
from models.benchmark.modes import (
    Timed,
    chunks_of,
    depth_difference,
    made_up_frames,
    made_up_network,
    pose_difference,
    run,
)
from models.benchmark.profile import kernel_seconds
from models.benchmark.switches import ALWAYS, EAGER, Switch, all_undone
from models.checkpoint import open_checkpoint
from models.compiled import CompileError, compile_blocks
from models.config import WEIGHTS_FOLDER, ModelConfig
from models.reconstructor import Reconstructor
from models.tuning import on_device, set_tf32, tf32_for, tf32_setting

_LONG_DRIVE = 4541  # frames of KITTI 00


Found = dict[str, Any]  # name -> figure, as written to JSON


@dataclass(frozen=True)
class Target:
    """The bound of a figure, from below (at_least) or from above. unit: the figure is divided by it to be shown."""

    figure: str
    bound: float
    at_least: bool
    words: str
    unit: float = 1.0

    def met(self, found: Found) -> bool:
        """Whether the figure reaches the bound; a figure that was not measured does not."""
        value = found.get(self.figure)
        return value is not None and (value >= self.bound if self.at_least else value <= self.bound)


TARGETS = (
    Target("new_frames_per_second", 100.0, True, "new frames per second"),
    Target("share_of_matrix_rate", 0.53, True, "share of the matrix rate"),
    Target("speedup_vs_release_like", 20.0, True, "times the published schedule"),
    Target("peak_memory_bytes", 10e9, False, "GB on the GPU at the peak", 1e9),
    Target("long_drive_bytes", 80e9, False, "GB for 4,541 frames, no spilling", 1e9),
    Target("pose_relative_difference", 0.035, False, "poses against float32"),
    Target("depth_relative_difference", 1e-4, False, "depth against float32"),
    Target("city_error_ratio", 1.02, False, "city_tiny's ATE over float32's"),
)


def check(options: argparse.Namespace) -> Found:
    """All measurements. Raises RuntimeError if attention has no fast kernel."""
    device, dtype = torch.device(options.device), getattr(torch, options.precision)
    config = ModelConfig.preset(options.preset)
    patches = options.height * options.width // config.patch_size**2
    set_tf32(*tf32_for(dtype))
    kernel = attention_kernel(device, dtype, config.num_heads, config.embed_dim // config.num_heads)
    if kernel == "plain":
        raise RuntimeError("attention has no fast kernel here, so the other measurements would mean nothing")
    size, overlap = options.chunk_size, options.overlap
    flops = flops_of_chunk(config, size, options.height, options.width, size - overlap)
    found: Found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "preset": options.preset,
        "precision": options.precision,
        "chunk": [size, overlap, options.height, options.width],
        "attention_kernel": kernel,
        "matrix_flops_per_second": matrix_rate(device, dtype, size * patches, config.embed_dim),
        "copy_bytes_per_second": copy_rate(device, options.copy_bytes),
        "kernels": _kernels(config, size, options.height, options.width),
    }
    frames = made_up_frames(options.frames, options.height, options.width)
    chunks = chunks_of(options.frames, size, overlap)
    model = on_device(made_up_network(config, dtype, device), device)
    run("fast", model, frames[:size], chunks[:1])  # to warm up: chooses kernels, allocates GPU memory
    few = chunks[: max(2, min(options.twin_chunks, len(chunks)))]
    some = frames[: few[-1].stop]
    found["worth"] = _worth(model, some, few, EAGER)
    plain_seconds = run("fast", model, some, few, by_phase=False).total
    if options.compiled:
        found |= _compiled(model, some, few, plain_seconds)
    found["worth"] |= _worth(model, some, few, ALWAYS)
    long_drive = len(chunks_of(_LONG_DRIVE, size, overlap))
    found |= _whole_drive(model, frames, chunks, device, flops, found["matrix_flops_per_second"], long_drive)
    if device.type == "cuda":
        found["kernel_seconds"] = kernel_seconds(lambda: run("fast", model, some, few, by_phase=False))
    again = run("fast", model, some, few, by_phase=False)
    found |= _against_float32(again, config, some, few, device) | _on_city(dtype, device)
    return found


def _compiled(model: Reconstructor, frames: torch.Tensor, chunks: Sequence[range], plain_seconds: float) -> Found:
    """Compile the model's blocks: seconds, and how many times faster it is; or the compiler's error, since the other
    figures do not need it."""
    begin = time.perf_counter()
    found: Found = {}
    try:
        compile_blocks(model)
        found["compile_seconds"] = time.perf_counter() - begin
        run("fast", model, frames, chunks)
        found["compiled_speedup"] = plain_seconds / run("fast", model, frames, chunks, by_phase=False).total
    except (CompileError, RuntimeError) as error:
        found["compile_error"] = " ".join(str(error).split())[:300]
    return found


def _whole_drive(
    model: Reconstructor,
    frames: torch.Tensor,
    chunks: Sequence[range],
    device: torch.device,
    flops: dict[str, float],
    matrix_rate: float,
    long_drive: int,
) -> Found:
    """Rates and memory of the drive. flops: of a chunk, by phase; long_drive: chunks of the drive whose memory is
    estimated."""
    whole, held, peak = _measured(model, frames, chunks, device)
    fast = run("fast", model, frames, chunks)
    spent = fast.spent(device)
    seconds = whole.cpu_total if device.type == "cpu" else whole.total
    return {
        "fast_seconds": fast.seconds,
        "flops_per_chunk": flops,
        "flops_per_second": {name: flops[name] * len(chunks) / spent[name] for name in flops},
        "share_of_matrix_rate": sum(flops.values()) * len(chunks) / seconds / matrix_rate,
        "new_frames_per_second": len(frames) / whole.total,
        "state_bytes_per_chunk": fast.state_bytes,
        "network_bytes": held,
        "peak_memory_bytes": peak,
        # the network, the states of all chunks of the long drive, and the work on one chunk
        "long_drive_bytes": held + long_drive * fast.state_bytes + max(0, peak - held - len(chunks) * fast.state_bytes),
    }


def _kernels(config: ModelConfig, frames: int, height: int, width: int) -> dict[str, dict[str, dict[str, int]]]:
    """Kernels, bytes and casts of the network's parts, with all optimisations in `switches` undone ("before"), and
    now."""
    both = {"before": count_parts(config, frames, height, width, all_undone)}
    both["now"] = count_parts(config, frames, height, width)
    return {when: {name: asdict(counted) for name, counted in parts.items()} for when, parts in both.items()}


def _worth(
    model: Reconstructor, frames: torch.Tensor, chunks: Sequence[range], switches: dict[str, Switch]
) -> dict[str, float]:
    """Factor by which a drive takes longer with each optimisation undone."""
    run("fast", model, frames, chunks)
    base = run("fast", model, frames, chunks, by_phase=False).total
    worth = {}
    for name, switch in switches.items():
        with switch(model):
            run("fast", model, frames, chunks[:1], by_phase=False)
            worth[name] = run("fast", model, frames, chunks, by_phase=False).total / base
    return worth


def _against_float32(
    fast: Timed, config: ModelConfig, frames: torch.Tensor, chunks: Sequence[range], device: torch.device
) -> Found:
    """Compare with the same weights in float32 without TF32, in the plain order of work and in the published
    schedule."""
    set_tf32(*tf32_for(torch.float32))
    model = made_up_network(config, torch.float32, device)
    plain = run("plain", model, frames, chunks)
    run("release", model, frames[: chunks[0].stop], chunks[:1])
    release = run("release", model, frames, chunks)
    return {
        "speedup_vs_release_like": release.total / fast.total,
        "pose_relative_difference": pose_difference(fast.predictions, plain.predictions),
        "depth_relative_difference": depth_difference(fast.predictions, plain.predictions),
        "release_seconds": release.seconds,
    }


def _on_city(dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Trajectory errors of the trained small network on rendered frames, in % of a chunk's path, and their ratio."""
    drives, errors = views(*read_drive()), {}
    for precision in (torch.float32, dtype):
        set_tf32(*tf32_for(precision))
        model = on_device(open_checkpoint(WEIGHTS_FOLDER / "city_tiny.safetensors", dtype=precision), device)
        errors[precision] = city_errors(model, drives)
    exact, low = errors[torch.float32], errors[dtype]
    return {"city_error_float32": exact, "city_error": low, "city_error_ratio": low / exact}


def _measured(
    model: Reconstructor, frames: torch.Tensor, chunks: Sequence[range], device: torch.device
) -> tuple[Timed, int, int]:
    """A run without waits between its phases, the bytes allocated on the device before it, and the most during it."""
    if device.type != "cuda":
        return run("fast", model, frames, chunks, by_phase=False), 0, 0
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    return run("fast", model, frames, chunks, by_phase=False), before, torch.cuda.max_memory_allocated(device)


def table(found: Found) -> tuple[str, bool]:
    """The printed lines, and whether all targets are met."""
    lines = []
    for name, rate in found["flops_per_second"].items():
        share = rate / found["matrix_flops_per_second"]
        lines.append(
            f"  {name:32s}{rate / 1e12:12.2f}   TFLOP/s, {share:.0%} of the matrix rate, "
            f"{found['fast_seconds'][name]:.2f} s"
        )
    for name, (seconds, kernels) in found.get("kernel_seconds", {}).items():
        lines.append(f"  kernels: {name:23s}{seconds:12.3f}   s in {kernels}")
    for name, now in found["kernels"]["now"].items():
        before = found["kernels"]["before"][name]
        lines.append(
            f"  {name:22s} kernels {before['kernels']:4d} -> {now['kernels']:3d}, GB {before['nbytes'] / 1e9:.2f} -> "
            f"{now['nbytes'] / 1e9:.2f}, casts {before['casts']} -> {now['casts']}"
        )
    for name in (
        "matrix_flops_per_second",
        "copy_bytes_per_second",
        "state_bytes_per_chunk",
        "city_error_float32",
        "city_error",
    ):
        lines.append(f"{name:34s}{found[name]:12.4g}")
    for name, factor in found["worth"].items():
        lines.append(f"{name:34s}{factor:12.2f}   x the time without it")
    if "compiled_speedup" in found:
        lines.append(
            f"{'blocks compiled, against without':34s}{found['compiled_speedup']:12.2f}   x, started in "
            f"{found['compile_seconds']:.0f} s"
        )
    if "compile_error" in found:
        lines.append(found["compile_error"])
    lines.append(
        f"attention: {found['attention_kernel']}; {found['device']}; torch {found['torch']}; {found['seconds']:.0f} s "
        "in all"
    )
    for target in TARGETS:
        lines.append(
            f"{target.words:34s}{found[target.figure] / target.unit:12.4g}   target "
            f"{'>=' if target.at_least else '<='} {target.bound / target.unit:g}  "
            f"{'met' if target.met(found) else 'MISSED'}"
        )
    return "\n".join(lines), all(target.met(found) for target in TARGETS)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.benchmark.gpu_check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to test this program")
    parser.add_argument("--preset", default="scal3r", help="network")
    parser.add_argument("--precision", default="bfloat16", choices=("bfloat16", "float32"), help="of the fast path")
    parser.add_argument("--frames", type=int, default=330, help="of the drive that is timed")
    parser.add_argument("--height", type=int, default=154)
    parser.add_argument("--width", type=int, default=518)
    parser.add_argument("--chunk-size", type=int, default=60)
    parser.add_argument("--overlap", type=int, default=30)
    parser.add_argument("--twin-chunks", type=int, default=3, help="chunks of the comparison with float32")
    parser.add_argument("--copy-bytes", type=int, default=1_000_000_000)
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also time the network with torch.compile",
    )
    parser.add_argument("--json", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: there is no GPU here; --device cpu --preset city_tiny tests this program", file=sys.stderr)
        return 1
    begin, products = time.perf_counter(), tf32_setting()
    try:
        found = check(options)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        set_tf32(*products)
    found["seconds"] = time.perf_counter() - begin
    text, good = table(found)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
