"""Writes the report of one drive to a folder: data, recorded scene, frames, rendered views, figures. The page itself is
an asset, report.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.common.numbers import number_or
from pipeline.common.progress import Reporter
from pipeline.common.visible_text import visible_values
from pipeline.drive_images import read_frames
from pipeline.publish.drive_facts import Json
from pipeline.publish.manifest import plain
from pipeline.publish.poses import quaternion_from_rotation
from pipeline.report.benchmarks import Measurement
from pipeline.report.camera_views import View, chosen_views, overview_camera, render_other, render_views
from pipeline.report.colours import LEVELS, PATH, TRUTH, chunk_colours, confidence_range, hexadecimal, scale_css
from pipeline.report.comparison import Compared, Trajectory, changed_settings, flattened
from pipeline.report.config import ReportConfig
from pipeline.report.drive_view import DriveView, FloatArray
from pipeline.report.figures import drive_figures
from pipeline.report.image_evidence import ImageEvidence, worst_pair
from pipeline.report.images import save_jpeg, spread, write_frames
from pipeline.report.recording import record_scene
from pipeline.report.sample import PointSample, sample_points
from pipeline.report.scene import COLOURS, OtherPath, point_size

_LABELS = {"colour": "True colour", "confidence": "Confidence", "chunk": "Chunk"}
_MAP_POINTS = 2_000  # of a line on the map
_MAP_FIXES = 1_000


def write_report(
    folder: Path,
    view: DriveView,
    compared: Compared,
    config: ReportConfig,
    benchmarks: Sequence[Measurement],
    reporter: Reporter,
) -> None:
    """Fill an empty folder with everything that report.html needs, except the viser client.

    Raises DriveError for a result that cannot be read, or where viser is not installed.
    """
    with reporter.timed("sample points"):
        sample = sample_points(view.drive, config.points)
    with reporter.timed("record scene"):
        record_scene(folder / "scene.viser", view, sample, other_paths(compared))
    frames = spread(len(view.frames), config.images)
    with reporter.timed("frames"):
        names, reason = write_frames(
            view.drive,
            frames,
            folder / "frames",
            config.image_width,
            lambda count: reporter.advance("frames", count, len(frames), "frames"),
        )
    with reporter.timed("render views"):
        views = _write_views(folder, view, compared, sample, config, reporter)
    with reporter.timed("figures"):
        figures = _write_figures(folder, view, compared, benchmarks)
        evidence = ImageEvidence.of(view)
        worst = _write_worst_pair(folder, view, evidence)
    data = {
        **_head(view, compared),
        "scene": _scene(view, sample, compared),
        "frames": {**_frames(view, compared, names, reason), **_agreement(view, evidence)},
        "chunk_colours": [hexadecimal(tuple(c)) for c in chunk_colours(view.drive.manifest.counts.chunks).tolist()],
        "paths": _paths(view, compared),
        "fixes": _fixes(view),
        "north": [0, 1] if view.drive.origin is not None else None,
        "loops": [{"first": a, "second": b, "accepted": accepted} for a, b, accepted in view.loops],
        "findings": _findings(view),
        "views": views,
        "first_view": (len(views) // 4) * 2 + 1 if len(views) > 1 else 0,  # through the camera, in the middle
        "results": _results(view, compared),
        "figures": figures + worst,
        "made": _made(view),
        "settings": [[name, json.dumps(v)] for name, v in sorted(flattened(view.drive.manifest.config).items())],
    }
    (folder / "drive.json").write_text(json.dumps(visible_values(plain(data)), separators=(",", ":")))


def _write_figures(
    folder: Path, view: DriveView, compared: Compared, benchmarks: Sequence[Measurement]
) -> list[dict[str, str]]:
    """Draw the figures into figures/; returns the file, title and note of each."""
    figures = drive_figures(view, compared, benchmarks)
    (folder / "figures").mkdir()
    for one in figures:
        (folder / "figures" / f"{one.name}.svg").write_bytes(one.svg)
    return [{"file": f"figures/{one.name}.svg", "title": one.title, "note": one.note} for one in figures]


def _findings(view: DriveView) -> list[Json]:
    """The findings of the verdict with their frames and colours."""
    return [
        {
            "level": one.level,
            "reason": one.reason,
            "start": one.start,
            "stop": one.stop,
            "everywhere": one.is_everywhere,
            "colour": hexadecimal(LEVELS.get(one.level, LEVELS["warn"])),
        }
        for one in view.stretches
    ]


def _write_views(
    folder: Path, view: DriveView, compared: Compared, sample: PointSample, config: ReportConfig, reporter: Reporter
) -> list[Json]:
    """Render the views of this result and of the others. Views through the car's camera also get the image itself."""
    pictures = folder / "views"
    pictures.mkdir()
    views = chosen_views(view)
    published = [other for other in compared.others if other.drive is not None]
    total = len(views) * (1 + len(published))
    kept: list[list[Json]] = [[] for _ in views]

    def keep(number: int, name: str, image: Image.Image, stem: str) -> None:
        file = f"views/{number}-{stem}.jpg"
        save_jpeg(image, folder / file, image.width)
        kept[number].append({"name": name, "file": file})

    for number, pixels in enumerate(render_views(view, views, sample)):
        image = Image.fromarray(pixels)
        keep(number, "this result", image, "own")
        if number == 0:
            save_jpeg(image, folder / "thumb.jpg", 480)
        reporter.advance("views", 1, total, "pictures")
    for place, other in enumerate(published):
        for number, pixels in enumerate(render_other(view, views, other, config.points)):
            keep(number, other.name, Image.fromarray(pixels), f"other{place}")
            reporter.advance("views", 1, total, "pictures")
    _add_photographs(view, views, keep)
    return [
        {"title": one.title, "width": one.camera.width, "height": one.camera.height, "pictures": files}
        for one, files in zip(views, kept, strict=True)
    ]


def _write_worst_pair(folder: Path, view: DriveView, evidence: ImageEvidence | None) -> list[Json]:
    """The picture of the pair of frames that agrees least with its cameras, as an entry of the figures; none where no
    pair was judged."""
    worst = None if evidence is None else worst_pair(view, evidence)
    if worst is None:
        return []
    file = "figures/worst-pair.jpg" if worst.picture is not None else None
    if worst.picture is not None:
        save_jpeg(worst.picture, folder / "figures" / "worst-pair.jpg", worst.picture.width)
    return [{"file": file, "title": worst.title, "note": worst.note, "wide": file is not None}]


def _agreement(view: DriveView, evidence: ImageEvidence | None) -> dict[str, Json]:
    """For each frame the share of its tracks that agree with the cameras, and their median distance in pixels."""
    if evidence is None:
        return {}
    share, distance = evidence.by_frame(len(view.frames))
    return {"share": np.round(share, 3), "distance": np.round(distance, 2)}


def _add_photographs(
    view: DriveView, views: Sequence[View], keep: Callable[[int, str, Image.Image, str], None]
) -> None:
    """Add the image of the frame to each view through the car's camera, so that the slider can compare the two."""
    wanted = {one.frame: number for number, one in enumerate(views) if one.ego and one.frame is not None}
    for frame, image in read_frames(view.drive, sorted(wanted)):
        if isinstance(image, Image.Image):
            camera = views[wanted[frame]].camera
            keep(wanted[frame], "photograph", image.resize((camera.width, camera.height)), "photograph")


def other_paths(compared: Compared) -> list[OtherPath]:
    """Trajectories to draw beside the drive's own: the others, then the truth."""
    paths = [OtherPath(other.name, other.colour, other.positions) for other in compared.others]
    if compared.truth_path is not None:
        paths.append(OtherPath("ground truth", TRUTH, compared.truth_path))
    return paths


def _head(view: DriveView, compared: Compared) -> dict[str, Json]:
    counts, per = view.drive.manifest.counts, compared.metres or 1.0
    facts = [
        ["frames", f"{counts.frames:,}"],
        ["chunks", f"{counts.chunks:,}"],
        ["points", f"{counts.points:,}"],
        ["loops closed", f"{counts.loops_accepted} of {counts.loops}"],
        [f"path ({compared.unit})", f"{view.length * per:,.4g}"],
    ]
    if compared.own is not None:
        facts.append(["ATE (m)", f"{compared.own.rmse:.2f}"])
        facts.append(["ATE / path", f"{compared.own.rmse / max(compared.path, 1e-9):.2%}"])
    return {
        "id": view.drive_id,
        "verdict": view.verdict,
        "facts": facts,
        "unit": compared.unit,
        "per_unit": per,
        "truth": compared.own is not None,
        "deviation": _deviation(view, compared.own),
    }


def _deviation(view: DriveView, own: Trajectory | None) -> Json:
    if own is None:
        return None
    values = np.full(len(view.frames), np.nan)
    values[own.at] = own.deviation
    return values


def _scene(view: DriveView, sample: PointSample, compared: Compared) -> dict[str, Json]:
    camera = overview_camera(view)
    position = camera.world_from_camera[:3, 3]
    ahead = camera.world_from_camera[:3, 2]
    reach = float(np.linalg.norm(position - view.path.mean(0)))
    low, high = confidence_range(sample.confidence)
    layers = [
        {"name": "/path", "label": "path", "colour": hexadecimal(PATH)},
        {"name": "/cameras", "label": "cameras", "colour": "#8b949e"},
    ]
    if view.loops:
        layers.append({"name": "/loops", "label": "loops", "colour": "#56d3c2"})
    if any(not one.is_everywhere for one in view.stretches):
        layers.append({"name": "/stretches", "label": "bad stretches", "colour": hexadecimal(LEVELS["warn"])})
    for number, other in enumerate(other_paths(compared)):
        layers.append({"name": f"/others/{number}", "label": other.name, "colour": hexadecimal(other.colour)})
    extent = float(np.ptp(sample.xyz, axis=0).max()) if len(sample) else reach
    return {
        "note": sample.note,
        "layers": layers,
        "colours": [{"name": name, "label": _LABELS[name]} for name in COLOURS] if len(sample) else [],
        "confidence": {"low": low, "high": high, "css": scale_css()},
        "point_size": point_size(sample.xyz, view.step),
        "step": view.step,
        "up": view.up,
        "near": 0.1 * view.step,
        "far": 20 * max(extent, reach),
        "start": {"position": position, "target": position + ahead * reach, "fov": float(np.radians(60))},
    }


def _frames(view: DriveView, compared: Compared, names: dict[int, str], reason: str | None) -> dict[str, Json]:
    count = len(view.frames)
    known = view.known
    rotation: list[Json] = [None] * count
    for frame in np.flatnonzero(known):
        rotation[frame] = np.round(quaternion_from_rotation(view.poses[frame, :3, :3]), 6)
    travelled = np.zeros(count)
    travelled[known] = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(view.path, axis=0), axis=1))])
    files_of = sorted(names)
    nearest: list[Json] = [None] * count
    if files_of:
        here = np.arange(count)
        after = np.clip(np.searchsorted(files_of, here), 0, len(files_of) - 1)
        before = np.maximum(after - 1, 0)
        kept = np.array(files_of)
        nearest = np.where(np.abs(kept[before] - here) <= np.abs(kept[after] - here), before, after).tolist()
    row = view.drive.poses.slice(0, 1).to_pylist()[0]
    times = view.frames.timestamps_s
    return {
        "count": count,
        "first": int(np.flatnonzero(known)[0]) if known.any() else 0,
        "position": [_rounded(p) if ok else None for p, ok in zip(view.poses[:, :3, 3], known, strict=True)],
        "rotation": rotation,
        "map": [_rounded(p) if ok else None for p, ok in zip(view.on_map(view.poses[:, :3, 3]), known, strict=True)],
        "status": view.drive.poses["status"].to_pylist(),
        "chunk": view.chunk,
        "confidence": view.confidence,
        "time": times - times[0] if times is not None else None,
        "travelled": travelled * (compared.metres or 1.0),
        "images": nearest,
        "files": [names[frame] for frame in files_of],
        "files_of": files_of,
        "note": f"no images: {reason}" if reason else None,
        "aspect": row["width"] / row["height"],
    }


def _paths(view: DriveView, compared: Compared) -> list[Json]:
    def path(name: str, colour: tuple[int, int, int], points: FloatArray, *, own: bool = False) -> Json:
        shown = [_rounded(p) for p in view.on_map(points[spread(len(points), _MAP_POINTS)])]
        return {"name": name, "colour": hexadecimal(colour), "own": own, "points": shown}

    others = [path(one.name, one.colour, one.positions) for one in other_paths(compared)]
    return [*others[::-1], path("this result", PATH, view.path, own=True)]  # the last one is drawn on top


def _fixes(view: DriveView) -> list[Json]:
    """Fixes for the map; at most 1,000 used and 1,000 rejected ones, spread over the drive."""
    used = [fix for fix in view.fixes if fix[2]]
    rejected = [fix for fix in view.fixes if not fix[2]]
    length = max(view.length, 1.0)  # a rejected fix far away would make the path a dot on the map
    low, high = view.path[:, :2].min(0) - length, view.path[:, :2].max(0) + length
    near = [fix for fix in rejected if low[0] < fix[0] < high[0] and low[1] < fix[1] < high[1]]
    return [
        [round(x, 2), round(y, 2), ok]
        for x, y, ok in [used[n] for n in spread(len(used), _MAP_FIXES)]
        + [near[n] for n in spread(len(near), _MAP_FIXES)]
    ]


def _place_rows(view: DriveView) -> list[Json]:
    """Rows of the table that say how the drive was placed on Earth, or what made it metric."""
    manifest = view.drive.manifest
    rows: list[Json] = []
    metric, place = manifest.metric, manifest.place
    if metric is not None:
        rows.append(["scale from", f"{metric['source']}, to {100 * number_or(metric['deviation'], np.nan):.2g} %"])
    if place is not None:
        origin = place.origin
        rows += [
            ["origin", f"{origin.latitude:.7f}, {origin.longitude:.7f}, {origin.altitude:.2f} m"],
            ["heights above", str(place.vertical_datum)],
            ["positions", f"{place.source}: {place.fixes_used} of {place.fixes} fixes used"],
            [
                "clock offset",
                f"{place.clock_offset_s or 0:.3f} s, to {place.clock_offset_deviation_s or 0:.3f} s",
            ],
        ]
        if place.lever_m is not None and (place.lever_given or place.lever_estimated):
            told = "given" if place.lever_given else "estimated"
            rows.append(["antenna", ", ".join(f"{part:.2f}" for part in place.lever_m) + f" m from the camera, {told}"])
        if place.speed_factor is not None:
            more = 100 * (place.speed_factor - 1)
            rows.append(["speed", f"shows {abs(more):.2g} % {'more' if more > 0 else 'less'} way than the fixes"])
    return rows


def _results(view: DriveView, compared: Compared) -> list[Json]:
    own = compared.own
    rows: list[Json] = [
        {
            "name": "this result",
            "colour": hexadecimal(PATH),
            "rmse": own.rmse if own else None,
            "share": 100 * own.rmse / compared.path if own and compared.path else None,
            "verdict": view.verdict,
            "changed": None,
        }
    ]
    for other in compared.others:
        quality = other.drive.manifest.quality if other.drive is not None else {}
        changed = changed_settings(view.drive.manifest.config, other.drive.manifest.config) if other.drive else {}
        rows.append(
            {
                "name": other.name,
                "colour": hexadecimal(other.colour),
                "rmse": other.rmse,
                "share": 100 * other.rmse / compared.path if compared.path else None,
                "verdict": quality.get("verdict", "unknown") if other.drive is not None else "poses only",
                "changed": "; ".join(f"{name} {theirs} (here {ours})" for name, (ours, theirs) in changed.items())
                or None,
            }
        )
    return rows


def _made(view: DriveView) -> list[Json]:
    manifest = view.drive.manifest
    figures, said = manifest.quality.get("figures"), manifest.quality.get("notes")
    notes = said if isinstance(said, Sequence) and not isinstance(said, str) else ()
    rows: list[Json] = [
        ["input", str(manifest.input.get("uri"))],
        ["published", manifest.published_at],
        ["program", manifest.code_version],
        ["weights", manifest.weights_sha256 or "made up"],
        ["identity", manifest.identity],
        ["schema", str(manifest.schema_version)],
        ["result", f"{sum(file.size for file in manifest.files):,} bytes in {len(manifest.files)} files"],
    ]
    return (
        rows
        + _place_rows(view)
        + [["note", str(note)] for note in notes]
        + [
            [name.replace("_", " "), f"{value:.4g}"]
            for name, value in (figures.items() if isinstance(figures, Mapping) else ())
            if isinstance(value, int | float)
        ]
    )


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
