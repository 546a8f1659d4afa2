"""What colour a ray's first hit has: walls with windows, asphalt with markings, leaves, sky, under one sun with haze.

Colours are computed in linear light and encoded with a square root at the end. Everything random comes from the city's seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.city.layout import LANE_WIDTH, PARKING_WIDTH, CityLayout, Material
from pipeline.city.render import Camera, Hits
from pipeline.city.texture import NoiseAtlas, band, blend, cell_hash, stripes

_SHADOW_TEXEL = 1.0  # metres


@dataclass(frozen=True)
class Weather:
    """Light of one city: direction to the sun (3,), its colour, the sky's light, colours of zenith and horizon, haze."""

    to_sun: tuple[float, float, float]
    sun: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    haze_metres: float
    clouds: float
    exposure: float

    @classmethod
    def from_seed(cls, seed: int) -> Weather:
        rng = np.random.default_rng([seed, 4])
        azimuth, height = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(22, 60))
        clear = float(rng.uniform(0.0, 1.0)) ** 0.7
        warm = float(np.clip((np.radians(42) - height) / np.radians(30), 0, 1))
        sun = (0.25 + 1.15 * clear) * np.array([1.0, 0.93 - 0.12 * warm, 0.82 - 0.3 * warm])
        ambient = (0.62 - 0.26 * clear) * np.array([0.92, 0.98, 1.1])
        blue = np.array([0.12, 0.27, 0.60]) * clear + np.array([0.42, 0.46, 0.52]) * (1 - clear)
        pale = np.array([0.60, 0.68, 0.76]) * clear + np.array([0.58, 0.60, 0.62]) * (1 - clear)
        pale = pale * (1 - warm * 0.5) + np.array([0.85, 0.66, 0.46]) * warm * 0.5

        def triple(values: np.ndarray) -> tuple[float, float, float]:
            return float(values[0]), float(values[1]), float(values[2])

        direction = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
        return cls(
            triple(direction), triple(sun), triple(ambient), triple(blue), triple(pale),
            float(rng.uniform(130.0, 420.0)), float(rng.uniform(0.0, 0.7)), float(rng.uniform(0.85, 1.2)),
        )  # fmt: skip


class Shader:
    """Textures and light of one city on one device; `colours` turns hits into pixels."""

    def __init__(self, city: CityLayout, device: torch.device) -> None:
        self.device = device
        self.noise = NoiseAtlas.from_seed(city.seed, device)
        self.weather = Weather.from_seed(city.seed)

        def real(array: object) -> Tensor:
            return torch.as_tensor(array, dtype=torch.float32).to(device)

        weather = self.weather
        self.to_sun, self.sun, self.ambient = real(weather.to_sun), real(weather.sun), real(weather.ambient)
        self.zenith, self.horizon = real(weather.zenith), real(weather.horizon)
        quads = city.quads
        length_u = np.linalg.norm(quads.half_u, axis=1, keepdims=True)
        length_v = np.linalg.norm(quads.half_v, axis=1, keepdims=True)
        self.quad_count = len(quads.centre)
        self.centre, self.normal = real(quads.centre), real(quads.normal)
        self.unit_u, self.unit_v = real(quads.half_u / length_u), real(quads.half_v / length_v)
        self.extent = real(np.hstack([length_u, length_v]))
        self.look = real(quads.look)
        self.material = torch.as_tensor(quads.material).to(device)
        self.leaf_centre, self.leaf_radii = real(city.leaves.centre), real(city.leaves.radii)
        self.leaf_colour = real(city.leaves.colour)
        self.lines = (real(city.streets_x), real(city.streets_y))
        self.halves = (real(city.half_x), real(city.half_y))
        self.middles = tuple(((line[1:] + line[:-1]) / 2).contiguous() for line in self.lines)
        self.pavement = city.pavement
        self.green = torch.as_tensor(city.green).to(device)
        rng = np.random.default_rng([city.seed, 5])
        self.asphalt = real(rng.uniform(0.055, 0.17) * rng.uniform(0.95, 1.05, 3))
        self.paving = real(rng.uniform(0.22, 0.42) * np.array([1.0, rng.uniform(0.9, 1.0), rng.uniform(0.78, 1.0)]))
        self.tile = float(rng.uniform(0.6, 1.4))
        self.paint = real(np.array([0.72, 0.72, 0.70]) * rng.uniform(0.75, 1.1))
        self.centre_paint = real([[0.72, 0.70, 0.66], [0.70, 0.48, 0.08]][rng.integers(2)])
        self.shadow_origin, self.shadow_height = _shadow_map(city, self.weather)
        self.shadow_height = self.shadow_height.to(device)

    def colours(self, camera: Camera, hits: Hits, rows: tuple[int, int]) -> Tensor:
        """RGB (N, 3) in [0, 1], display encoded, for the hits of `cast_rays` with the same camera and rows."""
        ray, eye = _rays(camera, rows)
        colour = torch.empty(len(ray), 3, device=self.device)
        depth = torch.where(hits.inverse_depth > 0, 1.0 / hits.inverse_depth, 0.0)
        length = torch.linalg.vector_norm(ray, dim=1)
        sky = self._sky(ray / length[:, None])
        spread = length / camera.focal  # metres a pixel covers at depth 1, across the ray
        for kind, paint in ((self._is_ground, self._ground), (self._is_quad, self._quads), (self._is_leaf, self._leaves)):
            index = kind(hits.primitive).nonzero()[:, 0]
            if len(index):
                point = eye[index] + ray[index] * depth[index, None]
                colour[index] = paint(hits.primitive[index], point, ray[index], depth[index] * spread[index])
        haze = torch.exp(depth * length * (-1.0 / self.weather.haze_metres))
        haze = torch.where(hits.primitive == -2, 0.0, haze)
        colour = torch.where(hits.primitive[:, None] == -2, sky, colour)
        # distant things fade into the sky behind them near the horizon, so the edge of the world does not show
        colour = blend(sky, colour, haze)
        return torch.sqrt(torch.clamp(colour * self.weather.exposure, 0.0, 1.0))

    @staticmethod
    def _is_ground(primitive: Tensor) -> Tensor:
        return primitive == -1

    def _is_quad(self, primitive: Tensor) -> Tensor:
        return (primitive >= 0) & (primitive < self.quad_count)

    def _is_leaf(self, primitive: Tensor) -> Tensor:
        return primitive >= self.quad_count

    def _sky(self, ray: Tensor) -> Tensor:
        up = ray[:, 2].clamp(min=0.0)
        colour = blend(self.horizon, self.zenith, 1.0 - torch.exp(-4.0 * up))
        over = 1.0 / (up + 0.12)
        puff = self.noise.sample(ray[:, 0] * over, ray[:, 1] * over, 0.05, 0.02 * over)
        puff = puff + 0.6 * self.noise.sample(ray[:, 0] * over + 3.0, ray[:, 1] * over, 0.017, 0.02 * over)
        cover = torch.clamp(0.35 * puff + self.weather.clouds - 0.25, 0.0, 0.8) * torch.clamp(up * 8.0, 0.0, 1.0)
        colour = blend(colour, self.horizon * 0.3 + 0.62, cover)
        glow = torch.clamp((ray * self.to_sun).sum(1), min=0.0) ** 24
        return colour + (glow * 0.35)[:, None] * self.sun

    def _sunlit(self, point: Tensor, offset: Tensor | None = None) -> Tensor:
        """Share of sunshine (N,) that buildings and trees leave at a point."""
        place = point[:, :2] if offset is None else point[:, :2] + offset
        at = (place - self.shadow_origin.to(place)) * (1.0 / _SHADOW_TEXEL) - 0.5
        rows, columns = self.shadow_height.shape
        whole = torch.floor(at)
        part = at - whole
        i = whole[:, 0].to(torch.int64).clamp(0, rows - 2)
        j = whole[:, 1].to(torch.int64).clamp(0, columns - 2)
        flat, base = self.shadow_height.view(-1), i * columns + j
        a, b = part[:, 0], part[:, 1]
        low = flat[base] * (1 - b) + flat[base + 1] * b
        high = flat[base + columns] * (1 - b) + flat[base + columns + 1] * b
        return torch.clamp((point[:, 2] - (low * (1 - a) + high * a)) * 0.8 + 0.5, 0.0, 1.0)

    def _lit(self, normal: Tensor, sunlit: Tensor) -> Tensor:
        """Light (N, 3) on a surface: sun by its angle, sky by how far the surface looks up."""
        facing = torch.clamp((normal * self.to_sun).sum(1), min=0.0) * sunlit
        return facing[:, None] * self.sun + self.ambient * (0.75 + 0.25 * normal[:, 2:3])

    def _ground(self, _: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        x, y = point[:, 0], point[:, 1]
        # a pixel is `across` metres wide and `deep` metres long on the ground, along the ray's shadow
        level = torch.linalg.vector_norm(ray[:, :2], dim=1)
        deep = across * torch.linalg.vector_norm(ray, dim=1) / (-ray[:, 2]).clamp(min=1e-4)
        cos, sin = (ray[:, 0] / level).abs(), (ray[:, 1] / level).abs()
        foot_x, foot_y = cos * deep + sin * across, sin * deep + cos * across
        foot = torch.sqrt(across * deep)
        side_x, out_x, half_x = self._street(0, x)
        side_y, out_y, half_y = self._street(1, y)
        vertical = out_x < out_y
        side, out_along = torch.where(vertical, side_x, side_y), torch.where(vertical, out_y, out_x)
        half = torch.where(vertical, half_x, half_y)
        foot_side, foot_along = torch.where(vertical, foot_x, foot_y), torch.where(vertical, foot_y, foot_x)
        outside = torch.minimum(out_x, out_y)

        fine = self.noise.sample(x, y, 0.06, foot)
        coarse = self.noise.sample(x + 31.0, y + 17.0, 0.35, foot)
        patch = cell_hash(torch.floor(x * 0.25 + 0.6 * coarse), torch.floor(y * 0.31), 5.0)
        road = self.asphalt * (1.0 + 0.20 * fine + 0.13 * coarse + 0.22 * (patch - 0.5)).clamp(min=0.2)[:, None]
        paint = self._markings(side, out_along, half, torch.where(vertical, y, x), foot_side, foot_along)
        approach = torch.where(vertical, side_x * side_y < 0, side_x * side_y > 0)
        stop = band(out_along, foot_along, 4.6, 5.1) * approach
        worn = torch.clamp(0.85 + 0.14 * fine + 0.15 * coarse, 0.25, 1.0) * (out_along > 0)
        road = blend(road, self.paint, torch.maximum(paint[0], stop) * worn)
        road = blend(road, self.centre_paint, paint[1] * worn)

        joint = torch.maximum(
            stripes(x / self.tile, foot_x / self.tile, 0.0, 0.07), stripes(y / self.tile, foot_y / self.tile, 0.0, 0.07)
        )
        slab = cell_hash(torch.floor(x / self.tile), torch.floor(y / self.tile), 9.0) - 0.5
        slab = slab * torch.clamp(1.5 - foot / self.tile, 0.0, 1.0)
        paving = self.paving * (1.0 + 0.13 * fine + 0.10 * coarse + 0.25 * slab - 0.45 * joint).clamp(min=0.15)[:, None]
        kerb = band(outside, torch.minimum(foot_x, foot_y), 0.0, 0.3)
        paving = blend(paving, self.paving * 1.35, kerb)
        lawn = self._lawn(x, y) & (outside > self.pavement)
        grass = torch.tensor([0.10, 0.19, 0.045], device=self.device)
        grass = grass * (1.0 + 0.35 * fine + 0.25 * coarse).clamp(min=0.2)[:, None]
        colour = torch.where(lawn[:, None], grass, paving)
        on_road = torch.clamp(0.5 - outside / torch.minimum(foot_x, foot_y), 0.0, 1.0)
        gutter = band(outside, torch.minimum(foot_x, foot_y), -0.25, 0.0)
        colour = blend(colour, road * (1.0 - 0.4 * gutter)[:, None], on_road)
        up = torch.tensor([[0.0, 0.0, 1.0]], device=self.device).expand(len(x), 3)
        return colour * self._lit(up, self._sunlit(point))

    def _street(self, axis: int, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signed distance (N,) from the nearest street's middle, distance outside its carriageway, its half width."""
        nearest = torch.bucketize(place.contiguous(), self.middles[axis])
        side = place - self.lines[axis][nearest]
        half = self.halves[axis][nearest]
        return side, side.abs() - half, half

    def _lawn(self, x: Tensor, y: Tensor) -> Tensor:
        return self.green[torch.bucketize(x.contiguous(), self.lines[0]), torch.bucketize(y.contiguous(), self.lines[1])]

    def _markings(
        self, side: Tensor, out_along: Tensor, half: Tensor, along: Tensor, foot_side: Tensor, foot_along: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Coverage (N,) of white and of centre-line paint."""
        away = side.abs()
        avenue = half > LANE_WIDTH + PARKING_WIDTH + 0.5
        clear = out_along > 5.1
        dashes = stripes(along / 6.0, foot_along / 6.0, 0.0, 0.5)
        divider = band(away, foot_side, LANE_WIDTH - 0.07, LANE_WIDTH + 0.07) * dashes * avenue
        parking = band(half - away, foot_side, PARKING_WIDTH - 0.06, PARKING_WIDTH + 0.06)
        zebra = stripes(side, foot_side, 0.25, 0.5) * band(out_along, foot_along, 0.8, 3.6)
        white = torch.maximum(torch.maximum(divider, parking) * clear, zebra)
        middle = band(away, foot_side, -1.0, 0.08) * 2.0 * dashes
        double = band(away, foot_side, 0.08, 0.22)
        return white, torch.where(avenue, double, middle.clamp(max=1.0)) * clear

    def _leaves(self, primitive: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        leaf = primitive - self.quad_count
        away = (point - self.leaf_centre[leaf]) / self.leaf_radii[leaf]
        normal = torch.nn.functional.normalize(away / self.leaf_radii[leaf], dim=1)
        turn = point[:, 0] + 0.6 * point[:, 1]
        bunch = self.noise.sample(turn, point[:, 2] + 0.4 * point[:, 1], 0.09, across)
        leaves = self.noise.sample(point[:, 1] - 0.5 * turn, point[:, 2], 0.035, across)
        dapple = (1.0 + 0.38 * bunch + 0.22 * leaves).clamp(min=0.15)
        shade = torch.clamp(0.75 + 0.35 * away[:, 2], 0.3, 1.1)
        light = self._lit(normal, torch.ones_like(across))
        return self.leaf_colour[leaf] * (dapple * shade)[:, None] * light * 1.25

    def _quads(self, quad: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        offset = point - self.centre[quad]
        normal, extent, look = self.normal[quad], self.extent[quad], self.look[quad]
        u = (offset * self.unit_u[quad]).sum(1) + extent[:, 0]  # metres from the lower left corner
        v = (offset * self.unit_v[quad]).sum(1) + extent[:, 1]
        # one pixel reaches further along u where the wall is seen from the side
        facing = (ray * normal).sum(1).abs() / torch.linalg.vector_norm(ray, dim=1)
        foot_u = across / facing.clamp(min=0.05)
        material = self.material[quad]
        colour = torch.empty(len(quad), 3, device=self.device)
        for kind, paint in (
            (Material.FACADE, self._facade), (Material.PLAIN, self._plain), (Material.CAR_BODY, self._car_body),
            (Material.CAR_CABIN, self._car_cabin), (Material.SIGNAL, self._signal),
        ):  # fmt: skip
            index = (material == int(kind)).nonzero()[:, 0]
            if len(index):
                colour[index] = paint(
                    u[index], v[index], foot_u[index], across[index], look[index], extent[index], normal[index], ray[index]
                )
        return colour * self._lit(normal, self._sunlit(point, normal[:, :2] * 1.3))

    def _facade(
        self, u: Tensor, v: Tensor, foot_u: Tensor, foot_v: Tensor, look: Tensor, extent: Tensor, normal: Tensor, ray: Tensor
    ) -> Tensor:
        """A wall of windows: reflections, blinds, frames, sills, floors' lines, shops in the ground floor."""
        wall, glass, seed, style = look[:, 0:3], look[:, 3:6], look[:, 11], look[:, 10]
        period_u, period_v, fill_u, fill_v = look[:, 6], look[:, 7], look[:, 8], look[:, 9]
        foot = torch.sqrt(foot_u * foot_v)
        grain = self.noise.sample(u + seed, v + seed * 0.37, 0.07, foot)
        stain = self.noise.sample(u * 0.5 + seed, v * 0.2 + 9.0, 0.22, foot)
        shop = v < 3.6
        cell_u, cell_v = torch.floor(u / period_u), torch.floor((v - 3.6) / period_v)
        across = u / period_u
        up = (v - 3.6) / period_v
        start_v = 0.5 - 0.45 * fill_v
        inside_u = stripes(across, foot_u / period_u, 0.5 - 0.5 * fill_u, fill_u)
        window = inside_u * stripes(up, foot_v / period_v, start_v, fill_v)
        sill = inside_u * stripes(up, foot_v / period_v, start_v - 0.07, 0.07)
        mullion = stripes(across, foot_u / period_u, 0.48, 0.04)
        window = window * (1.0 - 0.8 * mullion)
        window = window * (v < 2 * extent[:, 1] - 0.7)
        lively = cell_hash(cell_u, cell_v, seed)
        near = torch.clamp(1.4 - foot_u / period_u, 0.0, 1.0)
        bright = (lively - 0.5) * near + 0.5
        view = torch.nn.functional.normalize(ray, dim=1)
        mirrored = view - 2 * (view * normal).sum(1, keepdim=True) * normal
        graze = 1.0 - (view * normal).sum(1).abs()
        mirror = 0.12 + 0.6 * graze**3 * graze + 0.2 * bright
        pane = glass * (0.5 + bright)[:, None]
        pane = blend(pane, blend(self.horizon, self.zenith, mirrored[:, 2].clamp(0, 1)) * 0.8, mirror.clamp(0, 0.9))
        curtain = (lively > 0.8).float() * near
        pane = blend(pane, torch.tensor([0.52, 0.47, 0.38], device=self.device), curtain * 0.7)

        brick = stripes(v / 0.3, foot_v / 0.3, 0.0, 0.15) * (style < 0.4)
        colour = wall * (1.0 + 0.11 * grain + 0.13 * stain - 0.3 * brick).clamp(min=0.2)[:, None]
        floor_line = stripes(up, foot_v / period_v, 0.0, 0.06) * (style > 0.5)
        colour = colour * (1.0 + 0.25 * sill + 0.22 * floor_line)[:, None]
        colour = blend(colour, pane, window)

        front = stripes(u / 4.0, foot_u / 4.0, 0.08, 0.8) * band(v, foot_v, 0.5, 2.7)
        number = torch.floor(u / 4.0)
        tint = cell_hash(number, seed, 3.0)
        sign = torch.stack([tint, cell_hash(number, seed, 4.0), cell_hash(number, seed, 6.0)], 1) * 0.5 + 0.05
        ground = blend(wall * (0.75 + 0.08 * grain)[:, None], sign, band(v, foot_v, 2.8, 3.45) * (tint > 0.3))
        inside = (0.05 + 0.35 * (tint - 0.55).clamp(min=0)) * (1.0 + 0.3 * stain)
        lit = inside[:, None] * torch.tensor([1.1, 1.0, 0.8], device=self.device)
        ground = blend(ground, lit, front * 0.85)
        colour = torch.where(shop[:, None], ground, colour)
        return colour * (0.72 + 0.28 * torch.clamp(v / 2.5, 0.0, 1.0))[:, None]

    def _plain(
        self, u: Tensor, v: Tensor, foot_u: Tensor, foot_v: Tensor, look: Tensor, extent: Tensor, normal: Tensor, ray: Tensor
    ) -> Tensor:
        grain = self.noise.sample(u + look[:, 11], v, 0.03, torch.sqrt(foot_u * foot_v))
        return look[:, 0:3] * (1.0 + 0.15 * grain).clamp(min=0.2)[:, None]

    def _car_body(
        self, u: Tensor, v: Tensor, foot_u: Tensor, foot_v: Tensor, look: Tensor, extent: Tensor, normal: Tensor, ray: Tensor
    ) -> Tensor:
        """Doors and wheels on the long sides, lamps and a number plate on the short ones, panes on vans."""
        paint, long, tall = look[:, 0:3], 2 * extent[:, 0], 2 * extent[:, 1]
        flank = (normal[:, 2].abs() < 0.5) & (long > 3.0)
        end = (normal[:, 2].abs() < 0.5) & ~flank
        colour = paint * (1.0 + 0.35 * torch.clamp(v / tall - 0.5, -0.5, 0.5))[:, None]
        dark = torch.tensor([0.012, 0.012, 0.014], device=self.device)
        seam = stripes(u / long * 4.0, foot_u / long * 4.0, 0.0, 0.025) * (tall - v > 0.1)
        colour = blend(colour, dark, seam * flank * 0.8)
        colour = blend(colour, dark, band(v, foot_v, -1.0, 0.12) * 0.9 * (flank | end))
        for at in (0.2, 0.8):
            round_ = torch.sqrt((u - at * long) ** 2 + (v - 0.16) ** 2)
            colour = blend(colour, dark, band(round_, foot_u, -1.0, 0.36) * flank)
            colour = blend(colour, torch.full_like(dark, 0.35), band(round_, foot_u, -1.0, 0.19) * flank)
        middle = (u - extent[:, 0]).abs()
        lamp = band(middle, foot_u, 0.62 * extent[:, 0], 0.95 * extent[:, 0]) * band(v / tall, foot_v / tall, 0.55, 0.85)
        rear = ((look[:, 11] * 0.5 + normal[:, 0] + normal[:, 1]) % 1.0 < 0.5)[:, None]
        lamps = torch.where(rear, torch.tensor([0.5, 0.02, 0.02]).to(colour), torch.tensor([0.8, 0.8, 0.7]).to(colour))
        colour = blend(colour, lamps, lamp * end)
        plate = band(middle, foot_u, -1.0, 0.27) * band(v, foot_v, 0.2, 0.33)
        colour = blend(colour, torch.full_like(dark, 0.65), plate * end)
        pane = band(v / tall, foot_v / tall, 0.55, 0.86) * (look[:, 10] > 0.5)
        pane = pane * torch.where(end, band(middle, foot_u, -1.0, 0.85), stripes(u / 1.6, foot_u / 1.6, 0.06, 0.88))
        return blend(colour, look[:, 3:6] + 0.12 * self.horizon, pane * (normal[:, 2].abs() < 0.5))

    def _car_cabin(
        self, u: Tensor, v: Tensor, foot_u: Tensor, foot_v: Tensor, look: Tensor, extent: Tensor, normal: Tensor, ray: Tensor
    ) -> Tensor:
        """Panes all round under a painted roof."""
        tall, wide = 2 * extent[:, 1], 2 * extent[:, 0]
        side = normal[:, 2].abs() < 0.5
        pane = band(v / tall, foot_v / tall, 0.08, 0.86) * band(u, foot_u, 0.07, wide - 0.07)
        post = band(u / wide, foot_u / wide, 0.47, 0.53) * (wide > 1.75)
        glass = look[:, 3:6] + (0.06 + 0.16 * torch.clamp(v / tall, 0, 1))[:, None] * self.horizon
        return blend(look[:, 0:3] * 1.1, glass, pane * (1.0 - post) * side)

    def _signal(
        self, u: Tensor, v: Tensor, foot_u: Tensor, foot_v: Tensor, look: Tensor, extent: Tensor, normal: Tensor, ray: Tensor
    ) -> Tensor:
        """Three lamps one above the other; which one glows depends on the side, as it does at a crossing."""
        colour = look[:, 0:3]
        # north and south have one colour, east and west the other
        go = (normal[:, 0].abs() > 0.5) == (look[:, 10] > 0.5)
        for k, (glow, on) in enumerate((((0.1, 1.0, 0.35), go), ((1.0, 0.6, 0.1), None), ((1.0, 0.08, 0.05), ~go))):
            disc = torch.sqrt((u - extent[:, 0]) ** 2 + (v - (0.2 + 0.35 * k)) ** 2)
            share = band(disc, foot_u, -1.0, 0.14)
            strength = 0.06 if on is None else torch.where(on, 1.6, 0.06)[:, None]
            colour = blend(colour, torch.tensor(glow, device=self.device) * strength, share)
        return colour


def _rays(camera: Camera, rows: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """World directions (N, 3) with z-depth 1 and eyes (N, 3) of all rays, in the order of `Hits`."""
    pose = camera.world_from_camera
    x = (torch.arange(camera.width, device=pose.device) + 0.5 - camera.cx) / camera.focal
    y = (torch.arange(rows[0], rows[1], device=pose.device) + 0.5 - camera.cy) / camera.focal
    ray = pose[:, None, None, :3, 0] * x[:, None] + (
        pose[:, None, None, :3, 1] * y[:, None, None] + pose[:, None, None, :3, 2]
    )
    eye = pose[:, None, None, :3, 3].expand_as(ray)
    return ray.reshape(-1, 3), eye.reshape(-1, 3)


def _shadow_map(city: CityLayout, weather: Weather) -> tuple[Tensor, Tensor]:
    """Origin (2,) and grid (rows along x, columns along y): below which height a point lies in shadow, metres."""
    solid = city.solid
    low, high = solid[:, :2].min(0) - 4.0, solid[:, 2:4].max(0) + 4.0
    shape = np.ceil((high - low) / _SHADOW_TEXEL).astype(int)
    height = np.zeros(shape, np.float32)
    first = np.round((solid[:, :2] - low) / _SHADOW_TEXEL).astype(int)
    last = np.maximum(np.round((solid[:, 2:4] - low) / _SHADOW_TEXEL).astype(int), first + 1)
    for (i0, j0), (i1, j1), top in zip(first, last, solid[:, 4], strict=True):
        np.maximum(height[i0:i1, j0:j1], top, out=height[i0:i1, j0:j1])
    shadow = np.full(shape, -10.0, np.float32)
    away = np.array(weather.to_sun[:2]) / np.hypot(*weather.to_sun[:2])
    fall = weather.to_sun[2] / np.hypot(*weather.to_sun[:2])
    for step in np.arange(0.0, min(float(height.max()) / fall, 90.0), 1.2):
        i, j = np.round(away * step / _SHADOW_TEXEL).astype(int)
        here = (slice(max(-i, 0), shape[0] - max(i, 0)), slice(max(-j, 0), shape[1] - max(j, 0)))
        there = (slice(max(i, 0), shape[0] - max(-i, 0)), slice(max(j, 0), shape[1] - max(-j, 0)))
        np.maximum(shadow[here], height[there] - np.float32(step * fall), out=shadow[here])
    shadow[shadow <= 0] = -10.0
    return torch.tensor(low, dtype=torch.float32), torch.from_numpy(shadow)
