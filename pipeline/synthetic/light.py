"""Sun, sky, haze and shadows of a city."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.synthetic.layout import CityLayout
from pipeline.synthetic.solids import FloatArray
from pipeline.synthetic.texture import NoiseAtlas, blend

_TEXEL = 1.0  # side of a cell of the shadow map, metres


@dataclass(frozen=True)
class Weather:
    """Light of a city. `to_sun` (3,): unit vector towards the sun; `sun`, `ambient`, `zenith`, `horizon` (3,): linear
    RGB of sunlight, skylight and the sky; `haze_metres`: distance at which haze hides 63 %; `clouds`: 0 to 1."""

    to_sun: FloatArray
    sun: FloatArray
    ambient: FloatArray
    zenith: FloatArray
    horizon: FloatArray
    haze_metres: float
    clouds: float
    exposure: float

    @classmethod
    def from_seed(cls, seed: int) -> Weather:
        rng = np.random.default_rng([seed, 4])
        azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(30, 66))
        clear = float(rng.uniform(0.0, 1.0)) ** 0.5
        warm = float(np.clip((np.radians(42) - height) / np.radians(14), 0, 1))
        sun = (0.12 + 1.95 * clear) * np.array([1.0, 0.94 - 0.14 * warm, 0.84 - 0.34 * warm])
        ambient = (0.66 - 0.36 * clear) * np.array([0.92, 0.98, 1.1])
        zenith = np.array([0.10, 0.25, 0.62]) * clear + np.array([0.42, 0.46, 0.52]) * (1 - clear)
        horizon = np.array([0.58, 0.70, 0.82]) * clear + np.array([0.58, 0.60, 0.62]) * (1 - clear)
        horizon = horizon * (1 - 0.6 * warm) + np.array([0.88, 0.66, 0.44]) * 0.6 * warm
        to_sun = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
        return cls(
            to_sun,
            sun,
            ambient,
            zenith,
            horizon,
            float(rng.uniform(200.0, 650.0)),
            float(rng.uniform(0.0, 1.0)),
            float(rng.uniform(0.85, 1.15)),
        )


class Light:
    """The weather of a city as tensors on a device, with a map of the shadows of houses and trees."""

    def __init__(self, city: CityLayout, noise: NoiseAtlas, device: torch.device, seed: int | None = None) -> None:
        self.weather = Weather.from_seed(city.seed if seed is None else seed)
        self.noise = noise

        def column(values: FloatArray) -> Tensor:
            return torch.tensor(values, dtype=torch.float32)[:, None].to(device)

        self.to_sun, self.sun = column(self.weather.to_sun), column(self.weather.sun)
        self.ambient = column(self.weather.ambient)
        self.zenith, self.horizon = column(self.weather.zenith), column(self.weather.horizon)
        origin, self._map = shadow_map(city, self.weather)
        self._origin = (float(origin[0]), float(origin[1]))
        self._map = self._map.to(device)

    def sky(self, ray: Tensor) -> Tensor:
        """Colour (3, N) of the sky in the directions (3, N), unit vectors."""
        up = ray[2].clamp(min=0.0)
        colour = blend(self.horizon, self.zenith, 1.0 - torch.exp(-3.5 * up))
        over = 1.0 / (up + 0.15)
        a, b, foot = ray[0] * over, ray[1] * over, 0.03 * over
        puff = self.noise.sample(a, b, 0.09, foot) + 0.35 * self.noise.sample(a + 3.0, b, 0.03, foot)
        cover = (0.4 * puff + 1.3 * self.weather.clouds - 0.75).clamp(0.0, 0.85) * (up * 7.0).clamp(0.0, 1.0)
        colour = blend(colour, self.horizon * 0.35 + 0.58, cover)
        toward = (ray * self.to_sun).sum(0).clamp(min=0.0)
        return colour + (toward**24 * 0.3) * self.sun

    def reflected(self, up: Tensor) -> Tensor:
        """Colour (3, N) that a window reflects. up (N,): vertical component of the reflected ray."""
        return blend(self.horizon, self.zenith, up.clamp(0.0, 1.0)) * (0.55 + 0.45 * (up * 4.0).clamp(0.0, 1.0))

    def sunlit(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Share of sunlight (N,) that reaches the points (x, y, z), metres."""
        rows, columns = self._map.shape
        i = ((x - self._origin[0]) * (1.0 / _TEXEL) - 0.5).clamp(0.0, rows - 1.001)
        j = ((y - self._origin[1]) * (1.0 / _TEXEL) - 0.5).clamp(0.0, columns - 1.001)
        i0, j0 = torch.floor(i), torch.floor(j)
        a, b = i - i0, j - j0
        flat, base = self._map.view(-1), i0.to(torch.int32) * columns + j0.to(torch.int32)
        near = torch.lerp(flat.index_select(0, base), flat.index_select(0, base + 1), b)
        far = torch.lerp(flat.index_select(0, base + columns), flat.index_select(0, base + (columns + 1)), b)
        return ((z - torch.lerp(near, far, a)) * 0.8 + 0.5).clamp(0.0, 1.0)

    def on(self, normal: Tensor, sunlit: Tensor | float) -> Tensor:
        """Light (3, N) on surfaces with unit normals (3, N): sunlight by its angle, skylight by how much the surface
        faces upwards."""
        facing = (normal * self.to_sun).sum(0).clamp(min=0.0) * sunlit
        return facing * self.sun + self.ambient * (0.75 + 0.25 * normal[2])


def shadow_map(city: CityLayout, weather: Weather) -> tuple[FloatArray, Tensor]:
    """Origin (2,), and a grid (along x, along y) of heights: a point below lies in shadow. Metres."""
    solid = city.solid
    low, high = solid[:, :2].min(0) - 4.0, solid[:, 2:4].max(0) + 4.0
    shape = np.ceil((high - low) / _TEXEL).astype(int)
    height = np.zeros(shape, np.float32)
    first = np.round((solid[:, :2] - low) / _TEXEL).astype(int)
    last = np.maximum(np.round((solid[:, 2:4] - low) / _TEXEL).astype(int), first + 1)
    for (i0, j0), (i1, j1), top in zip(first, last, solid[:, 4], strict=True):
        part = height[i0:i1, j0:j1]
        np.maximum(part, np.float32(top), out=part)
    shadow = np.full(shape, -10.0, np.float32)
    level = float(np.hypot(weather.to_sun[0], weather.to_sun[1]))
    fall = float(weather.to_sun[2]) / level
    for step in np.arange(0.0, min(float(height.max()) / fall, 90.0), 1.5 * _TEXEL):
        i, j = (round(float(c) / level * float(step) / _TEXEL) for c in weather.to_sun[:2])
        here = (slice(max(-i, 0), shape[0] - max(i, 0)), slice(max(-j, 0), shape[1] - max(j, 0)))
        there = (slice(max(i, 0), shape[0] - max(-i, 0)), slice(max(j, 0), shape[1] - max(-j, 0)))
        np.maximum(shadow[here], height[there] - np.float32(step * fall), out=shadow[here])
    shadow[shadow <= 0] = -10.0
    return low, torch.from_numpy(shadow)
