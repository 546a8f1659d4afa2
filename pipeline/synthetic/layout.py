"""A city from a seed: streets, blocks, buildings, parked cars, trees and poles as rectangles and ellipsoids.

World axes: x east, y north, z up, metres; the ground is the plane z = 0. Streets run north-south at `streets_x` and
east-west at `streets_y`; blocks lie between them. Everything solid consists of boxes (up to six rectangles each,
rotated about z by a yaw) and ellipsoids (leaves). They are grouped into objects, so that the renderer can skip a whole
object. The layout uses NumPy only: no torch, no textures, no camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.furnish import CityStyle, furnish_block, furnish_crossings, furnish_street, park
from pipeline.synthetic.solids import Builder, Ellipsoids, FloatArray, IntArray, Quads
from pipeline.synthetic.streets import LANE_WIDTH, PARKING_WIDTH


@dataclass(frozen=True)
class CityLayout:
    """The geometry of one city.

    `streets_x` (A,), `streets_y` (B,): centre lines; `half_x`, `half_y`: half widths of the carriageways; `green`
    (A + 1, B + 1): which blocks are grass. Object o has the quads `quad_start[o]` .. `quad_start[o + 1]` and the
    ellipsoids `leaf_start[o]` .. `leaf_start[o + 1]` (half open), all inside the sphere `sphere[o]` (x, y, z, radius).
    `solid` (S, 5): x0 y0 x1 y1 height of everything that casts a shadow. Metres.
    """

    seed: int
    streets_x: FloatArray
    streets_y: FloatArray
    half_x: FloatArray
    half_y: FloatArray
    pavement: float
    green: NDArray[np.bool_]
    quads: Quads
    leaves: Ellipsoids
    quad_start: IntArray
    leaf_start: IntArray
    sphere: FloatArray
    solid: FloatArray


def build_city(seed: int, extent: int = 7, parked: tuple[float, float, float] | None = None) -> CityLayout:
    """The city of a seed, with `extent` streets in each direction (at least 4). parked: x, y (metres) and heading
    (radians) of one parked car more.

    Equal seeds give equal cities on every machine. Raises ValueError for fewer than four streets: a drive needs a block
    to drive around, and blocks behind it to see.
    """
    if extent < 4:
        raise ValueError(f"a city needs at least 4 streets in each direction, got {extent}")
    rng = np.random.default_rng([seed, 1])
    half_x, half_y = _street_widths(rng, extent), _street_widths(rng, extent)
    streets_x, streets_y = _street_lines(rng, half_x), _street_lines(rng, half_y)
    pavement = float(rng.uniform(2.8, 4.2))
    green = rng.random((extent + 1, extent + 1)) < 0.15
    builder = Builder()
    downtown = (rng.choice(streets_x), rng.choice(streets_y))
    style = CityStyle.draw(rng)
    edges_x = _block_edges(streets_x, half_x, pavement)
    edges_y = _block_edges(streets_y, half_y, pavement)
    for i, (x0, x1) in enumerate(edges_x):
        for j, (y0, y1) in enumerate(edges_y):
            furnish_block(builder, rng, style, (x0, y0, x1, y1), bool(green[i, j]), downtown)
    for vertical in (True, False):
        lines, halves = (streets_x, half_x) if vertical else (streets_y, half_y)
        other, other_half = (streets_y, half_y) if vertical else (streets_x, half_x)
        for line, half in zip(lines, halves, strict=True):
            for k in range(len(other) - 1):
                span = (other[k] + other_half[k], other[k + 1] - other_half[k + 1])
                furnish_street(builder, rng, style, vertical, float(line), float(half), span, pavement)
    furnish_crossings(builder, rng, streets_x, streets_y, half_x, half_y)
    if parked is not None:
        park(builder, np.random.default_rng([seed, 9]), *parked)
    quads, leaves, quad_start, leaf_start, sphere = builder.arrays()
    return CityLayout(
        seed,
        streets_x,
        streets_y,
        half_x,
        half_y,
        pavement,
        green,
        quads,
        leaves,
        quad_start,
        leaf_start,
        sphere,
        np.array(builder.solid, np.float64).reshape(-1, 5),
    )


def _street_widths(rng: np.random.Generator, extent: int) -> FloatArray:
    """Half widths: a street has one lane and parking on each side, an avenue two lanes; avenues are not neighbours."""
    half = np.full(extent, LANE_WIDTH + PARKING_WIDTH)
    first = int(rng.integers(0, 3))
    half[first :: int(rng.integers(3, 5))] += LANE_WIDTH
    return half


def _street_lines(rng: np.random.Generator, half: FloatArray) -> FloatArray:
    """Centre lines at distances for which blocks between pavements are 38 to 80 m deep."""
    block = rng.uniform(38.0, 80.0, len(half) - 1) + 7.0
    gaps = block + half[:-1] + half[1:]
    return np.concatenate([[0.0], np.cumsum(gaps)])


def _block_edges(lines: FloatArray, half: FloatArray, pavement: float) -> list[tuple[float, float]]:
    """Where the blocks along one axis start and end; at both ends of the city there is a row of 40 m."""
    low = np.concatenate([[lines[0] - half[0] - 40.0], lines + half + pavement])
    high = np.concatenate([lines - half - pavement, [lines[-1] + half[-1] + 40.0]])
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
