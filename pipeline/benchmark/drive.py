"""Measures whole drives of increasing length, from JPEG files to Parquet: seconds by stage, RAM over time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image

from models import ModelConfig, Reconstructor
from models.benchmark.modes import made_up_frames
from models.checkpoint import save_checkpoint
from pipeline import storage
from pipeline.benchmark.core_seconds import SETTLED, TARGET, CoreSeconds, beside_the_network, decoding_seconds
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row
from pipeline.common.process_memory import MemoryTrace, descendants_bytes, descendants_cpu_seconds, whole_resident_bytes
from pipeline.common.progress import Reporter
from pipeline.common.sizes import size_text
from pipeline.forward.budgets import parse_size
from pipeline.forward.network import Device

_MARGIN = 1.5e9  # bytes above the budget: interpreter, libraries, network, the work on a chunk, decoded frames
_FAST = ("small", "city_tiny")  # with networks as fast as these, the share of time outside the network is not judged


@dataclass(frozen=True)
class DriveBenchmark:
    """The whole pipeline on synthetic drives, each length in a new process."""

    input: str | None = None
    """A drive to use instead of synthetic ones, with the weights that come with the project; `lengths` says how many of
    its frames."""
    preset: str = "small"
    """Network for synthetic drives: a preset's name, or small (four layers of width 32 at 518 pixels), to measure
    everything outside the network."""
    lengths: tuple[int, ...] = (60, 120, 240)
    """Frames of the drives; the target is for 100 300 1000 4541."""
    width: int = 518
    """Width of the images; the preset determines that of the network's frames."""
    height: int = 154
    """Height of the images."""
    chunk_size: int = 20
    """Frames per chunk."""
    overlap: int = 10
    """Frames that neighbouring chunks share."""
    host_memory: str = "2GB"
    """Budget of waiting chunks in host memory."""
    points: bool = True
    """Publish the point cloud too."""
    threads: int = 1
    """CPU threads of the network."""
    measured: tuple[str, ...] = ()
    """JSON files of earlier runs with the same settings; lengths in them are not measured again."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        parse_size(self.host_memory, "--drive.host-memory")
        if self.preset != "small":
            ModelConfig.preset(self.preset)
        if not self.lengths or min(self.lengths) < 2:
            raise ValueError(f"drive.lengths must be drives of 2 frames or more, not {self.lengths}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Measure one length after the other; the RAM of the last one is compared with the target.

        Raises ValueError for a file in `measured` that does not fit, StorageError if it cannot be read.
        """
        known = self._known()
        runs: list[DriveRun] = []
        for frames in self.lengths:
            run = known.get(frames) or run_isolated(reconstruct_made_up, self, frames)
            runs.append(run)
            say(
                f"{frames} frames: {run['total_seconds']:.1f} s, {run['total_cpu_seconds']:.1f} s of CPU, "
                f"peak {size_text(run['peak_resident_bytes'])}"
            )
        last = runs[-1]
        beside = CoreSeconds.between(
            {run["frames"]: run["beside_network_cpu_seconds"] for run in runs if "beside_network_cpu_seconds" in run}
        )
        limit = parse_size(self.host_memory, "--drive.host-memory") + _MARGIN
        flat = last["growth_bytes"] <= 0.1 * last["peak_resident_bytes"]
        outside, by_cpu = last["outside_forward_share"], last["outside_network_cpu_share"]
        judged = self.preset not in _FAST
        rows = [
            Row(
                f"resident set, {last['frames']} frames",
                size_text(last["peak_resident_bytes"]),
                f"{size_text(limit)}",
                last["peak_resident_bytes"] <= limit,
            ),
            Row("  growth in the second half", size_text(last["growth_bytes"]), "flat (10 %)", flat),
            Row("  with all of Ray's processes", size_text(last["peak_family_bytes"])),
            Row(
                "outside the network's stage",
                f"{outside:.0%} of the time without Ray's start",
                "10 % on a CPU with ViT-S" if judged else None,
                outside <= 0.1 if judged else None,
            ),
            Row("  of all CPU seconds, with decoding and Ray", f"{by_cpu:.0%}"),
            *(
                Row(
                    f"{r['frames']} frames",
                    f"{r['frames'] / r['total_seconds']:.2f} frames/s, "
                    f"{1000 * r['total_cpu_seconds'] / r['frames']:.0f} ms of CPU per frame, "
                    f"peak {size_text(r['peak_resident_bytes'])}",
                )
                for r in runs
            ),
            Row("seconds, last", ", ".join(f"{name} {spent:.1f}" for name, spent in last["seconds"].items())),
            Row(
                "core-seconds per frame outside the network",
                ", ".join(f"{name} {spent:.3f}" for name, spent in beside.of_frame.items()),
            ),
            *_refinement_rows(beside, judged=self.input is not None),
            Row("CPU seconds, last", ", ".join(f"{name} {spent:.1f}" for name, spent in last["cpu_seconds"].items())),
        ]
        found = {
            "drives": runs,
            "resident_limit_bytes": limit,
            "core_seconds_a_frame": beside.of_frame,
            "core_seconds_a_drive": beside.of_drive,
        }
        return Measured(found, tuple(rows), _figure(runs, limit))

    def _known(self) -> dict[int, DriveRun]:
        """Runs from the files in `measured`, by their number of frames."""
        mine = _comparable(json.loads(json.dumps(asdict(self))))
        known: dict[int, DriveRun] = {}
        for uri in self.measured:
            shown = storage.redacted(uri)
            try:
                whole = json.loads(storage.read_bytes(storage.absolute(uri)))
                theirs, runs = _comparable(whole["settings"]), {run["frames"]: run for run in whole["drives"]}
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"drive.measured: {shown} is not a JSON file of --what drive") from None
            if theirs != mine:
                other = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
                raise ValueError(f"drive.measured: {shown} was measured with other settings: {', '.join(other)}")
            known |= runs
        return known


def _refinement_rows(beside: CoreSeconds, judged: bool) -> list[Row]:
    fixed = ", ".join(f"{name} {spent:.1f}" for name, spent in beside.of_drive.items())
    judged = judged and beside.settled
    return [
        Row(
            "  tracks and adjustment",
            f"{beside.of_refinement:.3f}" + ("" if beside.settled else f", with fixed costs: lengths below {SETTLED}"),
            f"{TARGET} at KITTI's size" if judged else None,
            beside.of_refinement <= TARGET if judged else None,
        ),
        Row("core-seconds per drive, whatever its length", fixed or "not known from one length"),
    ]


def _comparable(settings: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in ("lengths", "measured")}


class DriveRun(TypedDict):
    """Figures of one drive: seconds by stage (clock and CPU), and bytes."""

    frames: int
    points: int
    seconds: dict[str, float]
    network_seconds: float
    total_seconds: float
    cpu_seconds: dict[str, float]
    ray_cpu_seconds: dict[str, float]
    total_cpu_seconds: float
    beside_network_cpu_seconds: dict[str, float]
    outside_forward_share: float
    outside_network_cpu_share: float
    peak_resident_bytes: int
    growth_bytes: int
    peak_family_bytes: int  # the sum of two peaks: of this process, of those it started
    trace: list[tuple[float, int]]


class _Clocked(Reporter):
    """Also measures CPU seconds: of this process, and of the processes it started (Ray's)."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.chunks_done: list[float] = []  # times at which a rank reported a chunk, in any phase
        self.own: dict[str, float] = {}
        self.others: dict[str, float] = {}

    def advance(self, name: str, count: int, total: int | None, unit: str) -> None:
        if name != "points":
            self.chunks_done.append(time.perf_counter())
        super().advance(name, count, total, unit)

    @property
    def network_seconds(self) -> float:
        """From the start of the first chunk to the end of the last; for the first, the mean duration is assumed."""
        told = self.chunks_done
        return (told[-1] - told[0]) * len(told) / (len(told) - 1) if len(told) > 1 else 0.0

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        own, others = time.process_time(), descendants_cpu_seconds()
        with super().timed(name):
            yield
        self.own[name] = self.own.get(name, 0.0) + time.process_time() - own
        self.others[name] = self.others.get(name, 0.0) + descendants_cpu_seconds() - others


def reconstruct_made_up(settings: DriveBenchmark, frames: int, device: Device = "auto") -> DriveRun:
    """Reconstruct one drive in this process, with the defaults of `jobs.reconstruct` on this device."""
    from pipeline.common.ray_session import ray_for_one_job
    from pipeline.config import RunConfig
    from pipeline.publish import PublishConfig
    from pipeline.reconstruct import reconstruct

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a Ray that only this process uses needs no token
    with tempfile.TemporaryDirectory(prefix="benchmark-drive-") as folder:
        weights = None
        if settings.input is None:
            _write_images(Path(folder, "drive"), frames, settings.height, settings.width)
            weights = str(Path(folder, "network.safetensors"))
            save_checkpoint(_network(settings), Path(weights))
        config = RunConfig(
            input=settings.input or str(Path(folder, "drive")),
            end=frames,
            output=str(Path(folder, "out")),
            weights=weights,
            chunk_size=settings.chunk_size,
            overlap=settings.overlap,
            host_memory=settings.host_memory,
            threads=settings.threads,
            device=device,
            loops=False,
            stops=False,
            turns=False,
            publish=PublishConfig(with_points=settings.points),
        )
        decoding = decoding_seconds(config)
        with (
            _Clocked() as reporter,
            MemoryTrace(0.2, whole_resident_bytes) as trace,
            contextlib.redirect_stdout(io.StringIO()),
            ray_for_one_job(),
            MemoryTrace(5.0, descendants_bytes) as others,  # it ends, and looks once more, before Ray does
        ):
            result = reconstruct(config, reporter)
        points = result.manifest.counts.points
    stages = [name for name in reporter.seconds if name != "start Ray"]
    own = sum(reporter.seconds[name] for name in stages)
    cpu = sum(reporter.own[name] + reporter.others[name] for name in stages)
    return {
        "frames": frames,
        "seconds": reporter.seconds,
        "network_seconds": reporter.network_seconds,
        "total_seconds": own,
        "points": points,
        "cpu_seconds": reporter.own,
        "ray_cpu_seconds": reporter.others,
        "total_cpu_seconds": cpu,
        "beside_network_cpu_seconds": beside_the_network(reporter.own, reporter.others, frames, decoding),
        "outside_forward_share": 1 - reporter.seconds["forward"] / own,
        "outside_network_cpu_share": 1 - reporter.own["forward"] / cpu,
        "peak_resident_bytes": trace.peak,
        "growth_bytes": trace.growth,
        "peak_family_bytes": trace.peak + others.peak,
        "trace": _thinned(trace.samples),
    }


def _network(settings: DriveBenchmark) -> Reconstructor:
    """A network with random weights that predicts cameras near each other, so that chunks can be joined."""
    config = (
        ModelConfig.preset(settings.preset)
        if settings.preset != "small"
        else ModelConfig(
            embed_dim=32,
            depth=4,
            num_heads=2,
            encoder="conv",
            image_size=518,
            memory_layers=(1, 3),
            dense_layers=(0, 1, 2, 3),
            dense_features=16,
            dense_channels=(16, 16, 16, 16),
            camera_trunk_depth=1,
            camera_heads=2,
            layer_scale=0.5,
        )
    )
    torch.manual_seed(3)
    model = Reconstructor(config)
    with torch.no_grad():
        model.camera_head.pose_branch.fc2.weight.mul_(0.1)
        bias = torch.tensor([0, 0, 0.1, 0, 0, 0, 1, 0.8, 1.2]) / config.camera_rounds  # every round adds it
        model.camera_head.pose_branch.fc2.bias.copy_(bias)
    return model


def _write_images(folder: Path, frames: int, height: int, width: int) -> None:
    folder.mkdir()
    pictures = made_up_frames(min(frames, 64), height, width).permute(0, 2, 3, 1).numpy()
    for number in range(frames):
        Image.fromarray(np.ascontiguousarray(pictures[number % len(pictures)])).save(
            folder / f"{number:06d}.jpg", quality=90
        )


def _thinned(samples: list[tuple[float, int]], most: int = 200) -> list[tuple[float, int]]:
    return [(round(when, 2), held) for when, held in samples[:: max(1, len(samples) // most)]]


def _figure(runs: list[DriveRun], limit: float) -> bytes:
    """Plot time and peak RAM over length, and RAM over the time of each drive; returns a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    frames = [r["frames"] for r in runs]
    left.plot(frames, [r["total_seconds"] for r in runs], "o-", label="clock")
    left.plot(frames, [r["total_cpu_seconds"] for r in runs], "s--", label="CPU, all processes")
    left.set(xlabel="frames", ylabel="seconds", title="time of the whole pipeline", xlim=(0, None), ylim=(0, None))
    left.legend(fontsize=7)
    middle.plot(frames, [r["peak_resident_bytes"] / 1e9 for r in runs], "o-", label="process")
    middle.plot(frames, [r["peak_family_bytes"] / 1e9 for r in runs], "s--", label="with Ray's")
    middle.set(xlabel="frames", ylabel="GB", title="peak memory", xlim=(0, None))
    for run in runs:
        when, held = zip(*run["trace"], strict=True)
        right.plot(np.array(when) / max(when[-1], 1e-9), np.array(held) / 1e9, label=f"{run['frames']} frames")
    right.set(xlabel="share of the run", ylabel="resident, GB", title="memory of the process")
    for axes in (middle, right):
        axes.axhline(limit / 1e9, color="grey", linestyle=":", linewidth=1, label="budget + 1.5 GB")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=80)
    return file.getvalue()
