"""Metrics of a run as JSON lines, and a plot of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path


class MetricsFile:
    """Appends one JSON object per line to <output>/metrics.jsonl. NaN becomes null, because JSON has no NaN."""

    def __init__(self, output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        self.path = output / "metrics.jsonl"

    def write(self, row: Mapping[str, object]) -> None:
        """Append a row; it is written at once."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(clean) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the rows of later steps, which a resumed run repeats, and a line that a kill cut off."""
        if not self.path.exists():
            return
        kept = [row for row in read_metrics(self.path) if float(str(row.get("step", 0))) <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)


def read_metrics(path: Path) -> list[dict[str, object]]:
    """All complete rows; a line that a kill cut off is skipped."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def plot_metrics(path: Path, picture: Path) -> None:
    """Plot the loss with its parts and the errors of validation over the steps, as a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = read_metrics(path)
    train = [r for r in rows if r.get("kind") == "train"]
    checks = [r for r in rows if r.get("kind") == "validation"]
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for name in ("loss", "camera", "motion", "depth", "points", "flow"):
        points = [(r["step"], r[name]) for r in train if isinstance(r.get(name), float)]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=name, linewidth=1.6 if name == "loss" else 0.9)
    axes[0].set(xlabel="step", title="training loss and its parts", yscale="log")
    for scope in sorted({str(r["scope"]) for r in checks}):
        mine = [r for r in checks if r["scope"] == scope]
        for axis, name, style in ((axes[1], "ate_percent", "-"), (axes[2], "abs_rel", "-")):
            points = [(r["step"], r[name]) for r in mine if isinstance(r.get(name), float)]
            if points:
                axis.plot(*zip(*points, strict=True), style, marker=".", label=scope)
    turning = [
        (r["step"], r["turning_degrees"])
        for r in checks
        if r["scope"] == "full" and isinstance(r.get("turning_degrees"), float)
    ]
    if turning:
        axes[2].plot(*zip(*turning, strict=True), "--", color="grey", label="degrees per turning frame")
    axes[1].set(xlabel="step", title="held-out drives: ATE after Sim(3), % of the path", yscale="log")
    axes[2].set(xlabel="step", title="held-out drives: depth abs-rel", yscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    partial = picture.with_name("." + picture.name)
    figure.savefig(partial, format="png", dpi=110)
    plt.close(figure)
    partial.replace(picture)
