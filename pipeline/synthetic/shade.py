"""The colour of every ray's first hit: ground with markings, leaves, walls or sky, with sunlight and haze.

Colours are linear, components first (3, N); the caller takes their square root at the end. Everything random comes from
the city's seed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.synthetic import walls
from pipeline.synthetic.layout import CityLayout
from pipeline.synthetic.light import Light
from pipeline.synthetic.render import Hits
from pipeline.synthetic.solids import FloatArray, Material
from pipeline.synthetic.streets import LANE_WIDTH, PARKING_WIDTH
from pipeline.synthetic.texture import NoiseAtlas, band, blend, cell_hash, stripes

_WALLS = {
    Material.FACADE: walls.facade,
    Material.PLAIN: walls.plain,
    Material.CAR_BODY: walls.car_body,
    Material.CAR_CABIN: walls.car_cabin,
    Material.SIGNAL: walls.signal,
}
_DOUBLE = 0.22  # outer edge of a double centre line, metres from the middle


class Shader:
    """Textures and light of a city on one device; `colours` computes the colours of hits."""

    def __init__(self, city: CityLayout, device: torch.device, light: int | None = None) -> None:
        self.device = device
        self.noise = NoiseAtlas.from_seed(city.seed, device)
        self.light = Light(city, self.noise, device, light)

        def real(array: FloatArray) -> Tensor:
            return torch.tensor(array, dtype=torch.float32).contiguous().to(device)

        quads, leaves = city.quads, city.leaves
        length_u = np.linalg.norm(quads.half_u, axis=1, keepdims=True)
        length_v = np.linalg.norm(quads.half_v, axis=1, keepdims=True)
        self.quad_count = len(quads.centre)
        # rows: centre 3, unit u 3, unit v 3, normal 3, extent 2
        frame = [
            quads.centre,
            quads.half_u / length_u,
            quads.half_v / length_v,
            quads.normal,
            length_u,
            length_v,
        ]
        self.frame, self.look = real(np.hstack(frame).T), real(quads.look.T)
        self.material = torch.tensor(quads.material, dtype=torch.int32).to(device)
        self.leaf = real(np.hstack([leaves.centre, 1.0 / leaves.radii, leaves.colour]).T)
        self.lines, self.halves = (
            (real(city.streets_x), real(city.streets_y)),
            (real(city.half_x), real(city.half_y)),
        )
        self.middles = tuple(((line[1:] + line[:-1]) / 2).contiguous() for line in self.lines)
        self.pavement = city.pavement
        self.green = torch.tensor(city.green).to(device)
        self.up = real(np.array([[0.0], [0.0], [1.0]]))
        rng = np.random.default_rng([city.seed, 5])
        self.asphalt = real(rng.uniform(0.09, 0.21) * rng.uniform(0.95, 1.05, 3))[:, None]
        self.paving = real(rng.uniform(0.26, 0.46) * np.array([1.0, rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0)]))
        self.paving = self.paving[:, None]
        self.tile = float(rng.uniform(0.6, 1.4))
        self.paint = real(np.array([0.78, 0.78, 0.76]) * rng.uniform(0.75, 1.1))[:, None]
        self.centre_paint = real(np.array([[0.75, 0.74, 0.70], [0.72, 0.46, 0.07]])[rng.integers(2)])[:, None]
        self.grass = real(np.array([0.12, 0.22, 0.05]) * rng.uniform(0.8, 1.2, 3))[:, None]

    def colours(self, ray: Tensor, eye: Tensor, focal: float, hits: Hits) -> Tensor:
        """Linear RGB (3, N) of hits along `ray` (3, N), which have z-depth 1, from `eye` (3, N), filtered over a pixel;
        focal: in pixels."""
        item = hits.primitive
        colour = torch.empty_like(ray)
        depth = 1.0 / hits.inverse_depth.clamp(min=1e-6)
        length = torch.sqrt((ray * ray).sum(0))
        ray = ray / length
        distance = depth * length
        for painted, mask in (
            (self._ground, item == -1),
            (self._quads, (item >= 0) & (item < self.quad_count)),
            (self._leaves, item >= self.quad_count),
        ):
            index = mask.nonzero()[:, 0]
            if not len(index):
                continue
            view, away = ray.index_select(1, index), distance.index_select(0, index)
            # metres that a pixel covers across the ray
            across = away * length.index_select(0, index) * (1.0 / focal)
            surface = painted(item.index_select(0, index), eye.index_select(1, index) + view * away, view, across)
            seen = torch.exp(away * (-1.0 / self.light.weather.haze_metres))
            colour.index_copy_(1, index, blend(self.light.horizon, surface, seen))
        index = (item == -2).nonzero()[:, 0]
        if len(index):
            colour.index_copy_(1, index, self.light.sky(ray.index_select(1, index)))
        return (colour * self.light.weather.exposure).clamp(0.0, 1.0)

    def _ground(self, _: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        x, y = point[0], point[1]
        # a pixel is `across` metres wide and `deep` metres long on the ground, along the ray's shadow
        deep = across / (-ray[2]).clamp(min=1e-3)
        level = torch.sqrt(ray[0] * ray[0] + ray[1] * ray[1])
        cos, sin = (ray[0] / level).abs(), (ray[1] / level).abs()
        foot_x, foot_y = cos * deep + sin * across, sin * deep + cos * across
        foot, sharp = torch.sqrt(across * deep), torch.minimum(foot_x, foot_y)
        side_x, out_x, half_x = self._street(0, x)
        side_y, out_y, half_y = self._street(1, y)
        outside = torch.minimum(out_x, out_y)
        fine = self.noise.sample(x, y, 0.06, foot)
        coarse = self.noise.sample(x + 31.0, y + 17.0, 0.35, foot)

        vertical = out_x < out_y
        side, out_along = torch.where(vertical, side_x, side_y), torch.where(vertical, out_y, out_x)
        half, along = torch.where(vertical, half_x, half_y), torch.where(vertical, y, x)
        foot_side, foot_along = torch.where(vertical, foot_x, foot_y), torch.where(vertical, foot_y, foot_x)
        approach = (side_x * side_y < 0) == vertical
        patch = cell_hash(torch.floor(x * 0.25 + 0.6 * coarse), torch.floor(y * 0.31), 5.0)
        gutter = band(outside, sharp, -0.25, 0.0)
        mottle = (1.0 + 0.17 * fine + 0.09 * coarse + 0.22 * (patch - 0.5)).clamp(min=0.2) * (1.0 - 0.4 * gutter)
        white, middle = _markings(side, out_along, half, along, foot_side, foot_along, approach)
        worn = (0.85 + 0.14 * fine + 0.15 * coarse).clamp(0.25, 1.0) * (out_along > 0)
        road = blend(self.asphalt * mottle, self.paint, white * worn)
        road = blend(road, self.centre_paint, middle * worn)

        colour = torch.where(
            self._lawn(x, y, outside), self._grass(fine, coarse), self._paving(x, y, foot_x, foot_y, fine)
        )
        colour = blend(colour, self.paving * 1.35, band(outside, sharp, 0.0, 0.3))
        colour = blend(colour, road, (0.5 - outside / sharp).clamp(0.0, 1.0))
        return colour * self.light.on(self.up, self.light.sunlit(x, y, point[2]))

    def _street(self, axis: int, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Signed distance (N,) from the nearest street's centre line, distance outside its carriageway, and its half
        width."""
        nearest = torch.bucketize(place.contiguous(), self.middles[axis])
        side = place - self.lines[axis].index_select(0, nearest)
        half = self.halves[axis].index_select(0, nearest)
        return side, side.abs() - half, half

    def _lawn(self, x: Tensor, y: Tensor, outside: Tensor) -> Tensor:
        i = torch.bucketize(x.contiguous(), self.lines[0])
        j = torch.bucketize(y.contiguous(), self.lines[1])
        return self.green.view(-1).index_select(0, i * self.green.shape[1] + j) & (outside > self.pavement)

    def _grass(self, fine: Tensor, coarse: Tensor) -> Tensor:
        return self.grass * (1.0 + 0.35 * fine + 0.25 * coarse).clamp(min=0.2)

    def _paving(self, x: Tensor, y: Tensor, foot_x: Tensor, foot_y: Tensor, fine: Tensor) -> Tensor:
        """Slabs of slightly different brightness with joints between them."""
        per = 1.0 / self.tile
        x, y, foot_x, foot_y = x * per, y * per, foot_x * per, foot_y * per
        joint = torch.maximum(stripes(x, foot_x, 0.0, 0.07), stripes(y, foot_y, 0.0, 0.07))
        slab = (cell_hash(torch.floor(x), torch.floor(y), 9.0) - 0.5) * (1.5 - torch.minimum(foot_x, foot_y)).clamp(
            0.0, 1.0
        )
        return self.paving * (1.0 + 0.15 * fine + 0.28 * slab - 0.45 * joint).clamp(min=0.15)

    def _leaves(self, item: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        row = self.leaf.index_select(1, item - self.quad_count)
        away = (point - row[0:3]) * row[3:6]
        normal = torch.nn.functional.normalize(away * row[3:6], dim=0)
        turn = point[0] + 0.6 * point[1]
        bunch = self.noise.sample(turn, point[2] + 0.4 * point[1], 0.09, across)
        leaves = self.noise.sample(point[1] - 0.5 * turn, point[2], 0.035, across)
        dapple = (1.0 + 0.38 * bunch + 0.22 * leaves).clamp(min=0.15) * (0.9 + 0.4 * away[2]).clamp(0.35, 1.25)
        return row[6:9] * dapple * self.light.on(normal, 1.0)

    def _quads(self, quad: Tensor, point: Tensor, ray: Tensor, across: Tensor) -> Tensor:
        row = self.frame.index_select(1, quad)
        away, normal, extent = point - row[0:3], row[9:12], row[12:14]
        u, v = (away * row[3:6]).sum(0) + extent[0], (away * row[6:9]).sum(0) + extent[1]
        # one pixel reaches further along u where the wall is seen from the side
        foot_u = across / (ray * normal).sum(0).abs().clamp(min=0.05)
        material = self.material.index_select(0, quad)
        colour = torch.empty_like(point)
        for kind, paint in _WALLS.items():
            index = (material == int(kind)).nonzero()[:, 0]
            if not len(index):
                continue
            patch = walls.Patch(
                u=u.index_select(0, index),
                v=v.index_select(0, index),
                foot_u=foot_u.index_select(0, index),
                foot_v=across.index_select(0, index),
                look=self.look.index_select(1, quad.index_select(0, index)),
                extent=extent.index_select(1, index),
                normal=normal.index_select(1, index),
                ray=ray.index_select(1, index),
            )
            colour.index_copy_(1, index, paint(patch, self.noise, self.light))
        # 1.3 m away from the wall, so that a house does not shade itself
        lit = self.light.sunlit(point[0] + 1.3 * normal[0], point[1] + 1.3 * normal[1], point[2])
        return colour * self.light.on(normal, lit)


def _markings(
    side: Tensor,
    out_along: Tensor,
    half: Tensor,
    along: Tensor,
    foot_side: Tensor,
    foot_along: Tensor,
    approach: Tensor,
) -> tuple[Tensor, Tensor]:
    """Coverage (N,) by white paint, and by the paint of the centre line."""
    away = side.abs()
    avenue = half > LANE_WIDTH + PARKING_WIDTH + 0.5
    clear = out_along > 5.1
    dashes = stripes(along * (1 / 6), foot_along * (1 / 6), 0.0, 0.5)
    divider = band(away, foot_side, LANE_WIDTH - 0.07, LANE_WIDTH + 0.07) * dashes * avenue
    parking = band(half - away, foot_side, PARKING_WIDTH - 0.06, PARKING_WIDTH + 0.06)
    zebra = stripes(side, foot_side, 0.25, 0.5) * band(out_along, foot_along, 0.8, 3.6)
    stop = band(out_along, foot_along, 4.6, 5.1) * approach
    white = torch.maximum(torch.maximum(torch.maximum(divider, parking) * clear, zebra), stop)
    single = band(side, foot_side, -0.08, 0.08) * dashes
    double = band(away, foot_side, 0.08, _DOUBLE)
    return white, torch.where(avenue, double, single) * clear
