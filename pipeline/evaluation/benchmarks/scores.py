"""Scores of sequences, their means, and a table of them with published figures."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listed
from dataclasses import dataclass, replace

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.common.visible_text import visible
from pipeline.config import RunConfig
from pipeline.evaluation.benchmarks.sequence import Benchmark

FULL = "full"
VARIANTS: dict[str, Callable[[RunConfig], RunConfig]] = {
    FULL: lambda config: config,
    "gcs": lambda config: replace(config, memory_scope="chunk"),
    "gcm": lambda config: replace(config, memory_scope="off"),
    "loops": lambda config: replace(config, loops=False),
}
"""The settings of each variant: all of the method, a separate memory for each chunk, no memories, no loop closure."""

_WITHOUT = {"gcs": "without GCS", "gcm": "without GCM", "loops": "without loops", FULL: "full"}
_NOTHING = "–"


@dataclass(frozen=True)
class Score:
    """The score of one sequence in one variant: metres and degrees, after Sim(3) alignment.

    failed: why there are no figures, else None; frames: of the sequence; compared: how many of them have a true pose;
    ate: RMSE of positions; ate_percent: the same in % of the path; rte, rre: RMSE of the motion's translation and
    rotation over 100 m (None for shorter paths); kitti_translation (%), kitti_rotation (degrees per 100 m): KITTI's
    errors over 100 to 800 m; chamfer, f1: of point clouds; clouds: all figures of the clouds; seconds: of all stages
    except finding the drive, None if unknown; peak_memory: bytes of the run that made the result, with all its drives,
    None if unknown; code_version: of the code that made it.
    """

    sequence: str
    variant: str
    failed: str | None = None
    frames: int = 0
    compared: int = 0
    ate: float | None = None
    ate_percent: float | None = None
    rte: float | None = None
    rre: float | None = None
    kitti_translation: float | None = None
    kitti_rotation: float | None = None
    chamfer: float | None = None
    f1: float | None = None
    clouds: dict[str, float] | None = None
    seconds: float | None = None
    frames_per_s: float | None = None
    peak_memory: int | None = None
    code_version: str | None = None


_COLUMNS = {
    "ate": ("ATE m", 2),
    "ate_percent": ("% of path", 2),
    "rte": ("RTE m/100m", 2),
    "rre": ("RRE deg/100m", 2),
    "kitti_translation": ("KITTI %", 2),
    "kitti_rotation": ("deg/100m", 2),
    "chamfer": ("CD m", 2),
    "f1": ("F1", 2),
    "seconds": ("s", 1),
    "frames_per_s": ("frames/s", 2),
    "peak_memory": ("GB", 2),
}


def mean(scores: Listed[Score], metric: str) -> float | None:
    """The mean of a metric over the sequences that have it; None if none has it."""
    values = [value for score in scores if (value := getattr(score, metric)) is not None]
    return sum(values) / len(values) if values else None


def means(benchmark: Benchmark, scores: Listed[Score]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Means by variant, over all sequences, and without the one that is usually left out on this benchmark."""
    every: dict[str, dict[str, dict[str, float | None]]] = {}
    for variant in dict.fromkeys(score.variant for score in scores):
        own = [score for score in scores if score.variant == variant]
        groups = {"mean": own}
        if benchmark.left_out and any(score.sequence == benchmark.left_out for score in own):
            groups[f"mean without {benchmark.left_out}"] = [s for s in own if s.sequence != benchmark.left_out]
        every[variant] = {
            title: {metric: mean(group, metric) for metric in _COLUMNS} for title, group in groups.items()
        }
    return every


def render(benchmark: Benchmark, scores: Listed[Score]) -> Group:
    """One table per variant, with means and published figures at the end."""
    parts: list[Table] = []
    for variant, groups in means(benchmark, scores).items():
        own = [score for score in scores if score.variant == variant]
        failed = sum(score.failed is not None for score in own)
        table = Table(title=f"{benchmark.title}, {_WITHOUT[variant]}", title_justify="left")
        table.add_column("sequence")
        table.add_column("frames", justify="right")
        for title, _ in _COLUMNS.values():
            table.add_column(title, justify="right")
        for score in own:
            frames = "failed" if score.failed else str(score.frames)
            table.add_row(
                Text(visible(score.sequence)), frames, *(_cell(name, getattr(score, name)) for name in _COLUMNS)
            )
        table.add_section()
        for title, values in groups.items():
            of = f" of {len(own) - failed}/{len(own)}" if failed and title == "mean" else ""
            table.add_row(title + of, "", *(_cell(name, value) for name, value in values.items()))
        if variant == FULL and benchmark.published:
            table.add_section()
            for method, known in benchmark.published.items():
                table.add_row(f"{method} (published)", "", *(_cell(name, known.get(name)) for name in _COLUMNS))
        parts.append(table)
    return Group(*parts)


def remarks(benchmark: Benchmark, scores: Listed[Score], made: dict[str, str]) -> str:
    """Text below the tables: a note on published figures, failures with reasons, and how the scores were made."""
    lines = [f"published: {benchmark.published_note}"] if benchmark.published_note else []
    lines += [f"failed: {one.sequence}, {_WITHOUT[one.variant]}: {one.failed}" for one in scores if one.failed]
    if any(score.failed for score in scores):
        lines.append("a mean is over the sequences that have the figure; failed ones are not included")
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in made.items())])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value / 1e9 if name == 'peak_memory' else value:.{_COLUMNS[name][1]}f}"
