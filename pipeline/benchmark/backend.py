"""Measures the back end: simulated chunk predictions along KITTI 00 are joined; the errors are compared with published
ones.

The scenarios (a folder with `chunked_drive.py`, whose code is run, and a trajectory) are not part of the project.
Without them the benchmark cannot run.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import BackendConfig, JoinResult, join_chunks
from pipeline.benchmark.report import Measured, Row
from pipeline.common.sizes import size_text

# Errors of the published back end (README of the scenarios): seed, noise -> ATE of the chain, ATE with loops, metres.
PUBLISHED = {(0, 1.0): (16.27, 2.97), (1, 1.0): (15.92, 3.16), (2, 1.0): (22.11, 4.58), (0, 2.0): (33.06, 6.19)}
_PUBLISHED_FALSE = 152.84  # seed 0 with four wrong revisits
_SHARE = 0.75  # target, as a share of the published error
_FALSE_SHARE = 1.1  # target with wrong revisits, as a share of the error without them
_SECONDS = 2.0  # target for one join
_PIXELS = 64  # how many times more points the second measurement of memory has
_MEMORY_FRAMES = 900  # of the drive on which memory is measured


@dataclass(frozen=True)
class BackendBenchmark:
    """Accuracy and time of joining chunks: without loops, with true loops, and with false loops added."""

    scenarios: str = "../shared/scenarios"
    """Folder with chunked_drive.py, which makes the predictions; its code is run."""
    trajectory: str = "../shared/data/trajectories/KITTI_00_gt.txt"
    """The true poses from which predictions are simulated (KITTI's format)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Scenarios; 0, 1 and 2 have published figures."""
    noisy_seeds: tuple[int, ...] = (0,)
    """Scenarios with every error doubled."""
    false_loops: tuple[int, ...] = (4, 8, 12)
    """Wrong revisits that are added to the 24 true ones."""
    limit: int | None = None
    """Use only this many frames; the published figures are for all 4,541."""
    backend: BackendConfig = field(default_factory=BackendConfig)

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Join every scenario. Raises ValueError if the scenarios do not exist."""
        drives = _module(Path(self.scenarios) / "chunked_drive.py")
        if not Path(self.trajectory).is_file():
            raise ValueError(f"backend.trajectory: {self.trajectory} does not exist; give the path of KITTI_00_gt.txt")
        cases = [(seed, 1.0) for seed in self.seeds] + [(seed, 2.0) for seed in self.noisy_seeds]
        results = []
        for seed, noise in cases:
            results.append(self._case(drives, seed, noise))
            one = results[-1]
            say(f"seed {seed}, noise {noise:g}: {one['chain_ate']:.2f} m, with loops {one['loops_ate']:.2f} m")
        memory = self._memory(drives)
        return Measured({"cases": results, "memory": memory}, (*self._rows(results), *_memory_rows(memory)))

    def _case(self, drives: ModuleType, seed: int, noise: float) -> _Case:
        """ATE (metres) and seconds of one scenario: chain only, with true loops, with false loops added."""
        most = max(self.false_loops, default=0)
        whole = drives.make_scenario(self.trajectory, seed=seed, noise=noise, limit=self.limit, false_loops=most)
        true = len(whole.loop_chunks) - most

        def joined(loops: int) -> tuple[float, JoinResult, float, float]:
            begin, cpu = time.perf_counter(), time.process_time()
            result = join_chunks(
                whole.chunks,
                loop_chunks=whole.loop_chunks[:loops],
                loop_pairs=whole.loop_pairs[:loops],
                config=self.backend,
            )
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            return drives.ate(result.world_from_camera, whole.world_from_cam), result, wall, cpu

        chain = joined(0)
        loops = joined(true)
        found: _Case = {
            "seed": seed,
            "noise": noise,
            "chunks": len(whole.chunks),
            "loops": true,
            "chain_ate": chain[0],
            "chain_seconds": chain[2],
            "chain_cpu_seconds": chain[3],
            "loops_ate": loops[0],
            "loops_seconds": loops[2],
            "loops_cpu_seconds": loops[3],
            "loops_accepted": sum(one.accepted for one in loops[1].loops),
            "false": {},
        }
        for number in self.false_loops:
            ate, result, _, _ = joined(true + number)
            wrong = sum(one.accepted for one in result.loops[true:])
            found["false"][str(number)] = {"ate": ate, "accepted": wrong}
        return found

    def _rows(self, results: Sequence[_Case]) -> list[Row]:
        rows = []
        for one in results:
            name = f"seed {one['seed']}" + (f", noise {one['noise']:g}" if one["noise"] != 1 else "")
            known = PUBLISHED.get((one["seed"], one["noise"])) if self.limit is None else None
            ates = (("chain", one["chain_ate"]), ("loops", one["loops_ate"]))
            for (kind, ate), published in zip(ates, known or (None, None), strict=True):
                target = None if published is None else f"{_SHARE} x {published} (published)"
                met = None if published is None else ate <= _SHARE * published
                rows.append(Row(f"{name}, {kind}: ATE", f"{ate:.2f} m", target, met))
            for number, false in one["false"].items():
                value = f"{false['ate']:.2f} m, {false['accepted']} of {number} accepted"
                target = f"{_FALSE_SHARE} x {one['loops_ate']:.2f} m"
                if known and one["seed"] == 0 and one["noise"] == 1 and number == "4":
                    target += f" (published {_PUBLISHED_FALSE})"
                met = false["ate"] <= _FALSE_SHARE * one["loops_ate"] and not false["accepted"]
                rows.append(Row(f"{name}, {number} wrong loops: ATE", value, target, met))
        spent = {
            "wall": [(one["loops_seconds"], one) for one in results],
            "CPU": [(one["loops_cpu_seconds"], one) for one in results],
        }
        for kind, all_of in spent.items():
            seconds, most = max(all_of, key=lambda pair: pair[0])
            name = f"{most['chunks']} chunks and {most['loops']} loops, {kind}, slowest"
            full = self.limit is None
            rows.append(
                Row(name, f"{seconds:.2f} s", f"{_SECONDS} s" if full else None, seconds < _SECONDS if full else None)
            )
        return rows

    def _memory(self, drives: ModuleType) -> _Memory:
        """Peak bytes that joining allocates, with few and with many points per chunk."""
        peaks: list[_Peak] = []
        for factor in (1, _PIXELS):
            scenario = drives.make_scenario(
                self.trajectory, seed=0, limit=min(self.limit or _MEMORY_FRAMES, _MEMORY_FRAMES), loops=0
            )
            chunks = _Enlarged(scenario.chunks, round(factor**0.5))
            one = chunks[0]
            points, raw = one.depth.size * len(chunks), one.depth.nbytes + one.confidence.nbytes
            del one
            gc.collect()
            tracemalloc.start()
            join_chunks(chunks, config=self.backend)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            peaks.append({"points": points, "peak_bytes": peak, "chunk_bytes": raw})
        return {"few": peaks[0], "many": peaks[1]}


class _False(TypedDict):
    ate: float
    accepted: int


class _Case(TypedDict):
    """One scenario: ATE (metres) and seconds of the chain and with loops; false: by the number of false loops."""

    seed: int
    noise: float
    chunks: int
    loops: int
    chain_ate: float
    chain_seconds: float
    chain_cpu_seconds: float
    loops_ate: float
    loops_seconds: float
    loops_cpu_seconds: float
    loops_accepted: int
    false: dict[str, _False]


class _Peak(TypedDict):
    points: int
    peak_bytes: int
    chunk_bytes: int


class _Memory(TypedDict):
    """Peaks with few and with many points."""

    few: _Peak
    many: _Peak


@dataclass(frozen=True)
class _Prediction:
    """A chunk of the scenarios, with the fields of PosedDepth."""

    frame_index: NDArray[np.integer]
    cam_from_world: NDArray[np.floating]
    intrinsics: NDArray[np.floating]
    depth: NDArray[np.floating]
    confidence: NDArray[np.floating]


@dataclass(frozen=True)
class _Enlarged(Sequence[_Prediction]):
    """Chunks whose depth maps are enlarged by `factor` along each side on access, as if read from a file."""

    chunks: Sequence[_Prediction]
    factor: int

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> _Prediction:  # type: ignore[override]
        chunk = self.chunks[number]
        intrinsics = chunk.intrinsics.copy()
        intrinsics[:2] *= self.factor
        tile = np.ones((1, self.factor, self.factor), np.float32)
        return replace(
            chunk, depth=np.kron(chunk.depth, tile), confidence=np.kron(chunk.confidence, tile), intrinsics=intrinsics
        )


def _memory_rows(memory: _Memory) -> list[Row]:
    few, many = memory["few"], memory["many"]
    grown = many["peak_bytes"] - few["peak_bytes"]
    times = many["points"] / few["points"]
    return [
        Row(
            f"memory, {times:.0f} x the points",
            f"{size_text(few['peak_bytes'])} -> {size_text(many['peak_bytes'])}",
            f"grows by a few chunks' arrays ({size_text(many['chunk_bytes'])} each), not with the drive's points",
            grown < 6 * many["chunk_bytes"],
        )
    ]


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(
            f"backend.scenarios: {path} does not exist; the scenarios are not part of the project: give their folder"
        )
    spec = importlib.util.spec_from_file_location("chunked_drive", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need their module under its name
    spec.loader.exec_module(module)
    return module
