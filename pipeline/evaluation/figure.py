"""Plots of a trajectory and its truth."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from pipeline import storage
from pipeline.evaluation.depth import published_depth
from pipeline.evaluation.drive_evaluation import Comparison
from pipeline.evaluation.metrics import FloatArray, position_errors, travelled
from pipeline.schema import MADE_BY

if TYPE_CHECKING:
    from matplotlib.figure import Figure, FigureBase

_AXES = "xyz"
_SHOWN = 5  # frames of a drive in its plot


def trajectory_figure(aligned: FloatArray, truth: FloatArray, uri: str, title: str) -> None:
    """Write a PNG with the aligned estimate and the truth, both (N, 4, 4) in metres, from above, and the distance
    between them along the path.

    "From above" is along the axis in which the truth extends least. Raises StorageError if it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    _draw_path(figure, aligned, truth)
    figure.suptitle(title, parse_math=False)  # a drive may be called $x$
    _save(figure, uri)


def drive_picture(comparison: Comparison, uri: str, title: str) -> None:
    """Write a PNG of a published drive with truth: some of its frames, their published depth, and its trajectory.

    Raises StorageError if it cannot be written, DriveError if an image of the truth cannot be read, ValueError if the
    estimate or the truth is a file of poses, without images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drive, truth = comparison.estimate.drive, comparison.truth.drive
    if drive is None or truth is None:
        raise ValueError("a picture of a drive needs a published drive and a true one with images")
    estimated, true = comparison.pairs
    shown = np.linspace(0, len(estimated) - 1, _SHOWN + 2).round().astype(int)[1:-1]
    depths = published_depth(drive, [int(estimated[place]) for place in shown])
    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(2, 3)))
    axes = above.subplots(2, _SHOWN)
    for place, (top, bottom) in zip(shown, axes.T, strict=True):
        top.imshow(truth.image(int(true[place])))
        top.set_title(f"frame {int(estimated[place])}", fontsize=9)
        depth = depths.get(int(estimated[place]))
        if depth is not None:
            near = np.where(depth > 0, 1 / np.maximum(depth, 1e-6), np.nan)
            bottom.imshow(near, cmap="magma", vmin=0, vmax=float(np.nanpercentile(near, 98)))
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
    axes[0, 0].set_ylabel("frame")
    axes[1, 0].set_ylabel("inverse depth")
    _draw_path(below, comparison.aligned_poses(), comparison.true_poses)
    figure.suptitle(title, parse_math=False)  # a drive may be called $x$
    _save(figure, uri)


def _draw_path(figure: FigureBase, aligned: FloatArray, truth: FloatArray) -> None:
    """Draw the path from above, and the error along it, into a figure or a part of one."""
    here, there = aligned[:, :3, 3], truth[:, :3, 3]
    flat = int(np.ptp(there, axis=0).argmin())
    across, up = [axis for axis in range(3) if axis != flat]
    error, path = position_errors(aligned, truth), travelled(there)
    view, along = figure.subplots(1, 2, width_ratios=(3, 2))
    view.plot(there[:, across], there[:, up], color="0.35", linewidth=3.5, alpha=0.5, label="truth")
    dots = view.scatter(here[:, across], here[:, up], c=error, s=7, cmap="viridis", label="estimate", zorder=3)
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


def _save(figure: Figure, uri: str) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": MADE_BY})
    storage.write_bytes_atomically(uri, data.getvalue())
