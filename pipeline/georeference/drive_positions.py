"""A drive's positions for joining it, and their columns and fields in the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.common.fixes import Fixes, Speed
from pipeline.common.geodesy import enu_from_geodetic
from pipeline.georeference.clocks import OnDrive
from pipeline.georeference.config import PositionsConfig
from pipeline.georeference.find import PositionsSource
from pipeline.georeference.positions import NoPositionsError
from pipeline.georeference.read import read_positions

Array = NDArray[np.float64]

WORLD = "metres east, north, up at the origin (a tangent plane of the WGS 84 ellipsoid)"
ELLIPSOID, SEA_LEVEL = "WGS 84 ellipsoid", "mean sea level, as the receiver says it"


class PlacedLike(Protocol):
    """The back end's result for a georeferenced drive (pipeline.backend.Georeference)."""

    @property
    def origin(self) -> tuple[float, float, float]: ...
    @property
    def clock_offset_s(self) -> float: ...
    @property
    def clock_offset_deviation_s(self) -> float: ...
    @property
    def used(self) -> NDArray[np.bool_]: ...
    @property
    def residual_m(self) -> Array: ...
    @property
    def lever_m(self) -> Array: ...
    @property
    def lever_estimated(self) -> bool: ...
    @property
    def speed_factor(self) -> float: ...
    @property
    def white_m(self) -> Array: ...
    @property
    def wander_m(self) -> Array: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, eq=False)
class DrivePositions:
    """on_drive: the positions, None if none can be used; notes: sentences for the user."""

    on_drive: OnDrive | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def read(
        source: PositionsSource,
        config: PositionsConfig,
        frame_uris: Sequence[str],
        timestamps_ns: Sequence[int] | None,
        frame_numbers: Sequence[int] | None,
    ) -> DrivePositions:
        """Read a source. Unusable positions become a note. Raises StorageError if a store does not answer."""
        try:
            found = read_positions(source, config, frame_uris, timestamps_ns, frame_numbers)
        except NoPositionsError as error:
            return DrivePositions(None, (f"no positions: {error}; the result is relative",))
        return DrivePositions(found, tuple(f"positions: {note}" for note in found.positions.notes))

    def joined(self, relative_because: str, placed: PlacedLike | None) -> DrivePositions:
        """The same after the drive was joined, with the reasons why positions or speeds were not used."""
        if self.on_drive is None:
            return self
        source, said = self.on_drive.positions.source, list[str]()
        if relative_because:
            said.append(f"positions of {source} are not used: {relative_because}")
        elif placed is not None:
            said += [f"positions: {note}" for note in placed.notes]
            if self.speed is not None and not np.isfinite(placed.speed_factor):
                said.append(f"speeds of {source} are not used: they do not follow the drive and its fixes")
        return replace(self, notes=(*self.notes, *(note for note in said if note not in self.notes)))

    @property
    def fixes(self) -> Fixes | None:
        """Fixes for the pose graph; None without any."""
        return (
            None if self.on_drive is None or not len(self.on_drive.positions.fixes) else self.on_drive.positions.fixes
        )

    @property
    def speed(self) -> Speed | None:
        """The car's speed; None if unknown."""
        return None if self.on_drive is None else self.on_drive.positions.speed

    @property
    def frame_time_s(self) -> Array | None:
        """(N,) seconds from the first frame; None without positions."""
        return None if self.on_drive is None else self.on_drive.frame_time_s

    @property
    def window_s(self) -> float:
        """The largest clock offset that is searched, seconds."""
        return 0.0 if self.on_drive is None else self.on_drive.window_s

    def georeference(self, placed: PlacedLike | None, config: PositionsConfig) -> dict[str, object] | None:
        """The manifest's `georeference`; None of a relative drive."""
        if placed is None or self.on_drive is None:
            return None
        positions = self.on_drive.positions
        latitude, longitude, altitude = placed.origin
        off = placed.residual_m[placed.used]
        up = off[np.isfinite(off[:, 2]), 2]  # fixes without an altitude have none
        return {
            "origin": {"latitude": latitude, "longitude": longitude, "altitude": altitude},
            "world": WORLD,
            "crs": "EPSG:4979",
            "vertical_datum": SEA_LEVEL if positions.sea_level else ELLIPSOID,
            "source": positions.source,
            "fixes": len(positions.fixes),
            "fixes_used": int(placed.used.sum()),
            "residual_horizontal_m": float(np.sqrt((off[:, :2] ** 2).sum(1).mean())),
            "residual_vertical_m": float(np.sqrt((up**2).mean())) if len(up) else None,
            "clock_offset_s": placed.clock_offset_s,
            "clock_offset_deviation_s": placed.clock_offset_deviation_s,
            "lever_m": placed.lever_m,
            "lever_given": config.lever is not None,
            "lever_estimated": placed.lever_estimated,
            "speed_factor": placed.speed_factor if np.isfinite(placed.speed_factor) else None,
            "quick_error_m": placed.white_m,
            "slow_error_m": placed.wander_m,
        }

    def columns(self, placed: PlacedLike | None) -> dict[str, NDArray[np.generic]] | None:
        """Columns of schema.POSITIONS without drive_id and fix_index; None without fixes."""
        fixes = self.fixes
        if fixes is None:
            return None
        count = len(fixes)
        unknown = np.full((count, 3), np.nan)
        enu, residual, used = unknown, unknown, np.zeros(count, bool)
        if placed is not None:
            enu = enu_from_geodetic(fixes.latitude, fixes.longitude, fixes.altitude, placed.origin)
            flat = enu_from_geodetic(fixes.latitude, fixes.longitude, np.full(count, placed.origin[2]), placed.origin)
            enu = np.where(np.isnan(enu), flat * [1, 1, np.nan], enu)
            residual, used = np.where(np.isnan(enu), np.nan, placed.residual_m), placed.used
        there = np.isfinite(fixes.latitude) & np.isfinite(fixes.longitude)
        assert fixes.accuracy is not None
        return {
            "time_s": fixes.time_s,
            "latitude": np.where(there, fixes.latitude, np.nan),
            "longitude": np.where(there, fixes.longitude, np.nan),
            "altitude": np.where(there, fixes.altitude, np.nan),
            "accuracy": fixes.accuracy,
            "used": used,
            **{name: enu[:, axis] for axis, name in enumerate(("east", "north", "up"))},
            **{f"residual_{name}": residual[:, axis] for axis, name in enumerate(("east", "north", "up"))},
        }
