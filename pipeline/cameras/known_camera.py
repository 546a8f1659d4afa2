"""The known facts of a drive's camera, and the camera of the pictures that the network gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import DEFAULT_FOV, View, common_views, view_of

Origin = Literal["calibration", "exif", "estimated"]
"""The source of a camera's numbers."""


@dataclass(frozen=True)
class KnownCamera:
    """camera: of a drive's upright frames; origin: the source of its numbers; fov: the largest horizontal field of view
    of a rectified picture, in degrees; rig: the cameras of a rig that differ, in the order of its frames, `camera`
    first; empty where all frames are of one camera."""

    camera: Camera
    origin: Origin
    fov: float = DEFAULT_FOV
    rig: tuple[Camera, ...] = ()

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> KnownCamera:  # Camera checks its values
        """The camera of a dictionary that `to_dict` returned. Raises ValueError for invalid numbers."""
        rig = tuple(Camera.from_dict(one) for one in values.get("rig", ()))
        return KnownCamera(Camera.from_dict(values["camera"]), values["origin"], values["fov"], rig)

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON. Equal cameras give equal values."""
        said: dict[str, object] = {"camera": self.camera.to_dict(), "origin": self.origin, "fov": self.fov}
        return {**said, "rig": [one.to_dict() for one in self.rig]} if self.rig else said

    @property
    def of_reference(self) -> KnownCamera:
        """What is known of the first camera."""
        return replace(self, rig=()) if self.rig else self

    def of(self, frame: int) -> Camera:
        """The camera of a frame, by its number in the drive."""
        return self.rig[frame % len(self.rig)] if self.rig else self.camera

    def views(self, width: int, height: int) -> tuple[View, ...]:
        """The views of width x height pixels: one of a lens; of a rig whose cameras differ one of each, all of one
        pinhole; none for a pinhole, whose frames are only scaled and cropped."""
        if self.rig:
            return common_views(self.rig, width, height, self.fov)
        return () if self.camera.is_pinhole else (view_of(self.camera, width, height, self.fov),)

    def view(self, width: int, height: int) -> View | None:
        """The first of `views`; None where there is none."""
        return next(iter(self.views(width, height)), None)


def cropped(camera: Camera, resized: tuple[int, int], left: int, top: int, size: tuple[int, int]) -> Camera:
    """A camera whose picture is scaled to `resized` (width, height), then cut at left, top to `size`."""
    scaled = camera.resized(*resized)
    return replace(scaled, width=size[0], height=size[1], cx=scaled.cx - left, cy=scaled.cy - top)
