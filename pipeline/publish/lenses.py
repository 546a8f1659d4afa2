"""The lenses of a published drive, and how its frames become pinhole pictures, from the rows of cameras.parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import View

_NUMBERS = ("fx", "fy", "cx", "cy")
_OF_A_LENS = ("model", "width", "height", *_NUMBERS)

Rows = Sequence[Mapping[str, Any]]  # of the types of schema.CAMERAS
"""One for each camera, one for all of them in older results of rigs, or none."""


def lens_of(rows: Rows, camera: int) -> Camera | None:
    """The lens of a camera, by its number, where it is no pinhole; None for a pinhole, and without rows."""
    one = _camera(rows, camera)
    return None if one is None or one.is_pinhole else one


def different_cameras(rows: Rows) -> tuple[Camera, ...]:
    """The cameras of a rig where they differ: their frames were rectified to one pinhole, those of pinholes too.
    Empty where all frames have one camera's numbers."""
    cameras = [_camera(rows, number) for number in range(len(rows))]
    found = tuple(one for one in cameras if one is not None)
    return found if len(found) == len(rows) and len(set(found)) > 1 else ()


def undistorted_view(rows: Rows, camera: int) -> View | None:
    """The pinhole view of a camera's frames, as wide as the network's pictures, at the frame's size; None where they
    are a pinhole's already."""
    lens = lens_of(rows, camera)
    return None if lens is None else _view(rows, lens, lens.width, lens.height)


def network_view(rows: Rows, camera: int, width: int, height: int) -> View | None:
    """How a camera's frames were rectified for the network, at width x height; None where they were only scaled and
    cropped."""
    lens = lens_of(rows, camera) or next(iter(different_cameras(rows)[camera:]), None)
    return None if lens is None else _view(rows, lens, width, height)


def _view(rows: Rows, lens: Camera, width: int, height: int) -> View:
    return View(lens, width, height, rows[0]["view_fx"] * width / rows[0]["view_width"])


def _camera(rows: Rows, camera: int) -> Camera | None:
    if not rows:
        return None
    row = rows[min(camera, len(rows) - 1)]
    if row["model"] == "pinhole" and any(row[name] is None for name in _NUMBERS):
        return None
    return Camera.from_dict({name: row[name] for name in (*_OF_A_LENS, "params")})
