"""Figures of a report, as SVG in the colours of the page: errors, overlaps, scales, confidence, time, memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.refine.evidence import CLOSE
from pipeline.report.benchmarks import Measurement
from pipeline.report.colours import LEVELS, PATH, hexadecimal
from pipeline.report.comparison import Compared
from pipeline.report.drive_view import DriveView
from pipeline.report.image_evidence import ImageEvidence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.publish import PublishedDrive

_TEXT, _FAINT, _PANEL = "#c9d1d9", "#6e7681", "#161a20"
_ACCENT = hexadecimal(PATH)
_STYLE = {
    "figure.facecolor": _PANEL,
    "axes.facecolor": _PANEL,
    "savefig.facecolor": _PANEL,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": "#30363d",
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "grid.color": "#30363d",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "svg.hashsalt": "report",
    "text.parse_math": False,  # names of results come from the user: $x$ is no formula
}


@dataclass(frozen=True)
class Figure:
    """name: of its file; title, note: what it shows, in words; svg: the picture."""

    name: str
    title: str
    note: str
    svg: bytes


def drive_figures(view: DriveView, compared: Compared, benchmarks: Sequence[Measurement] = ()) -> tuple[Figure, ...]:
    """The figures for which there is data."""
    figures = []
    if compared.own is not None or compared.others:
        figures.append(_deviation(view, compared))
    if view.fixes:
        figures.append(_residuals(view))
    chunks = view.drive.chunks
    if chunks.num_rows > 1:
        figures += [_overlaps(view), _scales(view)]
    evidence = ImageEvidence.of(view)
    if evidence is not None and np.isfinite(evidence.share).any():
        figures.append(_images(evidence, len(view.frames)))
    if np.isfinite(view.confidence).any():
        figures.append(_confidence(view))
    if any(mask is not None for mask in view.drive.masks):
        figures.append(_masks(view.drive))
    if view.drive.manifest.timings:
        figures.append(_timings(view))
    if benchmarks:
        figures.append(_benchmarks(benchmarks))
    return tuple(figures)


def _deviation(view: DriveView, compared: Compared) -> Figure:
    """Distance from the truth, or from this result, along the path."""
    travelled = np.zeros(len(view.frames))
    travelled[view.known] = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(view.path, axis=0), axis=1))])
    travelled *= compared.metres or 1.0
    with_truth = compared.own is not None
    reference = "the truth" if with_truth else "this result"

    def draw(axes: Axes) -> None:
        for one in (*((compared.own,) if compared.own is not None else ()), *compared.others):
            label = f"{one.name}, rmse {one.rmse:.3g} {compared.unit}"
            axes.plot(travelled[one.at], one.deviation, color=hexadecimal(one.colour), linewidth=1.6, label=label)
        axes.set_xlabel(f"along the path ({compared.unit})")
        axes.set_ylabel(f"distance ({compared.unit})")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", fontsize=8)

    return Figure(
        "error",
        f"Distance from {reference} along the path",
        "of the camera positions, each result aligned by one Sim(3)",
        _drawn(draw),
    )


def _residuals(view: DriveView) -> Figure:
    """Distance of fixes from the path, and the standard deviation of the camera positions."""
    table, poses = view.drive.positions, view.drive.poses
    assert table is not None

    def column(name: str) -> NDArray[np.float64]:
        return np.asarray(table[name].to_numpy(zero_copy_only=False), float)

    used = table["used"].to_numpy(zero_copy_only=False).astype(bool)
    across = np.hypot(column("residual_east"), column("residual_north"))
    place = view.drive.manifest.place
    assert place is not None
    deviation = np.hypot(
        poses["deviation_east"].to_numpy(zero_copy_only=False), poses["deviation_north"].to_numpy(zero_copy_only=False)
    )
    times = view.frames.timestamps_s
    at = np.arange(len(view.frames)) if times is None else times - times[0]

    def draw(axes: Axes) -> None:
        moment = column("time_s") - (place.clock_offset_s or 0.0)
        axes.plot(at, deviation, color=_ACCENT, linewidth=1.4, label="standard deviation of the path")
        axes.plot(moment[used], across[used], ".", color="#e3b341", markersize=3, label="fixes used")
        red = hexadecimal(LEVELS["fail"])
        beyond = ~used & (across > top)
        near = ~used & ~beyond
        if near.any():
            axes.plot(moment[near], across[near], "x", color=red, markersize=4, label="rejected")
        if beyond.any():
            far = f"rejected, up to {across[beyond].max():.0f} m off"
            axes.plot(moment[beyond], np.full(int(beyond.sum()), 0.97 * top), "^", color=red, markersize=4, label=far)
        axes.set_xlabel("seconds" if times is not None else "frame")
        axes.set_ylabel("horizontal (m)")
        axes.set_xlim(float(at[0]), max(float(at[-1]), float(at[0]) + 1e-9))
        axes.set_ylim(0, top)
        axes.legend(loc="upper left", fontsize=8)

    # Rejected fixes may be far away: an axis that shows them would show nothing else.
    shown = np.concatenate([across[used], deviation])
    top = 1.7 * max(float(shown[np.isfinite(shown)].max(initial=0.0)), 0.01)
    note = f"root mean square of the used fixes: {place.residual_horizontal_m or 0:.2f} m"
    return Figure("fixes", "Fixes against the path", note, _drawn(draw))


def _overlaps(view: DriveView) -> Figure:
    table = view.drive.chunks
    number = table["chunk_index"].to_numpy()
    residual = table["overlap_residual"].to_numpy(zero_copy_only=False).astype(float)
    inliers = table["overlap_inliers"].to_numpy(zero_copy_only=False).astype(float)

    def draw(axes: Axes) -> None:
        axes.bar(number, residual, color=_ACCENT, width=0.8)
        axes.set_xlabel("chunk")
        axes.set_ylabel("residual")
        axes.set_ylim(bottom=0)
        beside = axes.twinx()
        beside.plot(number, 100 * inliers, color=hexadecimal(LEVELS["pass"]), marker=".", markersize=4, linewidth=0.8)
        beside.set_ylabel("agreeing points (%)", color=hexadecimal(LEVELS["pass"]))
        beside.set_ylim(0, 105)
        beside.grid(False)

    return Figure(
        "overlaps", "Overlap with the chunk before", "residual of the alignment, and agreeing points", _drawn(draw)
    )


def _scales(view: DriveView) -> Figure:
    table = view.drive.chunks
    number, scale = table["chunk_index"].to_numpy(), table["scale"].to_numpy()

    def draw(axes: Axes) -> None:
        axes.plot(number, scale / np.median(scale), color=_ACCENT, marker="o", markersize=3, linewidth=1)
        axes.axhline(1.0, color=_FAINT, linewidth=0.8, linestyle="--")
        axes.set_xlabel("chunk")
        axes.set_ylabel("scale / median scale")

    return Figure(
        "scales",
        "Scale of each chunk",
        "world units in a chunk's unit, divided by the median; jumps indicate errors",
        _drawn(draw),
    )


def _images(evidence: ImageEvidence, count: int) -> Figure:
    share, distance = evidence.by_frame(count)

    def draw(axes: Axes) -> None:
        axes.plot(100 * share, color=_ACCENT, linewidth=1.2)
        axes.set_xlabel("frame")
        axes.set_ylabel(f"tracks within {CLOSE} px (%)", color=_ACCENT)
        axes.set_ylim(0, 105)
        axes.set_xlim(0, max(count - 1, 1))
        beside = axes.twinx()
        beside.plot(distance, color="#e3b341", linewidth=0.9)
        beside.set_ylabel("median distance (px)", color="#e3b341")
        beside.set_ylim(bottom=0)
        beside.grid(False)

    note = f"tracks held back from adjustment, to the second frame behind: {np.nanmean(share):.1%} within {CLOSE} px"
    return Figure("images", "Images against the cameras", note, _drawn(draw))


def _confidence(view: DriveView) -> Figure:
    frames = np.arange(len(view.frames))

    def draw(axes: Axes) -> None:
        for one in view.stretches:
            if not one.is_everywhere:
                axes.axvspan(
                    one.start,
                    one.stop,
                    color=hexadecimal(LEVELS.get(one.level, LEVELS["warn"])),
                    alpha=0.22,
                    linewidth=0,
                )
        axes.plot(frames, view.confidence, color=_ACCENT, linewidth=1.2)
        axes.set_xlabel("frame")
        axes.set_ylabel("median confidence")
        axes.set_xlim(0, max(len(frames) - 1, 1))

    note = "of the depth of each frame" + ("; shaded: findings of the verdict" if view.stretches else "")
    return Figure("confidence", "Confidence along the drive", note, _drawn(draw))


def _masks(drive: PublishedDrive) -> Figure:
    """The pixels of every frame that were left out, for each camera."""
    one_for_all = len(drive.masks) < drive.camera_count  # an older result, or a drive of one camera
    names = [""] if one_for_all or drive.camera_count == 1 else drive.poses["camera"][: drive.camera_count].to_pylist()
    height, width = next(mask.shape for mask in drive.masks if mask is not None)
    shown = [np.ones((height, width), bool) if mask is None else mask for mask in drive.masks]
    gap = max(width // 40, 1)

    def draw(axes: Axes) -> None:
        for left, name, mask in zip(range(0, len(shown) * (width + gap), width + gap), names, shown, strict=True):
            extent = (left, left + width, height, 0)
            axes.imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
            axes.text(left, -0.03 * height, name, va="bottom")
        axes.set_xlim(0, len(shown) * (width + gap) - gap)
        axes.set_ylim(height, 0)
        axes.grid(False)
        axes.set_xlabel("pixel of the network's picture")

    shares = ", ".join(f"{name} {(~mask).mean():.1%}".strip() for name, mask in zip(names, shown, strict=True))
    note = f"{shares} of every frame (black): no points come from there"
    return Figure("mask", "Masked pixels", note, _drawn(draw))


def _timings(view: DriveView) -> Figure:
    timings = dict(view.drive.manifest.timings)
    names, seconds = list(timings), np.array([float(value) for value in timings.values()])

    def draw(axes: Axes) -> None:
        places = np.arange(len(names))[::-1]
        axes.barh(places, seconds, color=_ACCENT, height=0.62)
        axes.set_yticks(places, names)
        for place, value in zip(places, seconds, strict=True):
            axes.text(value, place, f" {value:.1f} s", va="center", fontsize=8, color=_TEXT)
        axes.set_xlabel("seconds")
        axes.set_xlim(0, max(float(seconds.max()) * 1.18, 1e-3))
        axes.grid(axis="y", visible=False)

    frames = view.drive.manifest.counts.frames
    note = f"{seconds.sum():.1f} s in all, {frames / max(seconds.sum(), 1e-9):.2f} frames/s"
    return Figure("timings", "Time by stage", note, _drawn(draw))


def _benchmarks(runs: Sequence[Measurement]) -> Figure:
    names = sorted({run.what for run in runs})
    with_memory = any(run.peak_bytes is not None for run in runs)

    def draw(axes: Axes) -> None:
        beside = axes.twinx() if with_memory else None
        for number, name in enumerate(names):
            mine = [run for run in runs if run.what == name]
            frames = [run.frames for run in mine]
            shade = f"C{number}" if len(names) > 1 else _ACCENT
            seconds = [run.seconds for run in mine]
            axes.plot(frames, seconds, color=shade, marker="o", markersize=4, label=f"{name}: time")
            kept = [run for run in mine if run.peak_bytes is not None]
            if beside is not None and kept:
                beside.plot(
                    [run.frames for run in kept],
                    [(run.peak_bytes or 0) / 2**30 for run in kept],
                    color=shade,
                    marker="s",
                    markersize=4,
                    linestyle="--",
                )
                axes.plot([], [], color=shade, marker="s", markersize=4, linestyle="--", label=f"{name}: peak memory")
        axes.set_xlabel("frames")
        axes.set_ylabel("seconds")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if beside is not None:
            beside.set_ylabel("peak memory (GiB)")
            beside.set_ylim(bottom=0)
            beside.grid(False)
        axes.legend(loc="upper left", fontsize=8)

    title = "Time and memory against length" if with_memory else "Time against length"
    return Figure("benchmarks", title, "from stored benchmarks", _drawn(draw))


def _drawn(draw: Callable[[Axes], None]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        figure = Canvas(figsize=(5.6, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()
