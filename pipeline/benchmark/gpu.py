"""Measures the whole pipeline on a GPU machine with Ray; `make gpu` runs it and `models.benchmark.gpu_check`.

It measures a drive of 600 frames end to end with the defaults, the all-reduce of all GPUs, a training step and the
renderer. `device="cpu"` with small sizes runs the same code without a GPU, to test it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from models import ModelConfig, Reconstructor
from models.benchmark.city_drive import write_drive
from pipeline.benchmark.allreduce import allreduce_seconds, free_port
from pipeline.benchmark.drive import DriveBenchmark, DriveRun, reconstruct_made_up
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row, rate
from pipeline.common.sizes import size_text
from pipeline.synthetic import CityDrive
from pipeline.training.config import BatchSettings, OptimizerSettings, TrainConfig
from pipeline.training.data import Frames
from pipeline.training.objective import Objective
from pipeline.training.trainer import Trainer, start_near_identity

_RATE_TARGET, _OUTSIDE_TARGET = 100.0, 0.15
_SUM_TARGET_S, _STEP_TARGET_S, _RENDER_TARGET, _ALL_TARGET_S = 0.1, 2.0, 100.0, 480.0
_STEPS = 8
_RENDER_SEED, _RENDERED, _TONES, _OTHER_PIXELS = 7, 48, 8, 0.01
_CITY_SEED, _CITY_ROUTE, _CITY_FRAMES = 11, 1200, 72  # the drive of models.benchmark.city_drive


@dataclass(frozen=True)
class GpuBenchmark:
    """One drive end to end, the all-reduce, a training step and the renderer on this machine's GPUs."""

    preset: str = "scal3r"
    """Network; its weights are random."""
    frames: int = 600
    """Frames of the drive."""
    width: int = 518
    """Width of its images."""
    height: int = 154
    """Height of its images."""
    chunk_size: int = 60
    """Frames per chunk."""
    overlap: int = 30
    """Frames that neighbouring chunks share."""
    device: Literal["gpu", "cpu"] = "gpu"
    """cpu: run without a GPU, to test this benchmark."""
    threads: int = 8
    """CPU threads of the rank."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        ModelConfig.preset(self.preset)
        if self.frames < 2:
            raise ValueError(f"gpu.frames must be at least 2, not {self.frames}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Measure one part after the other. Raises ValueError if there is no GPU, and the errors of the parts."""
        if self.device == "gpu" and not torch.cuda.is_available():
            raise ValueError("there is no GPU here: --gpu.device cpu with a small --gpu.preset tests this benchmark")
        begin = time.perf_counter()
        drive = run_isolated(_drive, self)
        kind: Literal["cuda", "cpu"] = "cuda" if self.device == "gpu" else "cpu"
        gpus = torch.cuda.device_count() if self.device == "gpu" else 1
        config = ModelConfig.preset(self.preset)
        sums = {count: allreduce_seconds(count, config, free_port(), kind) for count in sorted({1, gpus})}
        say(f"all-reduce: {', '.join(f'{count}: {s * 1e3:.1f} ms' for count, s in sums.items())}")
        step, losses = training_step(kind)
        say(f"a training step of city_tiny: {step:.2f} s")
        rendered, same = rendering(kind)
        say(f"renderer: {rendered:.1f} frames/s")
        seconds = time.perf_counter() - begin
        figures = _Figures(self.frames, gpus, drive, sums, step, losses, rendered, same, seconds)
        say(
            f"{self.frames} frames: {figures.whole_seconds:.1f} s, of them {drive['network_seconds']:.1f} in the "
            f"network; {figures.start_seconds:.1f} s of start aside"
        )
        return Measured(figures.values(), figures.rows(), must=True)


@dataclass(frozen=True)
class _Figures:
    """Everything that was measured. sums: seconds of an all-reduce by the number of devices; step: seconds of a
    training step, and the losses of all steps; rendered: frames a second, and whether they are those of a CPU."""

    frames: int
    gpus: int
    drive: DriveRun
    sums: dict[int, float]
    step: float
    losses: list[float]
    rendered: float
    same: bool
    seconds: float

    @property
    def start_seconds(self) -> float:
        """Seconds of the forward stage outside the network: a new process loads weights and compiles kernels."""
        return self.drive["seconds"]["forward"] - self.drive["network_seconds"]

    @property
    def whole_seconds(self) -> float:
        """The drive from end to end without that start."""
        return self.drive["total_seconds"] - self.start_seconds

    @property
    def outside(self) -> float:
        """Share of the drive's time that is not spent in the network."""
        return 1 - self.drive["network_seconds"] / self.whole_seconds

    def values(self) -> dict[str, object]:
        """All figures by name, for JSON."""
        return {
            "gpus": self.gpus,
            "drive": self.drive,
            "frames_per_second": self.frames / self.whole_seconds,
            "network_frames_per_second": self.frames / self.drive["network_seconds"],
            "start_seconds": self.start_seconds,
            "outside_network_share": self.outside,
            "allreduce_seconds": {str(count): seconds for count, seconds in self.sums.items()},
            "training_step_seconds": self.step,
            "training_losses": self.losses,
            "rendered_frames_per_second": self.rendered,
            "rendered_like_on_a_cpu": self.same,
            "seconds": self.seconds,
        }

    def rows(self) -> tuple[Row, ...]:
        """The figures as a table, with targets."""
        return (
            *self._drive_rows(),
            *(
                Row(
                    f"sum of a memory's step, {count} GPU{'s' if count > 1 else ''}",
                    f"{seconds * 1e3:.1f} ms",
                    f"{_SUM_TARGET_S * 1e3:g} ms",
                    seconds <= _SUM_TARGET_S,
                )
                for count, seconds in self.sums.items()
            ),
            Row(
                "training step of city_tiny",
                f"{self.step:.2f} s, loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}",
                f"{_STEP_TARGET_S:g} s, falling",
                self.step <= _STEP_TARGET_S and self.losses[-1] < self.losses[0],
            ),
            Row(
                "renderer",
                rate(self.rendered, 1, "frames"),
                f"{_RENDER_TARGET:g} frames/s, as on a CPU",
                self.rendered >= _RENDER_TARGET and self.same,
            ),
            Row("all of this", f"{self.seconds:.0f} s", f"{_ALL_TARGET_S:g} s", self.seconds <= _ALL_TARGET_S),
        )

    def _drive_rows(self) -> tuple[Row, ...]:
        network = self.drive["network_seconds"]
        return (
            Row("whole drive", rate(self.frames, self.whole_seconds, "frames")),
            Row(
                "  in the network",
                rate(self.frames, network, "frames"),
                f"{_RATE_TARGET:g} frames/s",
                self.frames / network >= _RATE_TARGET,
            ),
            Row(
                "  outside the network",
                f"{self.outside:.0%} of the time",
                f"{_OUTSIDE_TARGET:.0%}",
                self.outside <= _OUTSIDE_TARGET,
            ),
            Row("  seconds", ", ".join(f"{name} {spent:.1f}" for name, spent in self.drive["seconds"].items())),
            Row("  host memory at the peak", size_text(self.drive["peak_resident_bytes"])),
        )


def _drive(settings: GpuBenchmark) -> DriveRun:
    """Reconstruct the drive as `jobs.reconstruct` does by default (in a new process)."""
    asked = DriveBenchmark(
        preset=settings.preset,
        width=settings.width,
        height=settings.height,
        chunk_size=settings.chunk_size,
        overlap=settings.overlap,
        host_memory="32GB",
        threads=settings.threads,
    )
    return reconstruct_made_up(asked, settings.frames, device=settings.device)


@dataclass(frozen=True)
class _Clip:
    frames: Frames

    def __len__(self) -> int:
        return len(self.frames.images)

    def read(self, frames: Sequence[int]) -> Frames:
        chosen, all_of = list(frames), self.frames
        return Frames(
            all_of.images[chosen], all_of.depth[chosen], all_of.world_from_camera[chosen], all_of.intrinsics[chosen]
        )


@dataclass(frozen=True)
class _OneDrive:
    clip: _Clip

    def drives(self) -> Sequence[Sequence[_Clip]]:
        return [[self.clip]]


def training_step(kind: str) -> tuple[float, list[float]]:
    """Median seconds of a training step of city_tiny on one clip, and the losses of all steps."""
    rendered = CityDrive(3, 16, 64, 128, device=kind).render(range(16))
    clip = _Clip(Frames(rendered.images, rendered.depth, rendered.world_from_camera, rendered.intrinsics))
    config = TrainConfig(
        output="unused",
        steps=_STEPS,
        precision="bfloat16" if kind == "cuda" else "float32",
        batch=BatchSettings(frames=8, longest=4),
        optimizer=OptimizerSettings(warmup=1, memory_rate=1e-3, backbone_rate=1e-3),
    )
    torch.manual_seed(0)
    model = Reconstructor(ModelConfig.city_tiny())
    start_near_identity(model)
    objective = Objective(model.config.embed_dim, model.config.patch_size, config.loss)
    trainer = Trainer(config, model.to(kind), objective.to(kind), _OneDrive(clip))
    seconds, losses = [], []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        losses.append(trainer.advance(0.0)["loss"])  # a number on the host, so the GPU has finished
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:]), losses


def rendering(kind: str) -> tuple[float, bool]:
    """Rendered frames per second at training's size, and whether all but a few pixels equal those of a CPU."""
    drive = CityDrive(_RENDER_SEED, _RENDERED, 64, 128, device=kind)
    there = drive.render(range(2))
    here = CityDrive(_RENDER_SEED, _RENDERED, 64, 128).render(range(2))
    apart = np.abs(there.images.astype(int) - here.images.astype(int)).max(-1) > _TONES
    begin = time.perf_counter()
    drive.render(range(_RENDERED))  # its arrays are copied to the host
    return _RENDERED / (time.perf_counter() - begin), float(apart.mean()) < _OTHER_PIXELS


def write_city_drive() -> None:
    """Write the drive that comes with `models.benchmark` (run by hand; `pipeline.benchmark.accuracy` renders alike)."""
    rendered = CityDrive(_CITY_SEED, _CITY_ROUTE, 64, 128, supersample=2).render(range(_CITY_FRAMES))
    positions = torch.from_numpy(rendered.world_from_camera[:, :3, 3])
    write_drive(torch.from_numpy(rendered.images), positions)
