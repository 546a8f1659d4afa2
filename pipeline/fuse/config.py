"""Settings of jobs.fuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from pipeline.common.settings import POSITIONAL, setting
from pipeline.fuse.area import check_area
from pipeline.network_settings import NetworkSettings

_MOST = 1_000_000  # candidates
_LEASES_S = (1.0, 3600.0)


@dataclass(frozen=True)
class FuseConfig:
    """Which drives become one city, and how they are compared."""

    output: str = field(metadata=POSITIONAL)
    """Where drives were published: a path or URI. The city is written to _city/ below it."""
    area: tuple[float, float, float, float] | None = None
    """Only georeferenced drives that enter this box: west south east north, in degrees. Over the antimeridian west is
    greater than east."""
    drive: tuple[str, ...] = ()
    """Only these drives. Default: all drives of the output."""
    plan: bool = False
    """Only print an estimate: pairs to compare, time, memory, bytes."""
    images_from: str | None = None
    """Folder that holds, for each drive, a folder of images (or a video) with the drive's name. For drives whose input
    is gone."""
    tile: float = 50.0
    """Side of a tile in metres. In a frame that is not metric the usual step between two frames counts as one metre."""
    voxel: float = 0.1
    """Side in metres (as `tile`) of the cubes that keep one point each, over all drives."""
    change: bool = True
    """Find objects that one drive saw and the next drive by date looked through."""
    copc: bool | None = None
    """Write every tile also as COPC (LAZ), which needs laspy (pip install 'city-reconstruction[export]'). Default: if
    laspy is installed."""
    budget: int = 30
    """Most candidates of a drive that are verified."""
    network: bool = False
    """Verify candidates also by the network: frames of both drives in one joint chunk. Where it understands them, fewer
    features are enough, and features must not contradict it. The settings of the network hold for these chunks."""
    per_pair: int = setting(6, expert=True)
    """Most candidates of a pair of drives."""
    cell: float = setting(15.0, expert=True)
    """Side in metres of the squares of the map: two drives that entered the same square are candidates."""
    similarity: float = setting(0.5, expert=True)
    """Least similarity of two place descriptors, from -1 to 1. Descriptors are whitened over the whole output."""
    tolerance: float = setting(0.5, expert=True)
    """A drive keeps its poses of the last version if no frame has moved by more than this share of a cube."""
    lease_s: float = setting(120.0, expert=True)
    """Seconds after which the lease on the city expires if it is not renewed."""
    model: Annotated[NetworkSettings, tyro.conf.arg(name="")] = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        for name in ("tile", "voxel", "cell"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above zero, got {getattr(self, name)}")
        if not _LEASES_S[0] <= self.lease_s <= _LEASES_S[1]:
            raise ValueError(f"lease_s must be from {_LEASES_S[0]:g} to {_LEASES_S[1]:g} seconds, got {self.lease_s}")
        for name in ("budget", "per_pair"):
            if not 1 <= getattr(self, name) <= _MOST:
                raise ValueError(f"{name} must be from 1 to {_MOST:,}, got {getattr(self, name)}")
        if not self.voxel < self.tile:
            raise ValueError(f"voxel must be below tile, got {self.voxel} and {self.tile}")
        if not 0 < self.similarity < 1:
            raise ValueError(f"similarity must be between 0 and 1, got {self.similarity}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")
        if self.area is not None:
            check_area(self.area)
