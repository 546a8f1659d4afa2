"""What refinement says of one window, staged beside the network's chunks, and the window with it applied."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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

    accepted (1,): whether the adjusted cameras are taken: tracks held back agree better with them than with the
    network's. cam_from_window (F, 4, 4) in the gauge of the window's first frame; camera (4,) source's fx fy cx cy;
    log_scale (F,), correction (F, TERMS) of the network's depth; covariance (F, 6, 6) of turn and shift; before, after
    (2,): share of held-back tracks within 1.5 pixels and median distance; replaced (F - 1,): steps that began from
    two-view geometry. points (P, 3); track (P,); point, frame (M,) and xy (M, 2): what was adjusted, frames by place
    in the window.
    """

    accepted: NDArray[np.bool_]
    cam_from_window: Array
    camera: Array
    log_scale: Array
    correction: Array
    covariance: Array
    before: Array
    after: Array
    replaced: NDArray[np.bool_]
    points: Array
    track: NDArray[np.int64]
    point: NDArray[np.int64]
    frame: NDArray[np.int64]
    xy: Array

    def applied(self, window: Window, grid: Grid) -> Window:
        """The window with the adjusted cameras and depth, where they are accepted; its camera in any case."""
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
    """Stage it, whole or not at all. Raises StorageError."""
    tensors = {one.name: np.ascontiguousarray(getattr(result, one.name)) for one in fields(WindowResult)}
    storage.write_bytes_atomically(_uri(folder, number), save(tensors))


def has_result(folder: str, number: int) -> bool:
    """Whether one is staged."""
    return storage.exists(_uri(folder, number))


def read_result(folder: str, number: int) -> WindowResult:
    """A staged one. Raises StorageError where it is not there, DriveError where it is none."""
    uri = _uri(folder, number)
    try:
        result = WindowResult(**load(storage.read_bytes(uri)))
        frames = len(result.log_scale)
        expected = {
            "accepted": (1,),
            "camera": (4,),
            "cam_from_window": (frames, 4, 4),
            "log_scale": (frames,),
            "correction": (frames, TERMS),
        }
        for name, shape in expected.items():
            values = getattr(result, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name}: expected finite numbers of shape {shape}, got {values.shape}")
        return result
    except (SafetensorError, TypeError, ValueError) as error:
        raise DriveError(f"{uri} holds no refined window ({error}); run jobs.realign again") from error


def _uri(folder: str, number: int) -> str:
    return storage.join(folder, f"refined-{number:05d}.safetensors")
