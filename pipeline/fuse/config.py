"""Settings of fusing, declared once."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.common.settings import POSITIONAL, setting


@dataclass(frozen=True)
class FuseConfig:
    """Which drives become one city, and how closely they are looked at."""

    output: str = field(metadata=POSITIONAL)
    """Where drives were published: a path or URI. The city comes to _city/ below it."""
    area: tuple[float, float, float, float] | None = None
    """Only georeferenced drives that come into this box: west south east north, degrees."""
    drive: tuple[str, ...] = ()
    """Only these drives; by default every one of the output."""
    plan: bool = False
    """Only say what it would take: pairs to compare, time, memory, bytes."""
    images_from: str | None = None
    """The folder that holds a folder of images (or a video) a drive, by the drive's name, where the input is gone."""
    tile: float = 50.0
    """Side of a tile, metres. In a frame that is not metric the usual step between two frames counts as one."""
    voxel: float = 0.1
    """One point is kept in each cube of this side, metres (as `tile`), over all drives."""
    change: bool = True
    """Find what is there in one drive and seen through in the next by date."""
    copc: bool | None = None
    """Write every tile as COPC (LAZ) beside its Parquet; needs laspy (pip install 'city-reconstruction[export]').
    Default: where laspy is installed."""
    budget: int = 30
    """Candidates of a drive that are looked at, at most."""
    per_pair: int = setting(6, expert=True)
    """Candidates of a pair of drives, at most."""
    cell: float = setting(15.0, expert=True)
    """Drives that came into one square of this side, metres, may have seen the same."""
    similarity: float = setting(0.5, expert=True)
    """Least similarity of two place descriptors, -1 to 1, whitened by the whole output."""
    tolerance: float = setting(0.5, expert=True)
    """A drive whose frames all moved by less than this share of a cube since the last version stays where it was."""
    lease_s: float = setting(120.0, expert=True)
    """Seconds that the claim on the city lasts without being renewed."""

    def __post_init__(self) -> None:
        """Raises ValueError naming the field."""
        for name in ("tile", "voxel", "cell", "lease_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above zero, got {getattr(self, name)}")
        for name in ("budget", "per_pair"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.voxel < self.tile:
            raise ValueError(f"voxel must be below tile, got {self.voxel} and {self.tile}")
        if not 0 < self.similarity < 1:
            raise ValueError(f"similarity must be between 0 and 1, got {self.similarity}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.area is not None and not (self.area[0] < self.area[2] and self.area[1] < self.area[3]):
            raise ValueError(f"area is west south east north, degrees, got {self.area}")
