"""Textures of rectangles: facades, cars, signals and plain surfaces, all filtered over a pixel's footprint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.synthetic.light import Light
from pipeline.synthetic.texture import NoiseAtlas, band, blend, cell_hash, stripes

# rows of `Patch.look`, as `Quads.look` numbers its columns
_BASE, _ACCENT = slice(0, 3), slice(3, 6)
_PERIOD_U, _PERIOD_V, _FILL_U, _FILL_V, _STYLE, _SEED = range(6, 12)
_SHOP_HEIGHT = 3.6
_SHOP_WIDTH = 4.0


@dataclass(frozen=True)
class Patch:
    """N points on rectangles of one material: `u`, `v` (N,): metres from the lower left corner; `foot_u`, `foot_v`
    (N,): metres that a pixel covers; `look` (12, N); `extent` (2, N): half lengths; `normal` (3, N); `ray` (3, N): unit
    viewing directions."""

    u: Tensor
    v: Tensor
    foot_u: Tensor
    foot_v: Tensor
    look: Tensor
    extent: Tensor
    normal: Tensor
    ray: Tensor


def _grey(value: float, like: Tensor) -> Tensor:
    return torch.full((3, 1), value, device=like.device)


def _colour(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    return torch.tensor([[red], [green], [blue]], device=like.device)


def facade(p: Patch, noise: NoiseAtlas, light: Light) -> Tensor:
    """A wall with windows (3, N): reflected sky, curtains, frames, sills, lines between floors, shops on the ground
    floor."""
    wall, seed, style = p.look[_BASE], p.look[_SEED], p.look[_STYLE]
    period_u, period_v, fill_u, fill_v = (
        p.look[_PERIOD_U],
        p.look[_PERIOD_V],
        p.look[_FILL_U],
        p.look[_FILL_V],
    )
    across, up = p.u / period_u, (p.v - _SHOP_HEIGHT) / period_v
    wide, tall = p.foot_u / period_u, p.foot_v / period_v
    foot = torch.sqrt(p.foot_u * p.foot_v)
    grain = noise.sample(p.u + seed, p.v + seed * 0.37, 0.07, foot)
    stain = noise.sample(p.u * 0.5 + seed, p.v * 0.2 + 9.0, 0.22, foot)

    start_v = 0.5 - 0.45 * fill_v
    columns = stripes(across, wide, 0.5 - 0.5 * fill_u, fill_u)
    below_roof = p.v < 2 * p.extent[1] - 0.7
    pane_share = columns * stripes(up, tall, start_v, fill_v) * below_roof
    pane_share = pane_share * (1.0 - 0.8 * stripes(across, wide, 0.48, 0.04))
    sill = columns * stripes(up, tall, start_v - 0.07, 0.07)
    pane = _panes(p, light, cell_hash(torch.floor(across), torch.floor(up), seed), (1.4 - wide).clamp(0.0, 1.0))

    brick = stripes(p.v * (1 / 0.3), p.foot_v * (1 / 0.3), 0.0, 0.15) * (style < 0.4)
    floor_line = stripes(up, tall, 0.0, 0.06) * (style > 0.5)
    plaster = (1.0 + 0.13 * grain + 0.16 * stain - 0.3 * brick).clamp(min=0.2) * (1.0 + 0.25 * sill + 0.22 * floor_line)
    colour = blend(wall * plaster, pane, pane_share)
    colour = blend(colour, _shop_fronts(p, grain, stain), (p.v < _SHOP_HEIGHT).float())
    return colour * (0.72 + 0.28 * (p.v * 0.4).clamp(0.0, 1.0))


def _panes(p: Patch, light: Light, lively: Tensor, near: Tensor) -> Tensor:
    """Glass: windows differ in brightness, some have curtains; they reflect more at grazing angles."""
    bright = (lively - 0.5) * near + 0.5
    head_on = (p.ray * p.normal).sum(0)
    mirrored = p.ray[2] - 2 * head_on * p.normal[2]
    graze = 1.0 + head_on
    mirror = 0.06 + 0.6 * (graze * graze) * (graze * graze) + 0.16 * bright
    pane = blend(p.look[_ACCENT] * (0.5 + bright), light.reflected(mirrored), mirror.clamp(0.0, 0.9))
    return blend(pane, _colour(0.52, 0.47, 0.38, pane), (lively > 0.8) * near * 0.7)


def _shop_fronts(p: Patch, grain: Tensor, stain: Tensor) -> Tensor:
    number, seed = torch.floor(p.u * (1 / _SHOP_WIDTH)), p.look[_SEED]
    tint = cell_hash(number, seed, 3.0)
    sign = torch.stack([tint, cell_hash(number, seed, 4.0), cell_hash(number, seed, 6.0)]) * 0.5 + 0.05
    colour = blend(p.look[_BASE] * (0.75 + 0.08 * grain), sign, band(p.v, p.foot_v, 2.8, 3.45) * (tint > 0.3))
    inside = (0.05 + 0.35 * (tint - 0.55).clamp(min=0)) * (1.0 + 0.3 * stain)
    window = stripes(p.u * (1 / _SHOP_WIDTH), p.foot_u * (1 / _SHOP_WIDTH), 0.08, 0.8) * band(p.v, p.foot_v, 0.5, 2.7)
    return blend(colour, inside * _colour(1.1, 1.0, 0.8, inside), window * 0.85)


def plain(p: Patch, noise: NoiseAtlas, light: Light) -> Tensor:
    """One colour with a little grain (3, N)."""
    grain = noise.sample(p.u + p.look[_SEED], p.v, 0.03, torch.sqrt(p.foot_u * p.foot_v))
    return p.look[_BASE] * (1.0 + 0.15 * grain).clamp(min=0.2)


def car_body(p: Patch, noise: NoiseAtlas, light: Light) -> Tensor:
    """Doors and wheels on the long sides, lamps and a number plate on the short ones, windows on vans (3, N)."""
    long, tall = 2 * p.extent[0], 2 * p.extent[1]
    upright = p.normal[2].abs() < 0.5
    flank, end = upright & (long > 3.0), upright & (long <= 3.0)
    dark = _grey(0.012, p.u)
    colour = p.look[_BASE] * (1.0 + 0.35 * (p.v / tall - 0.5).clamp(-0.5, 0.5))
    seam = stripes(p.u / long * 4.0, p.foot_u / long * 4.0, 0.0, 0.025) * (tall - p.v > 0.1)
    skirt = band(p.v, p.foot_v, -1.0, 0.12) * 0.9
    colour = blend(colour, dark, torch.maximum(seam * flank * 0.8, skirt * upright))
    for at in (0.2, 0.8):
        radius = torch.sqrt((p.u - at * long) ** 2 + (p.v - 0.16) ** 2)
        colour = blend(colour, dark, band(radius, p.foot_u, -1.0, 0.36) * flank)
        colour = blend(colour, _grey(0.35, p.u), band(radius, p.foot_u, -1.0, 0.19) * flank)
    middle = (p.u - p.extent[0]).abs() / p.extent[0]
    high, foot = p.v / tall, p.foot_v / tall
    lamp = band(middle, p.foot_u / p.extent[0], 0.62, 0.95) * band(high, foot, 0.55, 0.85)
    # the car's seed determines which end is the rear; the other end has white lamps
    rear = ((p.look[_SEED] % 2.0 - 0.5) * (p.normal[0] + p.normal[1]) > 0).float()
    lamps = blend(_colour(0.8, 0.8, 0.7, p.u), _colour(0.5, 0.02, 0.02, p.u), rear)
    colour = blend(colour, lamps, lamp * end)
    plate = band(middle, p.foot_u / p.extent[0], -1.0, 0.3) * band(p.v, p.foot_v, 0.2, 0.33)
    colour = blend(colour, _grey(0.65, p.u), plate * end)
    panes = torch.where(end, band(middle, p.foot_u, -1.0, 0.85), stripes(p.u / 1.6, p.foot_u / 1.6, 0.06, 0.88))
    panes = panes * band(high, foot, 0.55, 0.86) * ((p.look[_STYLE] > 0.5) & upright)
    return blend(colour, p.look[_ACCENT] + 0.12 * light.horizon, panes)


def car_cabin(p: Patch, noise: NoiseAtlas, light: Light) -> Tensor:
    """Windows on all sides under a painted roof (3, N)."""
    tall, wide = 2 * p.extent[1], 2 * p.extent[0]
    high = p.v / tall
    pane = band(high, p.foot_v / tall, 0.08, 0.86) * band(p.u - 0.07, p.foot_u, 0.0, wide - 0.14)
    post = band(p.u / wide, p.foot_u / wide, 0.47, 0.53) * (wide > 1.75)
    glass = p.look[_ACCENT] + (0.06 + 0.16 * high.clamp(0.0, 1.0)) * light.horizon
    return blend(p.look[_BASE] * 1.1, glass, pane * (1.0 - post) * (p.normal[2].abs() < 0.5))


def signal(p: Patch, noise: NoiseAtlas, light: Light) -> Tensor:
    """Three lamps one above the other (3, N): north and south show one colour, east and west the other."""
    go = ((p.normal[0].abs() > 0.5) == (p.look[_STYLE] > 0.5)).float()
    colour = p.look[_BASE]
    for k, (glow, on) in enumerate(
        (((0.1, 1.0, 0.35), go), ((1.0, 0.6, 0.1), 0.0 * go), ((1.0, 0.08, 0.05), 1.0 - go))
    ):
        disc = torch.sqrt((p.u - p.extent[0]) ** 2 + (p.v - (0.2 + 0.35 * k)) ** 2)
        colour = blend(colour, _colour(*glow, p.u) * (0.06 + 1.5 * on), band(disc, p.foot_u, -1.0, 0.14))
    return colour
