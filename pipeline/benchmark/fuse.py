"""Measures the fusion of many simulated drives: search, solution, and one more drive; time, memory and error."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.backend.sim3 import fit_similarity
from pipeline.benchmark.city_of_drives import DESCRIBED, MadeUpCity, made_up_city
from pipeline.benchmark.isolated_process import run_isolated
from pipeline.benchmark.report import Measured, Row
from pipeline.common.sizes import size_text
from pipeline.fuse import City, Link, solve
from pipeline.fuse.candidates import by_descriptors
from pipeline.fuse.standing import Standing, StandingDrive

_SIMILARITY, _PER_PAIR, _BUDGET = 0.5, 6, 30  # as FuseConfig
_TARGET_S, _TARGET_BYTES, _TARGET_ONE_S = 1200.0, 4e9, 30.0
_TARGET_DRIVES = 2000


@dataclass(frozen=True)
class FuseBenchmark:
    """Simulated drives through one city. The time targets are for 2,000 drives of 2,500 frames, less for fewer."""

    drives: int = 200
    """Number of drives."""
    frames: int = 2_500
    """Frames of each drive."""
    wrong: float = 0.1
    """Share of links that are wrong."""
    seed: int = 0
    """Seed of the random numbers."""

    def __post_init__(self) -> None:
        """Raises ValueError that names the setting."""
        for name, least in (("drives", 3), ("frames", 200), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"fuse.{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.wrong < 1:
            raise ValueError(f"fuse.wrong must be a share below 1, not {self.wrong}")

    def measure(self, say: Callable[[str], None]) -> Measured:
        """Search candidates, solve, and compare with the truth, in a process of its own."""
        say(f"fusing {self.drives:,} drives of {self.frames:,} frames")
        values = run_isolated(_fused, self.drives, self.frames, self.wrong, self.seed)
        share = self.drives * self.frames / (_TARGET_DRIVES * 2500)
        # The time of the search grows with the square of the number of drives, that of the solution with the number.
        target = _TARGET_S * (0.5 * share**2 + 0.5 * share)
        whole = values["search_seconds"] + values["solve_seconds"]
        return Measured(
            values,
            (
                Row("candidates and solution, 2 threads", f"{whole:.1f} s", f"< {target:.3g} s", whole < target),
                Row("  search of candidates", f"{values['search_seconds']:.1f} s, {values['candidates']:,} found"),
                Row("  solution", f"{values['solve_seconds']:.1f} s, {values['links']:,} links"),
                Row("  their CPU", f"{values['cpu_seconds']:.1f} s"),
                Row(
                    "memory, drives included",
                    size_text(values["peak_bytes"]),
                    f"< {size_text(_TARGET_BYTES)}",
                    values["peak_bytes"] < _TARGET_BYTES,
                ),
                Row(
                    "wrong links accepted",
                    f"{values['wrong_accepted']} of {values['wrong']}",
                    "0",
                    not values["wrong_accepted"],
                ),
                Row("true links rejected", f"{values['true_rejected']} of {values['links'] - values['wrong']}"),
                Row("drives in the largest component", f"{values['largest']} of {self.drives}"),
                Row("error of its frames, one Sim(3)", f"{values['ate_m']:.2f} m"),
                Row("  of each of its drives by itself", f"{values['alone_m']:.2f} m"),
                Row(
                    "one more drive: its candidates and solution, the others held",
                    f"{values['one_more_seconds']:.1f} s",
                    f"< {_TARGET_ONE_S:.0f} s",
                    values["one_more_seconds"] < _TARGET_ONE_S,
                ),
                Row("  its CPU", f"{values['one_more_cpu_seconds']:.1f} s"),
                Row("  memory, with the first solution", size_text(values["one_more_peak_bytes"])),
                Row("  its largest distance from the solution of all drives", f"{values['one_more_m']:.2f} units"),
            ),
        )


def _fused(drives: int, frames: int, wrong: float, seed: int) -> dict[str, float]:
    made = made_up_city(drives, frames, seed)
    rng = np.random.default_rng([seed, 1])
    cpu, begin = time.process_time(), time.monotonic()
    candidates = by_descriptors(made.rows, made.drive, made.frame, _SIMILARITY, _PER_PAIR, _BUDGET)
    searched = time.monotonic()
    last = frozenset({drives - 1})
    cpu_one = -time.process_time()
    by_descriptors(made.rows, made.drive, made.frame, _SIMILARITY, _PER_PAIR, _BUDGET, fresh=last)
    searched_one, cpu_one = time.monotonic() - searched, cpu_one + time.process_time()
    made = replace(made, rows=made.rows[:0].copy())  # a run frees the descriptors before its solution, too
    links = [link for one in candidates if (link := made.link(one, rng)) is not None]
    true = len(links)
    links += [made.wrong_link(rng) for _ in range(round(wrong * true / (1 - wrong)))]
    order = rng.permutation(len(links))
    links = [links[n] for n in order]
    linked = time.monotonic()
    city = solve(made.drives, links)
    solved = time.monotonic()
    cpu = time.process_time() - cpu
    peak = _peak_bytes()
    solved_one, cpu_one = time.monotonic(), cpu_one - time.process_time()
    more = solve(made.drives, links, standing=_without(city, links, drives - 1))
    solved_one, cpu_one = time.monotonic() - solved_one, cpu_one + time.process_time()
    accepted = city.accepted
    component = np.array([drive.component for drive in city.drives])
    largest = int(np.argmax(np.bincount(component)))
    whole, alone = _errors(made, city, np.flatnonzero(component == largest))
    return {
        "search_seconds": searched - begin,
        "solve_seconds": solved - linked,
        "one_more_seconds": searched_one + solved_one,
        "one_more_cpu_seconds": cpu_one,
        "one_more_m": float(np.abs(more.city_from_camera[-1][:, :3, 3] - city.city_from_camera[-1][:, :3, 3]).max()),
        "cpu_seconds": cpu,
        "candidates": len(candidates),
        "links": len(links),
        "wrong": len(links) - true,
        "wrong_accepted": int(accepted[order >= true].sum()),
        "true_rejected": int((~accepted[order < true]).sum()),
        "largest": int((component == largest).sum()),
        "ate_m": whole,
        "alone_m": alone,
        "peak_bytes": peak,
        "one_more_peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int:
    """Most memory that this process has had so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _without(city: City, links: Sequence[Link], last: int) -> Standing:
    """The part of a solution that an earlier one, without the last drive, would have had."""
    drives = {n: StandingDrive(one.city_from_camera, one.depth_scale) for n, one in enumerate(city.drives[:last])}
    judged = enumerate(zip(links, city.links, strict=True))
    known = {n: (it.accepted, it.chi2) for n, (link, it) in judged if last not in (link.first, link.second)}
    return Standing(drives, known)


def _errors(made: MadeUpCity, city: City, drives: NDArray[np.int64]) -> tuple[float, float]:
    """Root mean square distances in metres of the frames of these drives from the truth: after one Sim(3) for all, and
    after one Sim(3) for each drive."""
    found = [city.city_from_camera[n][::DESCRIBED, :3, 3] for n in drives]
    true = [made.truth[n][:, :3, 3] for n in drives]
    return _error(np.concatenate(found), np.concatenate(true)), float(
        np.sqrt(
            np.mean(
                [
                    _error(made.drives[n].world_from_camera[::DESCRIBED, :3, 3], made.truth[n][:, :3, 3]) ** 2
                    for n in drives
                ]
            )
        )
    )


def _error(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Root mean square distance in metres of points (n, 3) from the truth after the best Sim(3)."""
    move = fit_similarity(found, true)
    return float(np.sqrt(((move.apply(found) - true) ** 2).sum(1).mean()))
