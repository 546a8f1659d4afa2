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
from pipeline.forward.network import Precision, dtype_of
from pipeline.ingest.chunks import plan_chunks

_SPEEDUP_TARGET = 2.5
_POSE_TARGET = 0.01
_STATE_TARGET = 200e6
_MODES: tuple[Mode, ...] = ("release", "fast", "plain")


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
        machine = self._machine(_device())
        found, peak = self._runs(say)
        compiled: Timed | None = None
        if self.compiled:
            compiled, _ = run_isolated(_measured, "fast", self, True)
            say(f"fast, blocks compiled: {compiled.total:.1f} s, {compiled.cpu_total:.1f} s of CPU")
        config = ModelConfig.preset(self.preset)
        allreduce = {count: allreduce_seconds(count, config, free_port()) for count in self.allreduce}
        figures = _Figures(self, machine, found, peak, compiled, allreduce)
        return Measured(figures.values(), tuple(figures.rows()))

    def _machine(self, device: torch.device) -> _Machine:
        """What this machine's kernels reach at the sizes of the network."""
        config, dtype = ModelConfig.preset(self.preset), dtype_of(self.precision)
        width = config.embed_dim // config.num_heads
        kernel = attention_kernel(device, dtype, config.num_heads, width)
        if kernel == "plain":
            raise ValueError(
                f"attention has no fast kernel here for {config.num_heads} heads of {width} in {self.precision}, "
                "so the figures would mean nothing"
            )
        torch.set_num_threads(self.threads)
        tokens = self.chunk_size * (self.height * self.width // config.patch_size**2 + config.special_tokens)
        return _Machine(device, kernel, matrix_rate(device, dtype, tokens, config.embed_dim), copy_rate(device))

    def _runs(self, say: Callable[[str], None]) -> tuple[dict[Mode, Timed], dict[Mode, int]]:
        """Each way's run, and its peak of memory above the network (bytes)."""
        found: dict[Mode, Timed] = {}
        peak: dict[Mode, int] = {}
        for mode in _MODES:
            found[mode], peak[mode] = run_isolated(_measured, mode, self)
            timed = found[mode]
            say(f"{mode}: {timed.total:.1f} s, {timed.cpu_total:.1f} s of CPU, peak {size_text(peak[mode])}")
        return found, peak


@dataclass(frozen=True)
class _Machine:
    """The device, its attention kernel, and the measured limits: floating-point operations and bytes a second."""

    device: torch.device
    kernel: str
    matrix_rate: float
    copy_rate: float


@dataclass(frozen=True)
class _Figures:
    """Everything that was measured. peak: bytes above the network, by mode; allreduce: seconds by processes."""

    settings: NetworkBenchmark
    machine: _Machine
    found: dict[Mode, Timed]
    peak: dict[Mode, int]
    compiled: Timed | None
    allreduce: dict[int, float]

    @property
    def speedup(self) -> float:
        """The published schedule's time over the fast path's."""
        return self.found["release"].total / self.found["fast"].total

    @property
    def cpu_speedup(self) -> float:
        """The same with CPU seconds."""
        return self.found["release"].cpu_total / self.found["fast"].cpu_total

    @property
    def pose_error(self) -> float:
        """Relative difference of the fast path's poses from the plain twin's."""
        return pose_difference(self.found["fast"].predictions, self.found["plain"].predictions)

    @property
    def depth_error(self) -> float:
        """Relative difference of the fast path's depth from the plain twin's."""
        return depth_difference(self.found["fast"].predictions, self.found["plain"].predictions)

    @property
    def chunks(self) -> int:
        """Chunks of the drive."""
        return len(plan_chunks(self.settings.frames, self.settings.chunk_size, self.settings.overlap))

    @property
    def flops(self) -> dict[str, float]:
        """Floating-point operations of a chunk by phase."""
        one = self.settings
        config = ModelConfig.preset(one.preset)
        return flops_of_chunk(config, one.chunk_size, one.height, one.width, one.chunk_size - one.overlap)

    @property
    def spent(self) -> dict[str, float]:
        """The fast path's seconds by phase (on a CPU: CPU seconds)."""
        return self.found["fast"].spent(self.machine.device)

    @property
    def rates(self) -> dict[str, float]:
        """The fast path's floating-point operations a second by phase."""
        flops, spent = self.flops, self.spent
        return {name: flops[name] * self.chunks / spent[name] for name in flops}

    @property
    def share_of_matrix_rate(self) -> float:
        """The fast path's operations a second over those of a plain matrix product."""
        whole = sum(self.flops.values()) * self.chunks / sum(self.spent.values())
        return whole / self.machine.matrix_rate

    @property
    def compiled_gain(self) -> tuple[float, float] | None:
        """How many times faster compiled blocks are, by the clock and in CPU seconds; None where not measured."""
        if self.compiled is None:
            return None
        fast = self.found["fast"]
        return fast.total / self.compiled.total, fast.cpu_total / self.compiled.cpu_total

    def values(self) -> dict[str, object]:
        """All figures by name, for JSON."""
        fast, plain, release = self.found["fast"], self.found["plain"], self.found["release"]
        values: dict[str, object] = {
            "device": str(self.machine.device),
            "attention_kernel": self.machine.kernel,
            "speedup_vs_release_like": self.speedup,
            "speedup_vs_release_like_cpu_seconds": self.cpu_speedup,
            "speedup_vs_plain": plain.total / fast.total,
            "pose_relative_difference": self.pose_error,
            "pose_relative_difference_to_release_like": pose_difference(fast.predictions, release.predictions),
            "depth_relative_difference": self.depth_error,
            "state_bytes_per_chunk": fast.state_bytes,
            "state_bytes_per_chunk_release_like": release.state_bytes,
            "peak_memory_bytes": self.peak["fast"],
            "peak_memory_bytes_by_mode": self.peak,
            "seconds": {mode: timed.seconds for mode, timed in self.found.items()},
            "cpu_seconds": {mode: timed.cpu_seconds for mode, timed in self.found.items()},
            "new_frames_per_second": self.settings.frames / fast.total,
            "chunks": self.chunks,
            "flops_per_chunk": self.flops,
            "flops_per_second": self.rates,
            "matrix_flops_per_second": self.machine.matrix_rate,
            "share_of_matrix_rate": self.share_of_matrix_rate,
            "copy_bytes_per_second": self.machine.copy_rate,
            "allreduce_seconds": {str(count): seconds for count, seconds in self.allreduce.items()},
        }
        if self.compiled_gain is not None:
            gain, cpu_gain = self.compiled_gain
            values |= {"speedup_of_compiled_blocks": gain, "speedup_of_compiled_blocks_cpu_seconds": cpu_gain}
        return values

    def rows(self) -> list[Row]:
        """The figures as a table, with targets."""
        fast, release = self.found["fast"], self.found["release"]
        return [
            Row(
                "against the published schedule",
                f"{self.speedup:.2f} x (CPU seconds {self.cpu_speedup:.2f} x)",
                f"{_SPEEDUP_TARGET} x on 2 cores",
                self.speedup >= _SPEEDUP_TARGET,
            ),
            Row("poses against the plain twin", f"{self.pose_error:.1e}", "1 %", self.pose_error <= _POSE_TARGET),
            Row("depth against the plain twin", f"{self.depth_error:.1e}"),
            Row(
                "state of a chunk at its widest",
                f"{size_text(fast.state_bytes)} ({size_text(release.state_bytes)} as published)",
                size_text(_STATE_TARGET),
                fast.state_bytes <= _STATE_TARGET,
            ),
            Row("peak memory above the network", ", ".join(f"{m} {size_text(p)}" for m, p in self.peak.items())),
            Row("new frames", f"{self.settings.frames / fast.total:.2f} a second"),
            *self._rate_rows(),
            *(
                Row(f"all-reduce of a step, {count} processes", f"{seconds * 1e3:.1f} ms")
                for count, seconds in self.allreduce.items()
            ),
            *self._compiled_rows(),
        ]

    def _rate_rows(self) -> list[Row]:
        """How near the fast path comes to the limits of the machine."""
        machine, spent = self.machine, self.spent
        of_cpu = " of CPU" * (machine.device.type == "cpu")
        return [
            Row(
                "share of the matrix product's rate",
                f"{self.share_of_matrix_rate:.0%} of {machine.matrix_rate / 1e9:,.1f} GFLOP/s",
            ),
            *(
                Row(f"  {name}", f"{spent[name]:.2f} s{of_cpu}, {rate / 1e9:,.1f} GFLOP/s")
                for name, rate in self.rates.items()
            ),
            Row("copies", f"{machine.copy_rate / 1e9:.1f} GB/s"),
            Row("attention kernel", machine.kernel),
        ]

    def _compiled_rows(self) -> list[Row]:
        if self.compiled_gain is None:
            return []
        gain, cpu_gain = self.compiled_gain
        return [Row("blocks compiled, against without", f"{gain:.2f} x (CPU seconds {cpu_gain:.2f} x)")]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _measured(mode: Mode, settings: NetworkBenchmark, compiled: bool = False) -> tuple[Timed, int]:
    """Run one way in this process: its result, and the peak of memory above network and frames (bytes)."""
    torch.set_num_threads(settings.threads)
    device = _device()
    dtype = torch.float32 if mode == "release" else dtype_of(settings.precision)
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
