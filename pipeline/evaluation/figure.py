"""A trajectory over the truth, as a picture."""

from __future__ import annotations

import io

import numpy as np

from pipeline import storage
from pipeline.evaluation.metrics import FloatArray, position_errors, travelled

_AXES = "xyz"


def trajectory_figure(aligned: FloatArray, truth: FloatArray, uri: str, title: str) -> None:
    """Write a PNG: the aligned estimate over the truth from above, both (N, 4, 4) in metres, and its distance
    from the truth along the path.

    From above means along the axis in which the truth spreads least. Raises StorageError where it cannot be
    written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    here, there = aligned[:, :3, 3], truth[:, :3, 3]
    flat = int(np.ptp(there, axis=0).argmin())
    across, up = [axis for axis in range(3) if axis != flat]
    error, path = position_errors(aligned, truth), travelled(there)

    figure = Figure(figsize=(11, 5.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    view, along = figure.subplots(1, 2, width_ratios=(3, 2))
    view.plot(there[:, across], there[:, up], color="0.35", linewidth=3.5, alpha=0.5, label="truth")
    dots = view.scatter(
        here[:, across], here[:, up], c=error, s=7, cmap="viridis", label="estimate", zorder=3
    )
    view.plot(there[0, across], there[0, up], "o", color="black", markersize=6, label="start")
    view.set_aspect("equal", adjustable="datalim")
    view.set_xlabel(f"{_AXES[across]} (m)")
    view.set_ylabel(f"{_AXES[up]} (m)")
    view.set_title("from above, after Sim(3)")
    view.legend(frameon=False, loc="best")
    figure.colorbar(dots, ax=view, label="distance from the truth (m)", shrink=0.8)
    along.plot(path, error, color="tab:blue")
    along.fill_between(path, error, color="tab:blue", alpha=0.15, linewidth=0)
    rmse = float(np.sqrt((error**2).mean()))
    along.axhline(rmse, color="0.4", linestyle="--", linewidth=1)
    along.set_xlim(0, path[-1])
    along.set_ylim(bottom=0)
    along.set_xlabel("along the path (m)")
    along.set_ylabel("distance from the truth (m)")
    along.set_title(f"error along the path, rmse {rmse:.3g} m")
    for axes in (view, along):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    storage.write_bytes_atomically(uri, data.getvalue())
