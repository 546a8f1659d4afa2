"""A drive through a procedural city: a seed -> images, depth, poses and intrinsics of any of its frames, on a CPU or
GPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.synthetic.layout import build_city
from pipeline.synthetic.render import Camera, Hits, Scene, cast_rays, ray_directions
from pipeline.synthetic.route import drive_route
from pipeline.synthetic.shade import Shader
from pipeline.synthetic.solids import FloatArray

# Rays that are cast at once. On a CPU an array then has a few hundred kilobytes and stays in the cache (measured: 6 k
# to 25 k rays take equally long per ray, 100 k a third longer); a GPU needs as many as fit into a few gigabytes.
_RAYS_CPU, _RAYS_GPU = 26_000, 2_000_000


@dataclass(frozen=True)
class RenderedFrames:
    """`images` uint8 (n, H, W, 3) RGB; `depth` float32 (n, H, W), z-depth in metres at pixel centres, 0 for the sky and
    everything beyond 250 m; `world_from_camera` float64 (n, 4, 4), OpenCV axes, metres; `intrinsics` float64 (n, 3, 3),
    pixels with centres at +0.5; `timestamps_s` float64 (n,), None if the poses are not frames of the drive."""

    images: NDArray[np.uint8]
    depth: NDArray[np.float32]
    world_from_camera: FloatArray
    intrinsics: FloatArray
    timestamps_s: FloatArray | None


class CityDrive:
    """One car's drive of `frames` frames through the city of a seed.

    The world frame is that of the city (z up, the ground at 0). A pixel's colour is the mean of `supersample`^2 rays;
    its depth is that of the ray through its centre. `field_of_view` is horizontal, in degrees; None draws it from the
    seed, between 76 and 84. With a `city_seed`, the city depends on it and `seed` determines the route only; `streets`,
    `opposite`: see `drive_route`; `light`: seed of sun and sky, by default the city's; `parked`: see `build_city`.
    Everything
    is a function of the arguments: on one device, frame 7 has the same bytes whether it is rendered alone or with
    others. Raises ValueError for fewer than 1 frame, an image side below 8 pixels, a supersample below 1 or a field of
    view outside 20 to 140 degrees.
    """

    def __init__(
        self,
        seed: int,
        frames: int,
        height: int = 56,
        width: int = 112,
        *,
        supersample: int = 1,
        field_of_view: float | None = None,
        city_seed: int | None = None,
        streets: int | None = None,
        opposite: bool = False,
        light: int | None = None,
        parked: tuple[float, float, float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if height < 8 or width < 8:
            raise ValueError(f"images need at least 8 x 8 pixels, got {height} x {width}")
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        if field_of_view is not None and not 20.0 <= field_of_view <= 140.0:
            raise ValueError(f"field_of_view must be 20 to 140 degrees, got {field_of_view}")
        self.seed, self.frames, self.height, self.width, self.supersample = (
            seed,
            frames,
            height,
            width,
            supersample,
        )
        self.device = torch.device(device)
        self.city = build_city(seed if city_seed is None else city_seed, parked=parked)
        self.route = drive_route(self.city, frames, seed, streets=streets, opposite=opposite)
        self.world_from_camera = self.route.world_from_camera
        drawn = float(np.random.default_rng([seed, 6]).uniform(76.0, 84.0))
        angle = drawn if field_of_view is None else field_of_view
        self.focal = width / 2 / float(np.tan(np.radians(angle) / 2))
        self.intrinsics = np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1.0]])
        self._scene = Scene.of(self.city, self.device)
        self._shader = Shader(self.city, self.device, light)

    def seen_by(self, field_of_view: float | None = None, height: int | None = None) -> CityDrive:
        """The same drive with another camera: horizontal field of view in degrees, height of pictures in pixels; None:
        as this one. Raises ValueError as the constructor does."""
        if field_of_view is not None and not 20.0 <= field_of_view <= 140.0:
            raise ValueError(f"field_of_view must be 20 to 140 degrees, got {field_of_view}")
        if height is not None and height < 8:
            raise ValueError(f"images need at least 8 pixels of height, got {height}")
        other = copy.copy(self)
        other.height = self.height if height is None else height
        if field_of_view is not None:
            other.focal = self.width / 2 / float(np.tan(np.radians(field_of_view) / 2))
        middle = self.width / 2, other.height / 2
        other.intrinsics = np.array([[other.focal, 0, middle[0]], [0, other.focal, middle[1]], [0, 0, 1.0]])
        return other

    def render(self, frame_numbers: Sequence[int] | range) -> RenderedFrames:
        """The frames with these numbers, in this order. Raises IndexError for a number outside [0, frames)."""
        numbers = np.asarray(frame_numbers, dtype=np.int64).reshape(-1)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.frames):
            raise IndexError(f"frames {numbers.min()} to {numbers.max()} of a drive of {self.frames}")
        rendered = self.render_poses(self.world_from_camera[numbers])
        return RenderedFrames(
            rendered.images,
            rendered.depth,
            rendered.world_from_camera,
            rendered.intrinsics,
            self.route.timestamps_s[numbers],
        )

    def render_poses(self, world_from_camera: FloatArray) -> RenderedFrames:
        """Images and depth from any poses (n, 4, 4) in the city's world frame. Raises ValueError for other shapes or
        numbers that are not finite."""
        poses = np.asarray(world_from_camera, np.float64)
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not np.isfinite(poses).all():
            raise ValueError(f"expected finite poses (n, 4, 4), got shape {poses.shape}")
        images, depth = self.render_tensors(poses)
        return RenderedFrames(
            images.cpu().numpy(),
            depth.cpu().numpy(),
            poses,
            np.tile(self.intrinsics, (len(poses), 1, 1)),
            None,
        )

    @torch.no_grad()
    def render_tensors(self, world_from_camera: FloatArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 (n, H, W, 3) and depth float32 (n, H, W), as tensors on the drive's device."""
        count = len(world_from_camera)
        images = torch.empty(count, self.height, self.width, 3, dtype=torch.uint8, device=self.device)
        depth = torch.empty(count, self.height, self.width, device=self.device)
        pose = torch.as_tensor(np.asarray(world_from_camera), dtype=torch.float32).to(self.device)
        rays = _RAYS_CPU if self.device.type == "cpu" else _RAYS_GPU
        per_frame = self.width * self.height * self.supersample**2
        step = max(rays // per_frame, 1)
        band = max(min(rays // (self.width * self.supersample**2), self.height), 1)
        for first in range(0, count, step):
            last = min(first + step, count)
            camera = Camera(pose[first:last], self.focal, self.width / 2, self.height / 2, self.height, self.width)
            for top in range(0, self.height, band):
                rows = (top, min(top + band, self.height))
                colour, inverse = self._block(camera, rows)
                images[first:last, rows[0] : rows[1]] = colour
                depth[first:last, rows[0] : rows[1]] = inverse
        return images, depth

    def _block(self, camera: Camera, rows: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and depth of some rows of some frames; all their rays are cast at once."""
        shape = (len(camera.world_from_camera), rows[1] - rows[0], self.width)
        centre = cast_rays(self._scene, camera, rows)
        ray, eye = ray_directions(camera, rows)
        colour = self._shader.colours(ray, eye, self.focal, centre)
        if self.supersample > 1:
            colour = self._smooth_edges(camera, rows, shape, centre, colour)
        # the square root is an approximation of a display's gamma
        image = (torch.sqrt(colour) * 255.0 + 0.5).to(torch.uint8).view(3, *shape).permute(1, 2, 3, 0)
        return image, torch.where(centre.inverse_depth > 0, 1.0 / centre.inverse_depth, 0.0).view(shape)

    def _smooth_edges(
        self,
        camera: Camera,
        rows: tuple[int, int],
        shape: tuple[int, int, int],
        centre: Hits,
        colour: torch.Tensor,
    ) -> torch.Tensor:
        """Mean colour (3, N) of supersample^2 rays per pixel.

        Textures are already filtered over a pixel. Therefore only rays that hit another object than the ray through the
        pixel's centre need a colour of their own; these are a fifth of all.
        """
        s = self.supersample
        fine, fine_rows = camera.supersampled(s), (rows[0] * s, rows[1] * s)
        hits = cast_rays(self._scene, fine, fine_rows)

        def by_pixel(values: torch.Tensor) -> torch.Tensor:
            """(..., fine rays) -> (s * s, ..., pixels)."""
            split = values.view(-1, shape[0], shape[1], s, shape[2], s).permute(3, 5, 0, 1, 2, 4)
            return split.reshape(s * s, -1, shape[0] * shape[1] * shape[2])

        item, inverse = by_pixel(hits.primitive)[:, 0], by_pixel(hits.inverse_depth)[:, 0]
        odd = item != centre.primitive
        every = colour[:, None].repeat(1, s * s, 1).view(3, -1)
        which, pixel = odd.nonzero(as_tuple=True)
        if len(pixel):
            flat = which * item.shape[1] + pixel
            ray, eye = (by_pixel(a).permute(1, 0, 2).reshape(3, -1) for a in ray_directions(fine, fine_rows))
            some = Hits(inverse.view(-1).index_select(0, flat), item.view(-1).index_select(0, flat))
            extra = self._shader.colours(ray.index_select(1, flat), eye.index_select(1, flat), self.focal, some)
            every.index_copy_(1, flat, extra)
        return every.view(3, s * s, -1).mean(1)
