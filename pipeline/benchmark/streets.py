"""Measures the effect of stops, turns and revisits on rendered city drives, with the whole pipeline, against the truth.

Every drive is reconstructed without any standing frame, and again with stops of 5 to 30 seconds in a few places (the
same image with a camera's noise), at traffic lights if there are some. Both must give the same trajectory. A third run
has the frames of the first, with chunk borders inside turns (--no-turns). The places to which a drive comes back are
known, so loops can be counted as right, wrong and missed.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.benchmark.report import Measured, Row
from pipeline.common.progress import Reporter
from pipeline.common.ray_session import ray_for_one_job
from pipeline.config import RunConfig
from pipeline.evaluation.metrics import travelled, umeyama
from pipeline.publish import open_drive
from pipeline.reconstruct import reconstruct
from pipeline.synthetic import DriveSpec, TrueDrive, read_drive, write_drive

Floats = NDArray[np.float64]

# Two frames show one place if they are nearer than NEAR metres, differ by less than TURNED degrees, and the car has
# driven APART metres in between.
NEAR, TURNED, APART = 4.0, 30.0, 60.0
WRONG = 15.0  # metres; an accepted loop whose frames are farther apart is wrong
_SHORTEST = 15.0  # metres; shorter revisited stretches need not be found
_STANDS = 1e-6  # metres per frame
_NOISE = 1.5  # standard deviation of the noise of a standing frame, grey values


@dataclass(frozen=True)
class StreetsBenchmark:
    """City drives with and without stops, and with chunk borders inside turns."""

    drives: int = 10
    """Number of drives; each is reconstructed without stops, with stops, and without stops but with --no-turns."""
    frames: int = 600
    """Frames of each drive before stops are inserted, ten per second."""
    seed: int = 3000
    """Seed of the first drive; training used 100,000 and above."""
    stops: int = 2
    """Stops inserted into each drive."""
    shortest_s: float = 5.0
    """Seconds of the shortest stop."""
    longest_s: float = 30.0
    """Seconds of the longest stop."""
    supersample: int = 1
    """A pixel's colour is the mean of this number squared of rays."""
    folder: str | None = None
    """Folder in which rendered drives and results are kept and reused; by default a temporary folder."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the setting."""
        for name, least in (("drives", 1), ("frames", 30), ("stops", 0), ("supersample", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"streets.{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.shortest_s <= self.longest_s:
            raise ValueError(
                f"streets.shortest-s {self.shortest_s} and longest-s {self.longest_s} must be in order and above zero"
            )

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Render, reconstruct and compare all drives."""
        with tempfile.TemporaryDirectory(prefix="streets-") as scratch, ray_for_one_job():
            folder = Path(self.folder or scratch)
            drives = []
            for number in range(self.drives):
                drives.append(self._drive(folder, self.seed + number, say))
                one = drives[-1]
                say(
                    f"seed {one['seed']}: ATE {one['moving']['ate']:.2f} m without stops, "
                    f"{one['stopping']['ate']:.2f} m with, {one['no-turns']['ate']:.2f} m with borders in turns; "
                    f"{one['moving']['found']} of {one['moving']['stretches']} stretches found, "
                    f"{one['moving']['wrong']} wrong loops"
                )
        return Measured({"drives": drives}, _rows(drives))

    def _drive(self, folder: Path, seed: int, say: Callable[[str], None]) -> _Drive:
        spec = DriveSpec(seed, self.frames, 64, 128, self.supersample)
        truth = read_drive(write_drive(spec, str(folder), f"{seed}"))
        moving, stopping = self._frames_used(truth, seed)
        runs: list[_Run] = []
        for name, shown, used in (
            ("moving", "moving", moving),
            ("stopping", "stopping", stopping),
            ("no-turns", "moving", moving),
        ):
            drive_id = f"{shown}-{seed}"
            source = _write_frames(folder / "input" / drive_id, truth, used)
            output = folder / ("no-turns" if name == "no-turns" else "out")
            config = RunConfig(
                input=str(source),
                output=str(output),
                preset="city_tiny",
                turns=name != "no-turns",
                keep_predictions=self.folder is not None,
            )
            with Reporter(io.StringIO()) as reporter:
                reconstruct(config, reporter)
            runs.append(_compared(str(output), drive_id, truth, used))
        return {"seed": seed, "moving": runs[0], "stopping": runs[1], "no-turns": runs[2]}

    def _frames_used(self, truth: TrueDrive, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The frame numbers of the run without stops and of the run with stops, in which frames are repeated."""
        rng = np.random.default_rng([seed, 31])
        step = np.linalg.norm(np.diff(truth.world_from_camera[:, :3, 3], axis=0), axis=1)
        moving = np.concatenate([[0], 1 + np.flatnonzero(step > _STANDS)])
        lights = np.flatnonzero(np.diff(moving, append=moving[-1] + 1) > 1)  # frames after which the car waits
        rest = np.setdiff1d(np.arange(20, len(moving) - 20), lights)
        slow = rest[np.argsort(step[np.maximum(moving[rest] - 1, 0)])][: 4 * self.stops]
        chosen = [*rng.permutation(lights), *rng.permutation(slow)][: self.stops]
        repeat = np.ones(len(moving), np.int64)
        for place in chosen:
            repeat[place] += round(10 * rng.uniform(self.shortest_s, self.longest_s))
        return moving, np.repeat(moving, repeat)


class _Loop(TypedDict):
    pair: tuple[int, int]
    accepted: bool
    similarity: float | None
    residual: float | None
    metres: float
    reason: str | None


class _Run(TypedDict):
    """One run of a drive: ATE and length of the path (metres), and counts of frames, chunks, stretches and loops."""

    ate: float
    ate_percent: float
    path: float
    frames: int
    still: int
    waited: int
    chunks: int
    verdict: str
    stretches: int
    found: int
    accepted: int
    wrong: int
    candidates: int
    loops: list[_Loop]
    where: list[list[int]]


_Drive = TypedDict("_Drive", {"seed": int, "moving": _Run, "stopping": _Run, "no-turns": _Run})


def _write_frames(folder: Path, truth: TrueDrive, used: NDArray[np.int64]) -> Path:
    """Write a folder of images with the frames in `used`, repeated ones with new noise; keep it if it exists."""
    done = folder / "whole"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(used.sum()))
    for number, frame in enumerate(used):
        target = folder / f"{number:06d}.jpg"
        if number and used[number - 1] == frame:
            noisy = truth.image(int(frame)) + rng.normal(0, _NOISE, (64, 128, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(target, "JPEG", quality=92, subsampling=0)
        else:
            target.write_bytes(storage.read_bytes(truth.image_uris[frame]))
    done.write_bytes(b"")
    return folder


def _compared(output: str, drive_id: str, truth: TrueDrive, used: NDArray[np.int64]) -> _Run:
    """Compare a result with the truth: ATE over the first occurrence of every frame, and loops with known revisits."""
    drive = open_drive(output, drive_id)
    first = np.flatnonzero(np.diff(used, prepend=-1) > 0)
    here = np.stack([drive.poses[axis].to_numpy() for axis in "xyz"], -1)[first]
    poses = truth.world_from_camera[used[first]]
    there = poses[:, :3, 3]
    off = umeyama(here, there, with_scale=True).apply(here) - there
    ate = float(np.sqrt((off**2).sum(1).mean()))
    path = float(travelled(there)[-1])
    place = np.searchsorted(first, np.arange(len(used)), side="right") - 1  # among the frames shown first
    loops: list[_Loop] = []
    for row in drive.loops.to_pylist():
        middle = [(row[f"{side}_start"] + row[f"{side}_stop"] - 1) // 2 for side in ("first", "second")]
        pair = int(place[middle[0]]), int(place[middle[1]])
        loops.append(
            {
                "pair": pair,
                "accepted": row["accepted"],
                "similarity": row["similarity"],
                "residual": row["residual"],
                "metres": float(np.linalg.norm(there[pair[0]] - there[pair[1]])),
                "reason": row["reason"],
            }
        )
    stretches = revisited(poses)
    accepted = [one for one in loops if one["accepted"]]
    right = [one for one in accepted if one["metres"] <= WRONG]
    found = sum(any(one["pair"][1] in stretch for one in right) for stretch in stretches)
    counts = drive.manifest.counts
    return {
        "ate": ate,
        "ate_percent": 100 * ate / path,
        "path": path,
        "frames": len(used),
        "still": counts.frames_still,
        "waited": int(len(used) - len(first)),
        "chunks": counts.chunks,
        "verdict": str(drive.manifest.quality["verdict"]),
        "stretches": len(stretches),
        "found": found,
        "accepted": len(accepted),
        "wrong": len(accepted) - len(right),
        "candidates": len(loops),
        "loops": loops,
        "where": [[s.start, s.stop] for s in stretches],
    }


def revisited(world_from_camera: Floats) -> list[range]:
    """Stretches (ranges of frames) of a drive (N, 4, 4) along which it passes a place again, in the same direction.

    A frame counts if its camera is within NEAR metres of an earlier one and differs by less than TURNED degrees, after
    at least APART metres of driving. Stretches shorter than 15 m are left out.
    """
    place, forward = world_from_camera[:, :3, 3], world_from_camera[:, :3, 2]
    way = travelled(place)
    again = np.zeros(len(place), bool)
    for frame in range(len(place)):
        earlier = way[:frame] < way[frame] - APART
        near = np.linalg.norm(place[:frame] - place[frame], axis=1) < NEAR
        again[frame] = bool((earlier & near & (forward[:frame] @ forward[frame] > np.cos(np.radians(TURNED)))).any())
    edges = np.flatnonzero(np.diff(np.concatenate([[0], again.astype(np.int8), [0]])))
    joined: list[list[int]] = []
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if joined and way[start] - way[joined[-1][1] - 1] < 10.0:  # a lane change in between
            joined[-1][1] = int(stop)
        else:
            joined.append([int(start), int(stop)])
    return [range(a, b) for a, b in joined if way[b - 1] - way[a] >= _SHORTEST]


def _rows(drives: Sequence[_Drive]) -> tuple[Row, ...]:
    moving = [one["moving"] for one in drives]
    stopping = [one["stopping"] for one in drives]
    no_turns = [one["no-turns"] for one in drives]

    def mean(values: Sequence[_Run], name: Literal["ate_percent", "chunks"]) -> float:
        return float(np.mean([one[name] for one in values]))

    without, with_stops, in_turns = (mean(runs, "ate_percent") for runs in (moving, stopping, no_turns))
    better = sum(one["ate"] < other["ate"] for one, other in zip(moving, no_turns, strict=True))
    both = [*moving, *stopping]
    stretches, found = sum(one["stretches"] for one in both), sum(one["found"] for one in both)
    wrong = sum(one["wrong"] for one in both)
    waited, still = sum(one["waited"] for one in stopping), sum(one["still"] for one in stopping)
    rows = [
        Row("ATE without stops, mean", f"{without:.2f} % of the path"),
        Row("ATE with stops, mean", f"{with_stops:.2f} %", "within 10 % of without", with_stops <= 1.1 * without),
        Row("ATE with --no-turns, mean", f"{in_turns:.2f} %"),
        Row("drives better without --no-turns", f"{better} of {len(drives)}"),
        Row("chunks without stops, mean", f"{mean(moving, 'chunks'):.1f}"),
        Row(
            "chunks with stops, mean",
            f"{mean(stopping, 'chunks'):.1f}",
            "at most 5 % more than without",
            mean(stopping, "chunks") <= 1.05 * mean(moving, "chunks") + 1,
        ),
        Row("standing frames left out", f"{still} of {waited}"),
        Row("moving frames left out", f"{sum(one['still'] for one in moving)} of {sum(o['frames'] for o in moving)}"),
        Row("loops accepted", f"{sum(one['accepted'] for one in both)} of {sum(one['candidates'] for one in both)}"),
        Row("false loops accepted", f"{wrong}", "0", wrong == 0),
    ]
    if stretches:
        value = f"{found} of {stretches}"
        rows.append(Row("revisited stretches found", value, "0.9", found >= 0.9 * stretches))
    return tuple(rows)
