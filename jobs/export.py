"""A published drive for other programs: python -m jobs.export --output URI --drive ID --format ply tum --to DIR."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.command import run_command, settings_from
from pipeline.common.progress import Reporter
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show
from pipeline.export_drive import Exported, export_drive
from pipeline.publish import Selection
from pipeline.publish.exports import FORMATS

if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(FORMATS)]  # what the command line takes: the table's names


@dataclass(frozen=True)
class ExportConfig:
    """What to write of which drive, and where to."""

    output: str = field(metadata=POSITIONAL)
    """Where the drive was published: a path or URI."""
    drive: str = field(metadata=POSITIONAL)
    """Name of the drive there."""
    format: tuple[Format, ...]
    """One or more formats; pipeline/publish/README.md says what each holds. depth needs a drive that was made with
    --keep-predictions; geoparquet, geojson, kml and 3dtiles need a georeferenced one."""
    to: str
    """Folder (or URI) to make; it appears when all is written."""
    selection: Annotated[Selection, tyro.conf.arg(name="")] = field(default_factory=Selection)
    images: bool = False
    """Copy the frames' images too, to images/, where trainers look for them."""
    images_from: str | None = None
    """Copy the images from this folder, or this video, by their paths below the drive's input: where the input has
    moved. Without it images are read from the input alone."""
    undistorted: bool = False
    """Of a drive through a lens with distortion: write its images as a pinhole sees them, to images/, with PINHOLE
    cameras; else exports have the lens' own model."""
    depth_scale: float | None = None
    """Value of a depth map's pixel per world unit; by default chosen by the drive's median depth."""
    crs: str | None = None
    """Coordinate system of LAZ, EPSG:n; by default the drive's UTM zone."""
    overwrite: bool = False
    """Replace a former export in --to (never anything else)."""

    def __post_init__(self) -> None:
        if self.depth_scale is not None and not 0 < self.depth_scale < float("inf"):
            raise ValueError(f"--depth-scale must be above zero, not {self.depth_scale}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_command(lambda: _export(settings_from(ExportConfig, arguments, prog="jobs.export")))


def _export(config: ExportConfig) -> None:
    reporter = Reporter()
    try:
        done = export_drive(
            config.output,
            config.drive,
            config.format,
            config.to,
            config.selection,
            reporter,
            images=config.images,
            images_from=config.images_from,
            undistorted=config.undistorted,
            depth_scale=config.depth_scale,
            crs=config.crs,
            overwrite=config.overwrite,
        )
    finally:
        reporter.close()
    show(summary(config.drive, done, reporter.seconds))


def summary(drive: str, done: Exported, seconds: dict[str, float]) -> str:
    """What a person wants to know at the end."""
    lines = [f"drive {drive}: exported to {done.uri}"]
    lines += [f"  {name:<11} {what} ({seconds.get(name, 0.0):.1f} s)" for name, what in done.written.items()]
    lines += [f"  NOTE        {note}" for note in done.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
