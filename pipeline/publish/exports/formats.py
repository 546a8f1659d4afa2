"""All formats. An entry of FORMATS makes a format known to `jobs.export`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.publish.exports.colmap import write_colmap
from pipeline.publish.exports.copc import write_copc
from pipeline.publish.exports.depth import FrameDepth, write_depth
from pipeline.publish.exports.geo_trajectory import write_geojson, write_geoparquet, write_kml
from pipeline.publish.exports.kitti import write_kitti
from pipeline.publish.exports.laz import check_laz, write_laz
from pipeline.publish.exports.nerfstudio import write_nerfstudio
from pipeline.publish.exports.ply import write_ply
from pipeline.publish.exports.source import ExportSource
from pipeline.publish.exports.tiles3d import write_tiles
from pipeline.publish.exports.tum import write_tum


@dataclass
class ExportTask:
    """The input of a writer: the drive and the folder to write to. depths: of every frame, for formats with from_depth;
    depth_scale: the user's, None by default; notes: the writer adds sentences for the user."""

    source: ExportSource
    folder: Path
    depths: Iterator[FrameDepth] = field(default_factory=lambda: iter(()))
    depth_scale: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ExportFormat:
    """A format. write: writes the files and returns a text that says what they contain.

    check: raises ValueError where this machine cannot write the format. from_points: the writer reads the point cloud
    and reports its progress; needs_points: there is no file without points. from_depth: kept predictions are needed.
    on_earth: the drive must be georeferenced. for_trainers: its readers expect the images, and start from every point.
    """

    write: Callable[[ExportTask], str]
    check: Callable[[], object] = lambda: None
    from_points: bool = False
    needs_points: bool = False
    from_depth: bool = False
    on_earth: bool = False
    for_trainers: bool = False


def _colmap(task: ExportTask, *, text: bool = False) -> str:
    frames, points, tracked = write_colmap(task.source, task.folder, text=text)
    return f"sparse/0: {frames} images, {points:,} points, {tracked:,} of them tracked through 3 images or more"


def _nerfstudio(task: ExportTask) -> str:
    return f"transforms.json: {write_nerfstudio(task.source, task.folder)} frames"


def _ply(task: ExportTask) -> str:
    return f"points.ply: {write_ply(task.source, task.folder / 'points.ply'):,} points"


def _laz(task: ExportTask) -> str:
    return f"points.laz: {write_laz(task.source, task.folder / 'points.laz'):,} points"


def _copc(task: ExportTask) -> str:
    return f"points.copc.laz: {write_copc(task.source, task.folder / 'points.copc.laz'):,} points"


def _kitti(task: ExportTask) -> str:
    return f"poses.txt: {write_kitti(task.source, task.folder / 'poses.txt')} poses"


def _tum(task: ExportTask) -> str:
    if task.source.cameras.timestamps_ns is None:
        task.notes.append("the drive has no times: trajectory.txt counts frames instead of seconds")
    return f"trajectory.txt: {write_tum(task.source, task.folder / 'trajectory.txt')} poses"


def _depth(task: ExportTask) -> str:
    frames, beyond = write_depth(task.source, task.depths, task.folder, task.depth_scale)
    if beyond:
        task.notes.append(f"{beyond:,} pixels are further away than 16 bits hold; a smaller --depth-scale keeps them")
    return f"depth: {frames} maps"


FORMATS: dict[str, ExportFormat] = {
    "colmap": ExportFormat(_colmap, from_points=True, for_trainers=True),
    "colmap-text": ExportFormat(lambda task: _colmap(task, text=True), from_points=True, for_trainers=True),
    "nerfstudio": ExportFormat(_nerfstudio, from_points=True, for_trainers=True),
    "ply": ExportFormat(_ply, from_points=True, needs_points=True),
    "laz": ExportFormat(_laz, check_laz, from_points=True, needs_points=True),
    "copc": ExportFormat(_copc, check_laz, from_points=True, needs_points=True),
    "kitti": ExportFormat(_kitti),
    "tum": ExportFormat(_tum),
    "depth": ExportFormat(_depth, from_depth=True),
    "geoparquet": ExportFormat(lambda task: write_geoparquet(task.source, task.folder), on_earth=True),
    "geojson": ExportFormat(lambda task: write_geojson(task.source, task.folder), on_earth=True),
    "kml": ExportFormat(lambda task: write_kml(task.source, task.folder), on_earth=True),
    "3dtiles": ExportFormat(
        lambda task: write_tiles(task.source, task.folder), from_points=True, needs_points=True, on_earth=True
    ),
}
