"""Measures the network: the fast path, its plain twin and the published schedule, on the same frames."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from models import ModelConfig
from models.benchmark.limits import attention_kernel, copy_rate, flops_of_chunk, matrix_rate
from models.benchmark.modes import (
    Mode,
    Timed,
    depth_difference,
    made_up_frames,
    made_up_network,
    pose_difference,
    run,
)
from models.compiled import compile_blocks
from pipeline.benchmark.allreduce import allreduce_seconds, free_port
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row
from pipeline.common.process_memory import MemoryTrace, resident_bytes
from pipeline.common.sizes import size_text
from pipeline.forward.network import DTYPES, Precision
from pipeline.ingest.chunks import plan_chunks

_SPEEDUP_TARGET = 2.5
_POSE_TARGET = 0.01
_STATE_TARGET = 200e6


@dataclass(frozen=True)
class NetworkBenchmark:
    """The fast path against its plain twin and the published schedule; the defaults are those of the CPU target."""

    preset: str = "vit_small"
    """Network; its weights are random."""
    frames: int = 210
    """Frames of the drive."""
    height: int = 56
    """Height of the network's frames."""
    width: int = 168
    """Width of the network's frames."""
    chunk_size: int = 20
    """Frames per chunk."""
    overlap: int = 10
    """Frames that neighbouring chunks share."""
    precision: Precision = "float32"
    """Precision of the fast path and the plain twin; the published schedule always uses float32."""
    threads: int = 1
    """CPU threads."""
    compiled: bool = False
    """Also measure the fast path with torch.compile (takes a minute more)."""
    allreduce: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes for which the all-reduce of a memory's step over gloo is measured; none: it is not."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        plan_chunks(self.frames, self.chunk_size, self.overlap)
        patch = ModelConfig.preset(self.preset).patch_size
        if self.height < patch or self.width < patch or self.height % patch or self.width % patch:
            raise ValueError(f"network.height and network.width must be multiples of {patch}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Run each way in a new process, one after the other. Raises ValueError if attention has no fast kernel."""
        config = ModelConfig.preset(self.preset)
        device = _device()
        dtype = DTYPES[self.precision]
        kernel = attention_kernel(device, dtype, config.num_heads, config.embed_dim // config.num_heads)
        if kernel == "plain":
            raise ValueError(
                f"attention has no fast kernel here for {config.num_heads} heads of "
                f"{config.embed_dim // config.num_heads} in {self.precision}, so the figures would mean nothing"
            )
        torch.set_num_threads(self.threads)
        tokens = self.chunk_size * (self.height * self.width // config.patch_size**2 + config.special_tokens)
        matrix = matrix_rate(device, dtype, tokens, config.embed_dim)
        copies = copy_rate(device)
        chunks = plan_chunks(self.frames, self.chunk_size, self.overlap)
        flops = flops_of_chunk(config, self.chunk_size, self.height, self.width, self.chunk_size - self.overlap)
        found: dict[Mode, Timed] = {}
        peak: dict[Mode, int] = {}
        modes: tuple[Mode, ...] = ("release", "fast", "plain")
        for mode in modes:
            found[mode], peak[mode] = run_isolated(_measured, mode, self)
            timed = found[mode]
            say(f"{mode}: {timed.total:.1f} s, {timed.cpu_total:.1f} s of CPU, peak {size_text(peak[mode])}")
        compiled: Timed | None = None
        if self.compiled:
            compiled, _ = run_isolated(_measured, "fast", self, True)
            say(f"fast, blocks compiled: {compiled.total:.1f} s, {compiled.cpu_total:.1f} s of CPU")
        fast, plain, release = found["fast"], found["plain"], found["release"]
        spent = fast.spent(device)
        rates = {name: flops[name] * len(chunks) / spent[name] for name in flops}
        whole = sum(flops.values()) * len(chunks) / sum(spent.values())
        sums = {count: allreduce_seconds(count, config, free_port()) for count in self.allreduce}
        speedup = release.total / fast.total
        by_cpu = release.cpu_total / fast.cpu_total
        pose = pose_difference(fast.predictions, plain.predictions)
        values: dict[str, object] = {
            "device": str(device),
            "attention_kernel": kernel,
            "speedup_vs_release_like": speedup,
            "speedup_vs_release_like_cpu_seconds": by_cpu,
            "speedup_vs_plain": plain.total / fast.total,
            "pose_relative_difference": pose,
            "pose_relative_difference_to_release_like": pose_difference(fast.predictions, release.predictions),
            "depth_relative_difference": depth_difference(fast.predictions, plain.predictions),
            "state_bytes_per_chunk": fast.state_bytes,
            "state_bytes_per_chunk_release_like": release.state_bytes,
            "peak_memory_bytes": peak["fast"],
            "peak_memory_bytes_by_mode": peak,
            "seconds": {mode: timed.seconds for mode, timed in found.items()},
            "cpu_seconds": {mode: timed.cpu_seconds for mode, timed in found.items()},
            "new_frames_per_second": self.frames / fast.total,
            "chunks": len(chunks),
            "flops_per_chunk": flops,
            "flops_per_second": rates,
            "matrix_flops_per_second": matrix,
            "share_of_matrix_rate": whole / matrix,
            "copy_bytes_per_second": copies,
            "allreduce_seconds": {str(count): seconds for count, seconds in sums.items()},
        }
        rows = [
            Row(
                "against the published schedule",
                f"{speedup:.2f} x (CPU seconds {by_cpu:.2f} x)",
                f"{_SPEEDUP_TARGET} x on 2 cores",
                speedup >= _SPEEDUP_TARGET,
            ),
            Row("poses against the plain twin", f"{pose:.1e}", "1 %", pose <= _POSE_TARGET),
            Row("depth against the plain twin", f"{values['depth_relative_difference']:.1e}"),
            Row(
                "state of a chunk at its widest",
                f"{size_text(fast.state_bytes)} ({size_text(release.state_bytes)} as published)",
                size_text(_STATE_TARGET),
                fast.state_bytes <= _STATE_TARGET,
            ),
            Row("peak memory above the network", ", ".join(f"{m} {size_text(p)}" for m, p in peak.items())),
            Row("new frames", f"{self.frames / fast.total:.2f} a second"),
            Row("share of the matrix product's rate", f"{whole / matrix:.0%} of {matrix / 1e9:,.1f} GFLOP/s"),
            *(
                Row(f"  {name}", f"{spent[name]:.2f} s{' of CPU' * (device.type == 'cpu')}, {rate / 1e9:,.1f} GFLOP/s")
                for name, rate in rates.items()
            ),
            Row("copies", f"{copies / 1e9:.1f} GB/s"),
            Row("attention kernel", kernel),
            *(
                Row(f"all-reduce of a step, {count} processes", f"{seconds * 1e3:.1f} ms")
                for count, seconds in sums.items()
            ),
        ]
        if compiled is not None:
            gain, cpu_gain = fast.total / compiled.total, fast.cpu_total / compiled.cpu_total
            values |= {"speedup_of_compiled_blocks": gain, "speedup_of_compiled_blocks_cpu_seconds": cpu_gain}
            rows.append(Row("blocks compiled, against without", f"{gain:.2f} x (CPU seconds {cpu_gain:.2f} x)"))
        return Measured(values, tuple(rows))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _measured(mode: Mode, settings: NetworkBenchmark, compiled: bool = False) -> tuple[Timed, int]:
    """Run one way in this process: its result, and the peak of memory above network and frames (bytes)."""
    torch.set_num_threads(settings.threads)
    device = _device()
    dtype = torch.float32 if mode == "release" else DTYPES[settings.precision]
    model = made_up_network(ModelConfig.preset(settings.preset), dtype, device)
    if compiled:
        compile_blocks(model)
    frames = made_up_frames(settings.frames, settings.height, settings.width)
    chunks = plan_chunks(settings.frames, settings.chunk_size, settings.overlap)
    run(mode, model, frames[: settings.chunk_size], chunks[:1])  # to warm up: allocations, choice of kernels
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(mode, model, frames, chunks), torch.cuda.max_memory_allocated() - before
    before = resident_bytes()
    with MemoryTrace() as trace:
        timed = run(mode, model, frames, chunks)
    return timed, max(0, trace.peak - before)


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for child processes: waiting threads must not spin
