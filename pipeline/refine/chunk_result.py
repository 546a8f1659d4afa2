"""The result of refining one window: staged beside the network's chunks, read again, and applied to the window."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline import storage
from pipeline.errors import DriveError
from pipeline.refine.depth_correction import TERMS, corrected
from pipeline.refine.grid import Grid
from pipeline.refine.window import Window

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WindowResult:
    """F frames, P points, M observations.

    accepted (1,): whether the adjusted cameras are used, because held-back tracks agree with them as well as with the
    network's or better. cam_from_window (F, 4, 4): the window's axes are those of its first camera; camera (4,): fx fy
    cx cy in source pixels; log_scale (F,), correction (F, TERMS): log factors and coefficients for the network's depth;
    step_covariance (F, 6, 6): of each frame's pose relative to the one before it (see `adjustment.step_covariance`),
    NaN where unknown; before, after (2,): share of held-back tracks within 1.5 pixels, and their median distance in
    source pixels; replaced (F - 1,): steps that began from two-view geometry. The points
    that were adjusted: points (P, 3), track (P,); their observations: point, frame (M,), frames counted from the
    window's first one, and xy (M, 2) in source pixels. metre_sigma: standard deviation (1,) of the log of a metre's
    length in the window's units, which a rig has whose cameras have known places; else (0,). Of a rig, replaced is of
    the steps between instants.
    """

    accepted: NDArray[np.bool_]
    cam_from_window: Array
    camera: Array
    log_scale: Array
    correction: Array
    step_covariance: Array
    before: Array
    after: Array
    replaced: NDArray[np.bool_]
    points: Array
    track: NDArray[np.int64]
    point: NDArray[np.int64]
    frame: NDArray[np.int64]
    xy: Array
    metre_sigma: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def pose_deviation(self) -> Array:
        """Standard deviations (F, 2) of each frame's rotation (radians, one axis) and position (units of the window,
        one axis) relative to the frame before it; of the next frame where that one is unknown. NaN where the adjusted
        cameras are not used."""
        if not self.accepted[0]:
            return np.full((len(self.step_covariance), 2), np.nan)
        variance = np.diagonal(self.step_covariance, axis1=1, axis2=2).reshape(-1, 2, 3).mean(2)
        begins = np.flatnonzero(~np.isfinite(variance).all(1))
        variance[begins] = variance[np.minimum(begins + 1, len(variance) - 1)]
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def applied(self, window: Window, grid: Grid) -> Window:
        """The window with the adjusted poses and the corrected depth if they are accepted, and always with `camera`."""
        intrinsics = np.tile(grid.camera_from_source(self.camera), (len(window.frame_index), 1, 1))
        if not self.accepted[0]:
            return replace(window, intrinsics=intrinsics)
        return replace(
            window,
            cam_from_window=self.cam_from_window,
            intrinsics=intrinsics,
            depth=corrected(window.depth, self.log_scale, self.correction),
        )


def write_result(folder: str, number: int, result: WindowResult) -> None:
    """Stage the result of window `number`; the file is visible only when it is complete. Raises StorageError."""
    tensors = {one.name: np.ascontiguousarray(getattr(result, one.name)) for one in fields(WindowResult)}
    if not result.metre_sigma.size:  # older versions, which do not know it, can read the results of one camera
        del tensors["metre_sigma"]
    storage.write_bytes_atomically(_uri(folder, number), save(tensors))


def has_result(folder: str, number: int) -> bool:
    """Whether the result of window `number` is staged. Raises StorageError."""
    return storage.exists(_uri(folder, number))


def read_result(folder: str, number: int) -> WindowResult:
    """Read the staged result of window `number`. Raises StorageError if it is missing, DriveError if it is damaged."""
    uri = _uri(folder, number)
    try:
        tensors = load(storage.read_bytes(uri))
        tensors.setdefault("step_covariance", np.full((len(tensors["log_scale"]), 6, 6), np.nan))
        tensors.pop("covariance", None)  # of results of versions that did not know step_covariance
        result = WindowResult(**tensors)
        frames = len(result.log_scale)
        expected = {
            "accepted": (1,),
            "camera": (4,),
            "cam_from_window": (frames, 4, 4),
            "log_scale": (frames,),
            "correction": (frames, TERMS),
        }
        if result.step_covariance.shape != (frames, 6, 6):
            raise ValueError(f"step_covariance: expected shape {(frames, 6, 6)}, got {result.step_covariance.shape}")
        for name, shape in expected.items():
            values = getattr(result, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected finite numbers of shape {shape}, got {values.shape}")
        return result
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DriveError(f"{uri} does not hold a refined window ({error}); run jobs.realign again") from error


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"refined-{number:05d}.safetensors")
