"""Export a published drive: python -m jobs.export --output URI --drive ID --format ply tum --to DIR."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.command import run_job
from pipeline.common.progress import Reporter
from pipeline.common.settings import POSITIONAL
from pipeline.common.visible_text import show
from pipeline.export_drive import Exported, export_drive
from pipeline.publish import Selection
from pipeline.publish.exports import FORMATS

if TYPE_CHECKING:
    Format = str
else:
    Format = Literal[tuple(FORMATS)]  # the command line takes the names of the table


@dataclass(frozen=True)
class ExportConfig:
    """Which drive to export, in which formats, and where to."""

    output: str = field(metadata=POSITIONAL)
    """Where the drive was published: a path or URI."""
    drive: str = field(metadata=POSITIONAL)
    """Name of the drive there."""
    format: tuple[Format, ...]
    """One or more formats; pipeline/publish/README.md says what each holds. depth needs a drive that was made with
    --keep-predictions; geoparquet, geojson, kml and 3dtiles need a georeferenced one."""
    to: str
    """Folder (or URI) to make. It appears when everything is written."""
    selection: Annotated[Selection, tyro.conf.arg(name="")] = field(default_factory=Selection)
    images: bool = False
    """Copy the images of the frames too, to images/, where training programs look for them."""
    images_from: str | None = None
    """Read the images from this folder or video, by their paths below the drive's input. Needed where the input has
    moved; without it images are read only from the recorded input."""
    undistorted: bool = False
    """For a lens with distortion: write images without distortion to images/, with PINHOLE cameras. Otherwise exports
    have the model of the lens."""
    depth_scale: float | None = None
    """Pixel value of a depth map for one world unit; by default chosen from the drive's median depth."""
    crs: str | None = None
    """Coordinate system of LAZ files, EPSG:n; by default the drive's UTM zone."""
    overwrite: bool = False
    """Replace an earlier export in --to (never other files)."""

    def __post_init__(self) -> None:
        if self.depth_scale is not None and not 0 < self.depth_scale < float("inf"):
            raise ValueError(f"--depth-scale must be above zero, not {self.depth_scale}")


def main(arguments: list[str] | None = None) -> int:
    """Run the job; returns the exit code."""
    return run_job(ExportConfig, _export, arguments, prog="jobs.export")


def _export(config: ExportConfig) -> None:
    with Reporter() as reporter:
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
    show(summary(config.drive, done, reporter.seconds))


def summary(drive: str, done: Exported, seconds: dict[str, float]) -> str:
    """What was written, in a few lines."""
    lines = [f"drive {drive}: exported to {done.uri}"]
    lines += [f"  {name:<11} {what} ({seconds.get(name, 0.0):.1f} s)" for name, what in done.written.items()]
    lines += [f"  NOTE        {note}" for note in done.notes]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
