"""Settings of positions, declared once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.common.settings import NEVER, setting
from pipeline.georeference.crs import check_crs

NONE = "none"
"""The value of `file` with which positions beside the drive are not read."""


@dataclass(frozen=True)
class PositionsConfig:
    """Where the drive was, and on which clock. Positions that are used are part of the result's identity."""

    file: str | None = setting(None, group="input", identity=NEVER)
    """Positions or speeds of the drive: CSV, GPX, NMEA, a KITTI oxts folder, a video with GoPro, CAMM or BlackVue
    telemetry, a comma2k19 segment; for many drives a folder with <drive_id>.gpx and so on. By default files beside the
    drive (gps.csv, track.gpx, oxts/), or positions in its video or pictures; "none" reads nothing."""
    crs: str | None = setting(None, expert=True, identity=NEVER)
    """Coordinate system of x, y, z in a CSV file: EPSG:n, or ecef. By default they are degrees of WGS 84."""
    clock_window: float = setting(5.0, expert=True, identity=NEVER)
    """Seconds by which the receiver's clock may be off the camera's; the offset is estimated. 0 holds it at 0."""
    lever: str | None = setting(None, expert=True, identity=NEVER)
    """x,y,z in metres: the antenna's position in the camera's frame (right, down, forward). By default it is estimated
    if the fixes determine it; otherwise the antenna is taken to be at the camera."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        if self.file == "":
            raise ValueError("--positions.file is empty; give a file, or none")
        if not 0 <= self.clock_window <= 86_400:
            raise ValueError(f"--positions.clock-window must be 0 to 86400 seconds, not {self.clock_window:g}")
        if self.crs is not None:
            try:
                check_crs(self.crs)
            except ValueError as error:
                raise ValueError(f"--positions.crs {error}") from None
        self.lever_m  # noqa: B018 (raises where it is no position)

    @property
    def lever_m(self) -> tuple[float, float, float] | None:
        """The lever in metres."""
        if self.lever is None:
            return None
        try:
            x, y, z = (float(part) for part in self.lever.split(","))
        except ValueError:
            raise ValueError(f"--positions.lever must be x,y,z in metres, not {self.lever[:40]!r}") from None
        if not all(math.isfinite(part) and abs(part) < 100 for part in (x, y, z)):
            raise ValueError(f"--positions.lever must be within 100 m of the camera, not {self.lever[:40]!r}")
        return x, y, z
