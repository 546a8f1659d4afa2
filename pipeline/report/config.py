"""Settings of a report, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.common.settings import POSITIONAL


@dataclass(frozen=True)
class ReportConfig:
    """Which drives to report on, what to compare them with, and where to write or serve the site."""

    output: str = field(metadata=POSITIONAL)
    """Where drives were published: a path or URI."""
    drive: tuple[str, ...] = ()
    """Drives to make a report of. Without any, only the index page over all drives of the output is made."""
    every: bool = False
    """Make a report of every drive of the output whose report is missing or older than its result."""
    compare: tuple[str, ...] = ()
    """Other results of the same drive: a published drive, an output that contains it, or a file of poses. NAME=URI
    gives the result a name."""
    truth: str | None = None
    """Drive with ground truth (ROOT/sequences/ID) or a file of true poses. Errors are then in metres."""
    benchmark: tuple[str, ...] = ()
    """JSON files of jobs.benchmark; a figure shows time and memory against length."""
    images_from: str | None = None
    """Folder (or video) with the drive's images, where its input has moved. Without it they are read only from the
    recorded input."""
    site: str = "site"
    """Folder to write the site to. Existing reports are kept. A folder that is not a site must be empty."""
    serve: bool = False
    """Serve the site until interrupted."""
    live: bool = False
    """Open one drive in a live viewer (viser) instead of writing a site, until interrupted."""
    host: str = "127.0.0.1"
    """Address to serve on; with 0.0.0.0 other machines can connect."""
    port: int = 8090
    """Port to serve on."""
    points: int = 1_000_000
    """Most points shown; of a larger cloud an even sample."""
    images: int = 1_000
    """Most frames whose image is stored in the report."""
    image_width: int = 640
    """Width of those images in pixels."""

    def __post_init__(self) -> None:
        """Raises ValueError for settings that cannot work, naming the option and what would."""
        for name in ("points", "images", "image_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.port < 65536:
            raise ValueError(f"--port must be between 1 and 65535, not {self.port}")
        if "://" in self.site:
            raise ValueError(f"--site is a folder on this machine, not {self.site}; copy it to a store afterwards")
        if (self.compare or self.truth) and len(self.drive) != 1:
            raise ValueError("--compare and --truth need one drive: give --drive ID")
        if self.images_from and len(self.drive) != 1:
            raise ValueError("--images-from is of one drive: give --drive ID")
        if self.live and len(self.drive) != 1:
            raise ValueError("--live shows one drive: give --drive ID")

    def compared(self) -> tuple[tuple[str | None, str], ...]:
        """Name (None where none was given) and URI of every result to compare with."""
        named = []
        for text in self.compare:
            name, equals, uri = text.partition("=")
            named.append((name, uri) if equals and name and not set("/:?") & set(name) else (None, text))
        return tuple(named)
