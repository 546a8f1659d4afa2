"""Boxes and ellipsoids of a city, collected object by object and converted into arrays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Colour = tuple[float, float, float]


class Material(IntEnum):
    """The material of a rectangle; there is one texture function for each (walls.py)."""

    FACADE = 0
    PLAIN = 1
    CAR_BODY = 2
    CAR_CABIN = 3
    SIGNAL = 4


@dataclass(frozen=True)
class Look:
    """The texture of a box: two colours (linear, 0 to 1), and the pattern's periods (metres), filled shares and
    style."""

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
    """Q rectangles: `centre` (Q, 3), half edges `half_u`, `half_v` (Q, 3), outward unit `normal` (Q, 3), `material`
    (Q,), and `look` (Q, 12): base rgb, accent rgb, period u v, fill u v, style, seed."""

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


class Builder:
    """Collects boxes and leaves object by object, then converts them into arrays."""

    def __init__(self) -> None:
        self.boxes: list[tuple[float, ...]] = []
        self.looks: list[Look] = []
        self.box_object: list[int] = []
        self.leaves: list[tuple[float, ...]] = []
        self.leaf_object: list[int] = []
        self.solid: list[tuple[float, ...]] = []
        self.count = 0

    def new_object(self) -> None:
        """Start a new object; boxes and leaves that follow belong to it."""
        self.count += 1

    def box(self, x: float, y: float, z: float, size: tuple[float, float, float], look: Look, yaw: float = 0.0) -> None:
        """Add a box whose base is at height z with its centre at (x, y); size, metres; yaw, radians."""
        self.boxes.append((x, y, z, size[0] / 2, size[1] / 2, size[2] / 2, yaw))
        self.looks.append(look)
        self.box_object.append(self.count - 1)

    def leaf(self, x: float, y: float, z: float, radii: tuple[float, float, float], colour: Colour) -> None:
        """Add an ellipsoid of leaves with its centre at (x, y, z)."""
        self.leaves.append((x, y, z, *radii, *colour))
        self.leaf_object.append(self.count - 1)

    def arrays(self) -> tuple[Quads, Ellipsoids, IntArray, IntArray, FloatArray]:
        """Rectangles, ellipsoids, where each object's rectangles and ellipsoids start, and its bounding sphere."""
        boxes = np.array(self.boxes, np.float64).reshape(-1, 7)
        looks = np.array(
            [(*k.base, *k.accent, k.period_u, k.period_v, k.fill_u, k.fill_v, k.style, k.seed) for k in self.looks],
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
    """The four walls of every box, its top if it is low enough to be seen, its bottom if it is above the ground."""
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
    box = np.broadcast_to(np.arange(count)[:, None], (count, 6))[keep]
    look = looks[box].copy()
    # the period is changed so that a wall has whole windows only
    length = 2 * np.linalg.norm(half_u[keep], axis=1)
    facade = material[box] == Material.FACADE
    whole = np.maximum(np.round(length / look[:, 6]), 1.0)
    look[facade, 6] = (length / whole)[facade]
    quads = Quads(centre[keep], half_u[keep], half_v[keep], normal[keep], material[box], look)
    return quads, box_object[box]


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
