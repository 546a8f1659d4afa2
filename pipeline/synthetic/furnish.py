"""Places objects in a city: buildings on blocks, cars, trees and lamps along streets, signals at crossings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.synthetic.solids import Builder, Colour, FloatArray, Look, Material
from pipeline.synthetic.streets import CROSSING_CLEARANCE, PARKING_WIDTH

CAR_COLOURS: tuple[Colour, ...] = (
    (0.60, 0.60, 0.62),
    (0.75, 0.75, 0.74),
    (0.04, 0.04, 0.05),
    (0.18, 0.19, 0.21),
    (0.40, 0.03, 0.03),
    (0.04, 0.10, 0.32),
    (0.05, 0.20, 0.12),
    (0.55, 0.42, 0.10),
    (0.30, 0.34, 0.38),
    (0.70, 0.30, 0.05),
)


@dataclass(frozen=True)
class CityStyle:
    """Properties of a whole city: wall colours, densities of cars and trees, lamps, mean height of buildings
    (metres)."""

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
                (0.45, 0.20, 0.14),
                (0.52, 0.34, 0.22),
                (0.62, 0.52, 0.38),
                (0.66, 0.62, 0.52),
                (0.42, 0.42, 0.44),
                (0.58, 0.60, 0.62),
                (0.34, 0.38, 0.46),
                (0.70, 0.56, 0.40),
                (0.55, 0.26, 0.18),
                (0.30, 0.26, 0.24),
                (0.74, 0.70, 0.64),
                (0.40, 0.46, 0.40),
                (0.60, 0.42, 0.36),
                (0.24, 0.32, 0.38),
            ]
        )
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


def _vary(rng: np.random.Generator, colour: Colour, amount: float = 0.12) -> Colour:
    shade = rng.uniform(1 - amount, 1 + amount)
    tint = rng.uniform(1 - amount / 2, 1 + amount / 2, 3)
    return tuple(float(np.clip(c * shade * t, 0.01, 0.95)) for c, t in zip(colour, tint, strict=True))  # type: ignore[return-value]


def furnish_block(
    builder: Builder,
    rng: np.random.Generator,
    style: CityStyle,
    block: tuple[float, float, float, float],
    green: bool,
    downtown: tuple[float, float],
) -> None:
    """Put a building on each lot along the edge of a block (x0, y0, x1, y1), or trees if the block is green.

    downtown: the point (x, y) around which buildings are higher.
    """
    x0, y0, x1, y1 = block
    if green:
        for _ in range(int((x1 - x0) * (y1 - y0) / 110)):
            x, y = rng.uniform(x0 + 1, x1 - 1), rng.uniform(y0 + 1, y1 - 1)
            _tree(builder, rng, style, float(x), float(y), 1.15)
        return
    cuts_x, cuts_y = _cuts(rng, x0, x1), _cuts(rng, y0, y1)
    far = np.hypot((x0 + x1) / 2 - downtown[0], (y0 + y1) / 2 - downtown[1])
    height = style.height * (1.0 + 1.5 * np.exp(-((far / 130.0) ** 2))) * rng.uniform(0.75, 1.3)
    for i in range(len(cuts_x) - 1):
        for j in range(len(cuts_y) - 1):
            inner = 0 < i < len(cuts_x) - 2 and 0 < j < len(cuts_y) - 2
            if inner or rng.random() < 0.06:
                continue
            lot = (float(cuts_x[i]), float(cuts_y[j]), float(cuts_x[i + 1]), float(cuts_y[j + 1]))
            _building(builder, rng, style, lot, float(height))


def _cuts(rng: np.random.Generator, low: float, high: float) -> FloatArray:
    count = max(round((high - low) / rng.uniform(13.0, 21.0)), 1)
    cuts = np.linspace(low, high, count + 1)
    cuts[1:-1] += rng.uniform(-2.5, 2.5, count - 1)
    return cuts


def _building(
    builder: Builder,
    rng: np.random.Generator,
    style: CityStyle,
    lot: tuple[float, float, float, float],
    height: float,
) -> None:
    set_back = rng.choice([0.0, 0.0, 0.0, 0.8, 1.6])
    gap = rng.choice([0.0, 0.0, 0.0, 0.6])
    x0, y0, x1, y1 = (
        lot[0] + gap + set_back,
        lot[1] + gap + set_back,
        lot[2] - gap - set_back,
        lot[3] - set_back,
    )
    floor = float(rng.uniform(2.9, 3.9))
    floors = max(round(height * rng.uniform(0.55, 1.5) / floor), 2)
    tall = floors * floor + float(rng.uniform(0.4, 1.4))
    kind = rng.random()
    if kind < 0.60:  # windows punched in a wall
        period, fill_u, fill_v = rng.uniform(2.0, 4.2), rng.uniform(0.32, 0.6), rng.uniform(0.42, 0.68)
    elif kind < 0.82:  # ribbons
        period, fill_u, fill_v = rng.uniform(3.0, 6.0), rng.uniform(0.82, 0.96), rng.uniform(0.4, 0.6)
    else:  # curtain wall
        period, fill_u, fill_v = rng.uniform(1.4, 3.0), rng.uniform(0.86, 0.94), rng.uniform(0.78, 0.9)
    wall = _vary(rng, style.walls[rng.integers(len(style.walls))], 0.2)
    glass = rng.uniform(0.02, 0.12)
    look = Look(
        Material.FACADE,
        wall,
        (float(glass * 0.8), float(glass * 0.95), float(glass * 1.15)),
        float(period),
        floor,
        float(fill_u),
        float(fill_v),
        float(rng.random()),
        float(rng.integers(0, 4096)),
    )
    x, y, wide, deep = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    if wide < 4 or deep < 4:
        return
    builder.new_object()
    builder.box(x, y, 0.0, (wide, deep, tall), look)
    top = tall
    if rng.random() < 0.3 and floors > 4:
        extra = floor * int(rng.integers(1, 5))
        builder.box(x, y, tall, (wide * rng.uniform(0.5, 0.8), deep * rng.uniform(0.5, 0.8), extra), look)
        top = tall + extra
    elif rng.random() < 0.5:
        plain = Look(Material.PLAIN, _vary(rng, (0.3, 0.28, 0.26), 0.4), seed=look.seed)
        size = (float(rng.uniform(1.5, 4)), float(rng.uniform(1.5, 4)), float(rng.uniform(1.2, 3.5)))
        builder.box(x + wide * rng.uniform(-0.3, 0.3), y + deep * rng.uniform(-0.3, 0.3), tall, size, plain)
    if rng.random() < 0.45:  # a cornice stands out from all four walls
        edge = Look(Material.PLAIN, _vary(rng, wall, 0.3), seed=look.seed)
        builder.box(x, y, tall - 0.5, (wide + 0.7, deep + 0.7, 0.5), edge)
    if rng.random() < 0.4 and set_back < 1.0:  # awnings over the shops
        cloth = _vary(rng, CAR_COLOURS[rng.integers(len(CAR_COLOURS))], 0.2)
        builder.box(x, y, 2.75, (wide + 2.2, deep + 2.2, 0.45), Look(Material.PLAIN, cloth, seed=look.seed + 7))
    builder.solid.append((x0, y0, x1, y1, top))


def _tree(builder: Builder, rng: np.random.Generator, style: CityStyle, x: float, y: float, size: float = 1.0) -> None:
    trunk = float(rng.uniform(2.3, 3.4) * size)
    radius = float(rng.uniform(1.3, 2.1) * size)
    builder.new_object()
    bark = Look(Material.PLAIN, _vary(rng, (0.16, 0.11, 0.07), 0.3), seed=float(rng.integers(0, 4096)))
    thick = float(rng.uniform(0.22, 0.4))
    builder.box(x, y, 0.0, (thick, thick, trunk + radius), bark, float(rng.uniform(0, np.pi)))
    leaf = _vary(rng, style.leaf, 0.3)
    builder.leaf(x, y, trunk + radius * 1.05, (radius * 0.85, radius * 0.85, radius), leaf)
    for turn in rng.uniform(0, 2 * np.pi) + np.arange(4) * 2 * np.pi / 4:
        out, blob = radius * rng.uniform(0.45, 0.75), radius * rng.uniform(0.45, 0.7)
        up = trunk + radius * rng.uniform(0.6, 1.3)
        builder.leaf(
            float(x + out * np.cos(turn)),
            float(y + out * np.sin(turn)),
            float(up),
            (float(blob), float(blob), float(blob * rng.uniform(0.7, 1.0))),
            _vary(rng, leaf, 0.15),
        )
    builder.solid.append((x - radius * 0.8, y - radius * 0.8, x + radius * 0.8, y + radius * 0.8, trunk + 1.6 * radius))


def furnish_street(
    builder: Builder,
    rng: np.random.Generator,
    style: CityStyle,
    vertical: bool,
    line: float,
    half: float,
    span: tuple[float, float],
    pavement: float,
) -> None:
    """Furnish both sides of a street between two crossings: parked cars on the carriageway, trees and lamps on the
    kerb.

    vertical: whether it runs north-south; line: x or y of its centre; half: half its width; span: where it starts and
    ends; pavement: width. Metres.
    """

    def place(along: float, across: float) -> tuple[float, float]:
        return (line + across, along) if vertical else (along, line + across)

    density = style.car_density * rng.uniform(0.5, 1.4)
    lined = rng.random() < style.tree_chance
    first, last = span[0] + CROSSING_CLEARANCE, span[1] - CROSSING_CLEARANCE
    for side in (-1.0, 1.0):
        at = first + rng.uniform(0, 4)
        while at < last:
            if rng.random() < density:
                x, y = place(at, side * (half - PARKING_WIDTH / 2 - 0.05))
                yaw = (np.pi / 2 if vertical else 0.0) + (np.pi if rng.random() < 0.5 else 0.0)
                _car(builder, rng, x, y, float(yaw + rng.normal(0, 0.02)))
            at += rng.uniform(5.6, 7.5)
        if lined:
            for at in np.arange(first + rng.uniform(0, 5), last, style.tree_spacing * rng.uniform(0.8, 1.2)):
                if rng.random() < 0.85:
                    _tree(
                        builder,
                        rng,
                        style,
                        *place(float(at), side * (half + 1.0)),
                        float(rng.uniform(0.75, 1.1)),
                    )
        for at in np.arange(first + rng.uniform(0, 9), last, style.lamp_spacing):
            _lamp(builder, rng, style, *place(float(at), side * (half + 0.5)), vertical, -side)
        for at in rng.uniform(first, last, int(rng.integers(1, 5))):
            _clutter(builder, rng, *place(float(at), side * (half + rng.uniform(0.6, max(pavement - 0.8, 0.7)))))


def _car(builder: Builder, rng: np.random.Generator, x: float, y: float, yaw: float) -> None:
    paint = _vary(rng, CAR_COLOURS[rng.integers(len(CAR_COLOURS))], 0.25)
    seed = float(rng.integers(0, 4096))
    builder.new_object()
    shade = Look(Material.PLAIN, (0.012, 0.012, 0.014), style=1.0)
    kind = rng.random()
    if kind < 0.8:
        long, wide = float(rng.uniform(3.7, 4.7)), float(rng.uniform(1.65, 1.85))
        waist, roof = float(rng.uniform(0.82, 1.0)), float(rng.uniform(0.48, 0.68))
        body = Look(Material.CAR_BODY, paint, (0.015, 0.015, 0.018), long, waist, style=0.0, seed=seed)
        builder.box(x, y, 0.16, (long, wide, waist - 0.16), body, yaw)
        back = -float(rng.uniform(0.0, 0.4))
        cx, cy = x + back * np.cos(yaw), y + back * np.sin(yaw)
        cabin = Look(Material.CAR_CABIN, paint, (0.03, 0.035, 0.045), 1.2, roof, seed=seed)
        builder.box(cx, cy, waist, (long * float(rng.uniform(0.48, 0.62)), wide * 0.88, roof), cabin, yaw)
    else:
        long, wide, tall = (
            float(rng.uniform(4.8, 6.2)),
            float(rng.uniform(1.9, 2.05)),
            float(rng.uniform(2.1, 2.7)),
        )
        body = Look(Material.CAR_BODY, paint, (0.03, 0.035, 0.045), long, tall, style=1.0, seed=seed)
        builder.box(x, y, 0.2, (long, wide, tall - 0.2), body, yaw)
    builder.box(x, y, 0.0, (long + 0.1, wide + 0.15, 0.02), shade, yaw)  # its shadow, 2 cm high


def park(builder: Builder, rng: np.random.Generator, x: float, y: float, yaw: float) -> None:
    """One parked car at a place."""
    _car(builder, rng, x, y, yaw)


def _lamp(
    builder: Builder,
    rng: np.random.Generator,
    style: CityStyle,
    x: float,
    y: float,
    vertical: bool,
    inward: float,
) -> None:
    tall, arm = float(rng.uniform(5.5, 7.5)), float(rng.uniform(1.2, 2.2))
    look = Look(Material.PLAIN, style.pole, seed=1.0)
    builder.new_object()
    builder.box(x, y, 0.0, (0.16, 0.16, tall), look)
    dx, dy = (inward * arm / 2, 0.0) if vertical else (0.0, inward * arm / 2)
    builder.box(x + dx, y + dy, tall - 0.1, (abs(2 * dx) + 0.1, abs(2 * dy) + 0.1, 0.1), look)
    head = Look(Material.PLAIN, (0.5, 0.5, 0.46), seed=2.0)
    builder.box(x + 2 * dx, y + 2 * dy, tall - 0.2, (0.5, 0.5, 0.14), head)


def _clutter(builder: Builder, rng: np.random.Generator, x: float, y: float) -> None:
    """A sign, a bin, a post box, a bollard or a hoarding."""
    builder.new_object()
    colour = _vary(rng, CAR_COLOURS[rng.integers(len(CAR_COLOURS))], 0.3)
    seed = float(rng.integers(0, 4096))
    kind = rng.random()
    if kind < 0.4:
        builder.box(x, y, 0.0, (0.09, 0.09, 2.9), Look(Material.PLAIN, (0.3, 0.3, 0.3), seed=seed))
        size = (0.65, 0.65, 0.65) if rng.random() < 0.5 else (0.5, 0.5, 0.8)
        builder.box(x, y, 2.1, (size[0], 0.06, size[2]), Look(Material.PLAIN, colour, seed=seed))
    elif kind < 0.75:
        builder.box(x, y, 0.0, (0.6, 0.6, float(rng.uniform(0.8, 1.3))), Look(Material.PLAIN, colour, seed=seed))
    elif kind < 0.9:
        builder.box(x, y, 0.0, (0.2, 0.2, 0.9), Look(Material.PLAIN, (0.5, 0.48, 0.1), seed=seed))
    else:
        builder.box(x, y, 0.0, (1.1, 1.1, 2.4), Look(Material.PLAIN, colour, seed=seed))


def furnish_crossings(
    builder: Builder,
    rng: np.random.Generator,
    streets_x: FloatArray,
    streets_y: FloatArray,
    half_x: FloatArray,
    half_y: FloatArray,
) -> None:
    """A signal on every corner of most crossings."""
    dark = Look(Material.PLAIN, (0.06, 0.06, 0.065), seed=3.0)
    for i, x in enumerate(streets_x):
        for j, y in enumerate(streets_y):
            if rng.random() < 0.2:
                continue
            for sx in (-1.0, 1.0):
                for sy in (-1.0, 1.0):
                    px, py = float(x + sx * (half_x[i] + 0.9)), float(y + sy * (half_y[j] + 0.9))
                    builder.new_object()
                    builder.box(px, py, 0.0, (0.18, 0.18, 3.6), dark)
                    lamp = Look(Material.SIGNAL, (0.05, 0.05, 0.05), style=float(rng.integers(0, 2)))
                    builder.box(px, py, 2.5, (0.42, 0.42, 1.1), lamp)
