"""Settings of a report, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.common.settings import POSITIONAL


@dataclass(frozen=True)
class ReportConfig:
    """Reports of drives, and the page that finds them."""

    output: str = field(metadata=POSITIONAL)
    """Where drives were published: a path or URI."""
    drive: tuple[str, ...] = ()
    """Drives to make a report of; without any, only the index page over all drives of the output is made."""
    every: bool = False
    """Make a report of every drive of the output whose report is missing or older than its result."""
    compare: tuple[str, ...] = ()
    """Other results of the same drive: a published drive, an output that has it, or a file of poses; NAME=URI names
    it."""
    truth: str | None = None
    """Drive with truth (ROOT/sequences/ID) or a file of true poses: errors are then in metres."""
    benchmark: tuple[str, ...] = ()
    """JSON files of jobs.benchmark: time and memory against length become a figure."""
    images_from: str | None = None
    """Folder (or video) that holds the drive's images now, where its input has moved; else they are read from the
    input alone."""
    site: str = "site"
    """Folder to write the site to; reports that are there stay. One that is not a site already must be empty."""
    serve: bool = False
    """Serve the site until interrupted."""
    live: bool = False
    """Open one drive in a live viewer (viser) instead of writing a site, until interrupted."""
    host: str = "127.0.0.1"
    """Address to serve on; 0.0.0.0 lets other machines in."""
    port: int = 8090
    """Port to serve on."""
    points: int = 1_000_000
    """Most points shown: an even share of a larger cloud."""
    images: int = 1_000
    """Most frames whose image is kept beside the scene."""
    image_width: int = 640
    """Width of those images, pixels."""

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
        """Name (None where not given) and URI of every result to compare with."""
        named = []
        for text in self.compare:
            name, equals, uri = text.partition("=")
            named.append((name, uri) if equals and name and not set("/:?") & set(name) else (None, text))
        return tuple(named)
