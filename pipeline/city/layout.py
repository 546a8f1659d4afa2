"""A city from a seed: streets, blocks, buildings, parked cars, trees and poles as rectangles and ellipsoids.

World axes: x east, y north, z up, metres; the ground is the plane z = 0. Streets run north-south at `streets_x`
and east-west at `streets_y`; between them lie blocks. Everything solid is a set of boxes (five or six rectangles
each, turned about z by a yaw) and ellipsoids (leaves), gathered in objects so that a renderer can throw away an
object at once. The layout is plain NumPy: no torch, no textures, no camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Colour = tuple[float, float, float]

LANE_WIDTH = 3.25
PARKING_WIDTH = 2.2
CROSSING_CLEARANCE = 9.0  # no parked car, tree or lamp nearer than this to a crossing: turning cars need the room


class Material(IntEnum):
    """What a rectangle is made of; the renderer has one texture function for each."""

    FACADE = 0
    PLAIN = 1
    CAR_BODY = 2
    CAR_CABIN = 3
    SIGNAL = 4


@dataclass(frozen=True)
class Look:
    """How a box is painted: two colours (linear 0..1) and the pattern's period, fill and style."""

    material: Material
    base: Colour
    accent: Colour = (0.1, 0.1, 0.12)
    period_u: float = 1.0
    period_v: float = 1.0
    fill_u: float = 0.5
    fill_v: float = 0.5
    style: float = 0.0
    seed: float = 0.0


@dataclass(frozen=True)
class Quads:
    """Rectangles: `centre` (Q, 3), half edges `half_u`, `half_v` (Q, 3), unit outward `normal` (Q, 3), `material` (Q,)
    and `look` (Q, 12): base rgb, accent rgb, period u v, fill u v, style, seed."""

    centre: FloatArray
    half_u: FloatArray
    half_v: FloatArray
    normal: FloatArray
    material: IntArray
    look: FloatArray


@dataclass(frozen=True)
class Ellipsoids:
    """Leaves: `centre` (E, 3), `radii` (E, 3) along the world axes, `colour` (E, 3)."""

    centre: FloatArray
    radii: FloatArray
    colour: FloatArray


@dataclass(frozen=True)
class CityLayout:
    """The geometry of one city.

    `streets_x` (A,), `streets_y` (B,) are centre lines, `half_x`, `half_y` half widths of the carriageways,
    `green` (A + 1, B + 1) says which blocks are grass. Object o has the quads `quad_start[o]` .. `quad_start[o + 1]`
    and the ellipsoids `leaf_start[o]` .. `leaf_start[o + 1]` inside the sphere `sphere[o]` (x, y, z, radius).
    `solid` (S, 5) lists x0 y0 x1 y1 height of what throws shadows.
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


class _Builder:
    """Collects boxes and leaves object by object, then turns them into arrays at once."""

    def __init__(self) -> None:
        self.boxes: list[tuple[float, ...]] = []
        self.looks: list[Look] = []
        self.box_object: list[int] = []
        self.leaves: list[tuple[float, ...]] = []
        self.leaf_object: list[int] = []
        self.solid: list[tuple[float, ...]] = []
        self.count = 0

    def new_object(self) -> None:
        self.count += 1

    def box(
        self, x: float, y: float, z: float, size: tuple[float, float, float], look: Look, yaw: float = 0.0
    ) -> None:
        """A box standing on height z with its middle over (x, y)."""
        self.boxes.append((x, y, z, size[0] / 2, size[1] / 2, size[2] / 2, yaw))
        self.looks.append(look)
        self.box_object.append(self.count - 1)

    def leaf(self, x: float, y: float, z: float, radii: tuple[float, float, float], colour: Colour) -> None:
        self.leaves.append((x, y, z, *radii, *colour))
        self.leaf_object.append(self.count - 1)

    def arrays(self) -> tuple[Quads, Ellipsoids, IntArray, IntArray, FloatArray]:
        boxes = np.array(self.boxes, np.float64).reshape(-1, 7)
        looks = np.array(
            [
                (*k.base, *k.accent, k.period_u, k.period_v, k.fill_u, k.fill_v, k.style, k.seed)
                for k in self.looks
            ],
            np.float64,
        ).reshape(-1, 12)
        material = np.array([int(k.material) for k in self.looks], np.int64)
        leaves = np.array(self.leaves, np.float64).reshape(-1, 9)
        box_object = np.array(self.box_object, np.int64)
        leaf_object = np.array(self.leaf_object, np.int64)

        quads, quad_object = _box_faces(boxes, looks, material, box_object)
        quad_start = np.searchsorted(quad_object, np.arange(self.count + 1))
        leaf_start = np.searchsorted(leaf_object, np.arange(self.count + 1))
        sphere = _bounding_spheres(self.count, boxes, box_object, leaves, leaf_object)
        return (
            quads,
            Ellipsoids(leaves[:, :3], leaves[:, 3:6], leaves[:, 6:9]),
            quad_start,
            leaf_start,
            sphere,
        )


def _box_faces(
    boxes: FloatArray, looks: FloatArray, material: IntArray, box_object: IntArray
) -> tuple[Quads, IntArray]:
    """Four walls of every box, its top where a camera at eye height could see it, its bottom where it hangs."""
    count = len(boxes)
    middle = boxes[:, :3] + np.stack([0 * boxes[:, 5], 0 * boxes[:, 5], boxes[:, 5]], 1)
    cos, sin, zero = np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(count)
    along = np.stack([cos, sin, zero], 1)
    across = np.stack([-sin, cos, zero], 1)
    up = np.tile([0.0, 0.0, 1.0], (count, 1))
    ha, hc, hz = boxes[:, 3:4], boxes[:, 4:5], boxes[:, 5:6]
    # (normal, distance, u axis and half length, v axis and half length); u runs so that u x v = normal
    faces = [
        (along, ha, across, hc, up, hz),
        (across, hc, -along, ha, up, hz),
        (-along, ha, -across, hc, up, hz),
        (-across, hc, along, ha, up, hz),
        (up, hz, along, ha, across, hc),
        (-up, hz, across, hc, along, ha),
    ]
    normal = np.stack([f[0] for f in faces], 1)
    centre = np.stack([middle + f[0] * f[1] for f in faces], 1)
    half_u = np.stack([f[2] * f[3] for f in faces], 1)
    half_v = np.stack([f[4] * f[5] for f in faces], 1)
    keep = np.ones((count, 6), bool)
    keep[:, 4] = boxes[:, 2] + 2 * boxes[:, 5] < 2.6
    keep[:, 5] = boxes[:, 2] > 0.8
    owner = np.broadcast_to(np.arange(count)[:, None], (count, 6))[keep]
    look = looks[owner].copy()
    # the pattern must end where the wall ends: whole windows only
    length = 2 * np.linalg.norm(half_u[keep], axis=1)
    facade = material[owner] == Material.FACADE
    whole = np.maximum(np.round(length / look[:, 6]), 1.0)
    look[facade, 6] = (length / whole)[facade]
    quads = Quads(centre[keep], half_u[keep], half_v[keep], normal[keep], material[owner], look)
    return quads, box_object[owner]


def _bounding_spheres(
    count: int, boxes: FloatArray, box_object: IntArray, leaves: FloatArray, leaf_object: IntArray
) -> FloatArray:
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    flat = np.hypot(boxes[:, 3], boxes[:, 4])[:, None]
    turned = boxes[:, 6:7] != 0.0
    reach = np.where(turned, np.repeat(flat, 2, 1), boxes[:, 3:5])
    np.minimum.at(low, box_object, np.hstack([boxes[:, :2] - reach, boxes[:, 2:3]]))
    np.maximum.at(high, box_object, np.hstack([boxes[:, :2] + reach, boxes[:, 2:3] + 2 * boxes[:, 5:6]]))
    np.minimum.at(low, leaf_object, leaves[:, :3] - leaves[:, 3:6])
    np.maximum.at(high, leaf_object, leaves[:, :3] + leaves[:, 3:6])
    return np.hstack([(low + high) / 2, np.linalg.norm(high - low, axis=1, keepdims=True) / 2])


def build_city(seed: int, extent: int = 7) -> CityLayout:
    """The city of a seed with `extent` streets each way (at least 4).

    Equal seeds give equal cities, on every machine. Raises ValueError for fewer than four streets: a drive needs
    a block to loop around and blocks behind it to look at.
    """
    from pipeline.city.furnish import furnish_block, furnish_crossings, furnish_street

    if extent < 4:
        raise ValueError(f"a city needs at least 4 streets each way, got {extent}")
    rng = np.random.default_rng([seed, 1])
    half_x, half_y = _street_widths(rng, extent), _street_widths(rng, extent)
    streets_x, streets_y = _street_lines(rng, half_x), _street_lines(rng, half_y)
    pavement = float(rng.uniform(2.8, 4.2))
    green = rng.random((extent + 1, extent + 1)) < 0.15
    builder = _Builder()
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
    quads, leaves, quad_start, leaf_start, sphere = builder.arrays()
    return CityLayout(
        seed, streets_x, streets_y, half_x, half_y, pavement, green, quads, leaves, quad_start, leaf_start, sphere,
        np.array(builder.solid, np.float64).reshape(-1, 5),
    )  # fmt: skip


@dataclass(frozen=True)
class CityStyle:
    """What one city's quarters have in common: wall colours, density of cars, trees and shops, height."""

    walls: tuple[Colour, ...]
    car_density: float
    tree_spacing: float
    tree_chance: float
    leaf: Colour
    height: float
    lamp_spacing: float
    pole: Colour

    @classmethod
    def draw(cls, rng: np.random.Generator) -> CityStyle:
        palette = np.array(
            [
                (0.45, 0.20, 0.14), (0.52, 0.34, 0.22), (0.62, 0.52, 0.38), (0.66, 0.62, 0.52), (0.42, 0.42, 0.44),
                (0.58, 0.60, 0.62), (0.34, 0.38, 0.46), (0.70, 0.56, 0.40), (0.55, 0.26, 0.18), (0.30, 0.26, 0.24),
                (0.74, 0.70, 0.64), (0.40, 0.46, 0.40), (0.60, 0.42, 0.36), (0.24, 0.32, 0.38),
            ]
        )  # fmt: skip
        chosen = palette[rng.permutation(len(palette))[: rng.integers(5, 11)]]
        leaf = np.array([(0.10, 0.22, 0.05), (0.16, 0.26, 0.06), (0.08, 0.18, 0.07), (0.30, 0.22, 0.05)])
        return cls(
            walls=tuple(_as_colour(c) for c in chosen),
            car_density=float(rng.uniform(0.25, 0.7)),
            tree_spacing=float(rng.uniform(8.0, 15.0)),
            tree_chance=float(rng.uniform(0.3, 0.8)),
            leaf=_as_colour(leaf[rng.integers(len(leaf))]),
            height=float(rng.uniform(7.0, 15.0)),
            lamp_spacing=float(rng.uniform(18.0, 28.0)),
            pole=_as_colour(np.full(3, rng.uniform(0.05, 0.4)) * rng.uniform(0.85, 1.0, 3)),
        )


def _as_colour(values: NDArray[np.floating]) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def _street_widths(rng: np.random.Generator, extent: int) -> FloatArray:
    """Half widths: one lane each way and parking, or an avenue of two; never two avenues side by side."""
    half = np.full(extent, LANE_WIDTH + PARKING_WIDTH)
    first = int(rng.integers(0, 3))
    half[first :: int(rng.integers(3, 5))] += LANE_WIDTH
    return half


def _street_lines(rng: np.random.Generator, half: FloatArray) -> FloatArray:
    """Centre lines such that blocks between pavements are 38 to 80 m deep."""
    block = rng.uniform(38.0, 80.0, len(half) - 1) + 7.0
    gaps = block + half[:-1] + half[1:]
    return np.concatenate([[0.0], np.cumsum(gaps)])


def _block_edges(lines: FloatArray, half: FloatArray, pavement: float) -> list[tuple[float, float]]:
    """Building lines of the blocks along one axis, one outer row of 40 m on both ends."""
    low = np.concatenate([[lines[0] - half[0] - 40.0], lines + half + pavement])
    high = np.concatenate([lines - half - pavement, [lines[-1] + half[-1] + 40.0]])
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
