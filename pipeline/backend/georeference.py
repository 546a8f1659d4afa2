"""Data of georeferencing: the evidence that places a joined drive in the world, and the resulting place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.backend.pose_graph import Solution
from pipeline.backend.sim3 import Array
from pipeline.common.fixes import Fixes, Speed
from pipeline.common.geodesy import geodetic_from_enu


@dataclass(frozen=True, eq=False)
class Georeference:
    """A drive's place on Earth. N frames, M fixes in the order they were given.

    origin: latitude, longitude (degrees), altitude (metres above the WGS 84 ellipsoid) of the world frame;
    enu_from_camera (N, 4, 4): metres east, north and up at the origin; clock_offset_s: receiver minus drive, and its
    deviation; used (M,) bool; residual_m (M, 3): fix minus antenna, east, north, up, NaN outside the drive's time;
    position_deviation_m (N, 3): of the cameras' positions, east, north, up; lever_m (3,): the antenna in the camera's
    frame, and whether it was estimated; white_m, wander_m (3,): estimated deviations of the receiver's quick and slow
    error; speed_factor: distances by the car's speed over those of the result, NaN where no speed was used; notes: a
    sentence for each mistake in fixes and speeds.
    """

    origin: tuple[float, float, float]
    enu_from_camera: Array
    clock_offset_s: float
    clock_offset_deviation_s: float
    used: NDArray[np.bool_]
    residual_m: Array
    position_deviation_m: Array
    lever_m: Array
    lever_estimated: bool
    white_m: Array
    wander_m: Array
    speed_factor: float
    notes: tuple[str, ...] = ()

    def geodetic(self) -> tuple[Array, Array, Array]:
        """Latitude, longitude (degrees) and altitude above the ellipsoid (metres) of each camera, (N,) each."""
        return geodetic_from_enu(self.enu_from_camera[:, :3, 3], self.origin)


@dataclass(frozen=True)
class Metric:
    """The source of the metre. source: fixes, baseline (of two cameras), speed or height; deviation: of the scale, as a
    share; offset_s: of the source's clock, receiver minus drive."""

    source: str
    deviation: float
    offset_s: float


@dataclass(frozen=True, eq=False)
class WorldEvidence:
    """Evidence on the place and the scale of a drive besides its pictures. All of it may be missing.

    frame_time_s (N,): seconds on the drive's clock, for each frame of the result, or for each frame of the drive by
    number; fixes: positions of the antenna; speed: the car's; camera_height_m: above the road; clock_window_s: the
    largest offset of the receiver's clock that is searched, 0 holds it at 0; lever (3,): the antenna's position in the
    camera's frame, metres; None: it is estimated if the fixes determine it, else taken to be at the camera. Raises
    ValueError: fixes or speed without times, a negative window, a lever that is not three numbers.
    """

    frame_time_s: ArrayLike | None = None
    fixes: Fixes | None = None
    speed: Speed | None = None
    camera_height_m: float | None = None
    clock_window_s: float = 5.0
    lever: ArrayLike | None = None

    def __post_init__(self) -> None:
        if (self.fixes is not None or self.speed is not None) and self.frame_time_s is None:
            raise ValueError("fixes and speed need frame_time_s, the time of each frame on the drive's clock")
        if self.clock_window_s < 0:
            raise ValueError(f"the clock window must not be negative, got {self.clock_window_s}")
        if self.antenna.shape != (3,) or not np.isfinite(self.antenna).all():
            raise ValueError(f"the lever must be three finite numbers (x, y, z in metres), got {self.antenna}")

    @property
    def antenna(self) -> Array:
        """The lever as an array, zeros where it is not known."""
        return np.zeros(3) if self.lever is None else np.asarray(self.lever, np.float64)


@dataclass(frozen=True, eq=False)
class InWorld:
    """A solution after `placing.place_in_world`. relative_because: the reason why evidence was not used; empty if it
    was used, or if there was none."""

    solution: Solution
    georeference: Georeference | None = None
    metric: Metric | None = None
    relative_because: str = ""
