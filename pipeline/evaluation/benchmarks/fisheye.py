"""Fisheye images made pinhole ones: the equidistant model of Kannala and Brandt (2006), as in Kalibr and OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pipeline.evaluation.metrics import FloatArray


@dataclass(frozen=True, eq=False)
class Fisheye:
    """fx fy cx cy (pixels, the first pixel's centre at 0, as OpenCV), k1 to k4, and the image's width and height."""

    intrinsics: FloatArray
    distortion: FloatArray
    width: int
    height: int

    def project(self, rays: FloatArray) -> FloatArray:
        """Pixels (..., 2) of rays (..., 3) in front of the camera."""
        radius = np.hypot(rays[..., 0], rays[..., 1])
        angle = np.arctan2(radius, rays[..., 2])
        square = angle**2
        bent = angle * (1 + square * np.polynomial.polynomial.polyval(square, self.distortion))
        scale = np.where(radius > 0, bent / np.where(radius > 0, radius, 1), 1.0)
        fx, fy, cx, cy = self.intrinsics
        return np.stack([fx * rays[..., 0] * scale + cx, fy * rays[..., 1] * scale + cy], -1)

    def rectified(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same view (H, W, 3) through a pinhole camera with the same focal length and the centre in the middle."""
        fx, fy = self.intrinsics[:2]
        column, row = np.meshgrid(np.arange(self.width), np.arange(self.height))
        rays = np.stack(
            [(column + 0.5 - self.width / 2) / fx, (row + 0.5 - self.height / 2) / fy, np.ones(column.shape)], -1
        )
        where = self.project(rays)
        at = (where[..., 1], where[..., 0])
        planes = [map_coordinates(image[..., c], at, order=1, mode="constant") for c in range(image.shape[2])]
        return np.stack(planes, -1)
