"""A city drive seen through a lens with distortion.

The renderer casts rays row by row, which works for pinhole cameras only. The image of another lens is composed of
pinhole images that look ahead, to the sides, up, down and back: each ray takes its pixel from the one whose axis is
nearest.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cameras.camera import Camera
from pipeline.synthetic.drive import CityDrive, RenderedFrames

_ONE_FACE_DEGREES = 55.0  # largest angle from the axis for which one pinhole image is enough
_MARGIN_DEGREES = 4.0  # by which a pinhole image sees more than is taken from it
_FINER = 1.3  # pixels of a pinhole image per pixel of the lens' image


def named_lens(name: str, width: int, height: int) -> Camera:
    """A lens by name: fisheye (Kannala-Brandt, 150 degrees across), barrel (k1 = -0.3, 70 degrees across) or
    equirectangular (all around).

    Raises ValueError for another name.
    """
    if name == "fisheye":
        params = (-0.02, 0.004, -0.001, 0.0)
        angle = np.radians(75.0)
        bent = angle * (1 + params[0] * angle**2 + params[1] * angle**4 + params[2] * angle**6)
        focal = width / 2 / float(bent)
        return Camera("fisheye", width, height, focal, focal, width / 2, height / 2, params)
    if name == "barrel":
        radius = float(np.tan(np.radians(35.0)))
        focal = width / 2 / (radius * (1 - 0.3 * radius**2))
        return Camera("radtan", width, height, focal, focal, width / 2, height / 2, (-0.3, 0.0, 0.0, 0.0))
    if name == "equirectangular":
        return Camera.equirectangular(width, height)
    raise ValueError(f"lens must be fisheye, barrel or equirectangular, not {name!r}")


class LensDrive:
    """`CityDrive` seen through a lens, with the same route. Depth is along the axis of the lens, metres."""

    def __init__(
        self, seed: int, frames: int, lens: Camera, *, supersample: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """Raises ValueError like CityDrive."""
        self.lens = lens
        u, v = np.meshgrid(np.arange(lens.width) + 0.5, np.arange(lens.height) + 0.5)
        rays = lens.unproject(np.stack([u, v], -1))
        self._seen: NDArray[np.bool_] = np.all(np.isfinite(rays), axis=-1)
        self._rays = np.where(self._seen[..., None], rays, (0.0, 0.0, 1.0))
        widest = float(np.degrees(np.arccos(self._rays[..., 2].min())))
        self._faces = [np.eye(3)] if widest <= _ONE_FACE_DEGREES else _six_faces()
        half = (widest if len(self._faces) == 1 else 45.0) + _MARGIN_DEGREES
        size = int(np.ceil(2 * _FINER * max(lens.fx, lens.fy) * np.tan(np.radians(half)) / 8) * 8)
        self._nearest = np.stack([self._rays @ face[:, 2] for face in self._faces]).argmax(0)
        height = self._rows_used(size / 2 / float(np.tan(np.radians(half))), size)
        self._drive = CityDrive(
            seed, frames, height, size, supersample=supersample, field_of_view=2 * half, device=device
        )
        self.frames, self.world_from_camera, self.route = frames, self._drive.world_from_camera, self._drive.route
        self.intrinsics = lens.matrix

    def render(self, frame_numbers: Sequence[int] | range) -> RenderedFrames:
        """The frames with these numbers; pixels outside the lens' image are black, with depth 0."""
        numbers = np.asarray(frame_numbers, np.int64)
        poses = self.world_from_camera[numbers]
        nearest = self._nearest
        images = np.zeros((len(numbers), *nearest.shape, 3), np.uint8)
        depth = np.zeros((len(numbers), *nearest.shape), np.float32)
        for number, face in enumerate(self._faces):
            mine = (nearest == number) & self._seen
            if not mine.any():
                continue
            turned = poses.copy()
            turned[:, :3, :3] = poses[:, :3, :3] @ face
            rendered = self._drive.render_poses(turned)
            local = self._rays @ face  # in the axes of this picture
            middle = np.array([self._drive.width, self._drive.height]) / 2 - 0.5
            place = local[..., :2] / np.maximum(local[..., 2:], 1e-6) * self._drive.focal + middle
            across, down = (np.ascontiguousarray(place[..., i], np.float32) for i in (0, 1))
            along = self._rays[..., 2] / np.maximum(
                local[..., 2], 1e-6
            )  # depth along the lens' axis over depth along this image's
            for frame in range(len(numbers)):
                images[frame][mine] = cv2.remap(rendered.images[frame], across, down, cv2.INTER_LINEAR)[mine]
                z = cv2.remap(rendered.depth[frame], across, down, cv2.INTER_NEAREST) * along
                depth[frame][mine] = np.maximum(z, 0)[mine]
        k = np.tile(self.intrinsics, (len(numbers), 1, 1))
        return RenderedFrames(images, depth, poses, k, self.route.timestamps_s[numbers])

    def _rows_used(self, focal: float, most: int) -> int:
        """Rows about the middle of a picture of this focal length that any ray is looked up in: a lens' picture is
        wide, and rows above and below it would be rendered for nothing."""
        furthest = 0.0
        for number, face in enumerate(self._faces):
            local = (self._rays @ face)[(self._nearest == number) & self._seen]
            furthest = max(furthest, float(np.abs(local[:, 1] / local[:, 2]).max(initial=0.0)))
        return min(2 * (int(np.ceil(furthest * focal)) + 2), most)


def _six_faces() -> list[NDArray[np.float64]]:
    """camera_from_face, (3, 3) each: ahead, right, left, down, up, behind."""
    faces = [np.eye(3)]
    for axis, sign in ((0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)):
        forward = np.zeros(3)
        forward[axis] = sign
        right = np.array([0.0, 0.0, -sign]) if axis == 0 else np.array([1.0, 0.0, 0.0])
        faces.append(np.stack([right, np.cross(forward, right), forward], -1))
    return [*faces, np.diag([-1.0, 1.0, -1.0])]
