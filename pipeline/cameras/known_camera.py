"""The known facts of a drive's camera, and the camera of the pictures that the network gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import DEFAULT_FOV, View, view_of

Origin = Literal["calibration", "exif", "estimated"]
"""The source of a camera's numbers."""


@dataclass(frozen=True)
class KnownCamera:
    """camera: of a drive's upright frames; origin: the source of its numbers; fov: the largest horizontal field of view
    of a rectified picture, in degrees."""

    camera: Camera
    origin: Origin
    fov: float = DEFAULT_FOV

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> KnownCamera:  # Camera checks its values
        """The camera of a dictionary that `to_dict` returned. Raises ValueError for invalid numbers."""
        return KnownCamera(Camera.from_dict(values["camera"]), values["origin"], values["fov"])

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON. Equal cameras give equal values."""
        return {"camera": self.camera.to_dict(), "origin": self.origin, "fov": self.fov}

    def view(self, width: int, height: int) -> View | None:
        """The view of width x height pixels; None for a pinhole, whose frames are only scaled and cropped."""
        return None if self.camera.is_pinhole else view_of(self.camera, width, height, self.fov)


def cropped(camera: Camera, resized: tuple[int, int], left: int, top: int, size: tuple[int, int]) -> Camera:
    """A camera whose picture is scaled to `resized` (width, height), then cut at left, top to `size`."""
    scaled = camera.resized(*resized)
    return replace(scaled, width=size[0], height=size[1], cx=scaled.cx - left, cy=scaled.cy - top)
