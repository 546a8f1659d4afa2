"""Measures in pictures how much a lens bends lines that are straight in the world.

Plumb lines (Devernay and Faugeras, Straight lines have to be straight, 2001) under the division model with one
parameter (Fitzgibbon, 2001): a point at distance r from the middle of the picture, half its width = 1, belongs at
r / (1 + bend r^2) in a pinhole's. Most long edges in streets are straight. Edges that are curved in the world are
outliers: they bend to all sides, and the cost is robust.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]

_LEAST_LENGTH = 0.12  # of an edge that is used, picture widths
_FEWEST_EDGES = 40  # of a drive, for a result
_STRAIGHT = 0.005  # deviation from a line over an edge's length, of a straight edge
_TURN = np.cos(np.radians(20.0))  # between neighbours on one edge
_BENDS = np.concatenate([np.arange(-0.9, -0.3, 0.04), np.arange(-0.3, 0.31, 0.02)])
_EDGE_LOW, _EDGE_HIGH = 60, 150  # of Canny's gradient


@dataclass(frozen=True)
class LineEvidence:
    """bend: parameter of the division model, negative for a barrel lens or a fisheye, positive for a pincushion; edges:
    number of edges; gain: by how much the log cost of the edges' deviations from lines is lower with the bend than
    without, 0 for a pinhole; agreement: difference between the bends of the two halves of the pictures."""

    bend: float
    edges: int
    gain: float
    agreement: float


def find_bend(pictures: Iterable[NDArray[np.uint8]], mask: NDArray[np.bool_] | None = None) -> LineEvidence | None:
    """How a lens bends lines, from some pictures (h, w, 3) of a drive; None where they show too few long edges.

    mask (h, w): True for pixels that are used. Edges next to other pixels are left out: they are borders of the mask.
    """
    keep = None
    if mask is not None:
        keep = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    halves: list[list[Floats]] = [[], []]
    for number, picture in enumerate(pictures):
        halves[number % 2] += long_edges(picture, keep)
    if min(map(len, halves)) < _FEWEST_EDGES / 2:
        return None
    costs = [_cost(edges) for edges in halves]
    total = (costs[0] * len(halves[0]) + costs[1] * len(halves[1])) / sum(map(len, halves))
    bend, gain = _least(total)
    first, second = (_least(cost)[0] for cost in costs)
    return LineEvidence(bend, sum(map(len, halves)), gain, abs(first - second))


def long_edges(picture: NDArray[np.uint8], keep: NDArray[np.bool_] | None = None) -> list[Floats]:
    """Points (n, 2) of each long, thin edge of a picture, in half widths from its middle.

    Canny's edge pixels are neighbours on one edge where their gradients point the same way within 20 degrees.
    """
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture
    height, width = grey.shape
    grey = cv2.GaussianBlur(grey, (0, 0), 0.8)
    dx, dy = (cv2.Sobel(grey, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    on = cv2.Canny(grey, _EDGE_LOW, _EDGE_HIGH, L2gradient=True) > 0
    if keep is not None:
        on &= keep
    row, column = np.nonzero(on)
    if len(row) < 2:
        return []
    steep = np.hypot(dx, dy)
    size = steep[row, column] + 1e-6
    normal = np.stack([dx[row, column], dy[row, column]], -1) / size[:, None]
    number = np.full((height + 2, width + 2), -1)
    number[row + 1, column + 1] = np.arange(len(row))
    pairs = []
    for down, across in ((0, 1), (1, -1), (1, 0), (1, 1)):
        other = number[row + 1 + down, column + 1 + across]
        mine = np.flatnonzero(other >= 0)
        other = other[mine]
        same = (normal[mine] * normal[other]).sum(-1) > _TURN
        pairs.append(np.stack([mine[same], other[same]]))
    a, b = np.concatenate(pairs, 1)
    graph = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(len(row), len(row)))
    label = connected_components(graph, directed=False)[1]
    order = np.argsort(label, kind="stable")
    place = np.stack([column + 0.5, row + 0.5], -1) + _refined(steep, row, column, normal)
    place = (place - (width / 2, height / 2)) / (width / 2)
    found = []
    for members in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        if len(members) < _LEAST_LENGTH * width:
            continue
        points = place[members]
        if _is_thin(points, width):
            found.append(points)
    return found


def _refined(steep: NDArray[np.float32], row: NDArray[np.int64], column: NDArray[np.int64], normal: Floats) -> Floats:
    """(n, 2) how far from its pixel's centre an edge lies, x and y, at most half a pixel: the top of a parabola through
    the gradient of three pixels, along the axis that is nearer to the edge's normal."""
    high, wide = steep.shape
    flat = np.abs(normal[:, 0]) >= np.abs(normal[:, 1])
    across, down = flat.astype(int), 1 - flat.astype(int)
    inside = (row >= down) & (row + down < high) & (column >= across) & (column + across < wide)
    row, column = row.clip(1, high - 2), column.clip(1, wide - 2)
    before, here, after = (steep[row + k * down, column + k * across].astype(np.float64) for k in (-1, 0, 1))
    bow = before - 2 * here + after
    shift = np.where(inside & (bow < 0), 0.5 * (before - after) / np.where(bow < 0, bow, 1), 0).clip(-0.5, 0.5)
    return np.stack([shift * across, shift * down], -1)


def _is_thin(points: Floats, width: int) -> bool:
    """Whether an edge is long and one curve: a parabola along its main axis fits within a pixel."""
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    along, across = centred @ axes[0], centred @ axes[1]
    if np.ptp(along) < 2 * _LEAST_LENGTH:
        return False
    left = across - np.polyval(np.polyfit(along, across, 2), along)
    return bool(np.sqrt((left**2).mean()) * width / 2 < 0.7)


def _cost(edges: list[Floats]) -> Floats:
    """(B,) deviation of edges from lines for each of _BENDS: the mean of a log cost, which outliers do not dominate."""
    costs = np.zeros(len(_BENDS))
    weights = 0.0
    for points in edges:
        off = _deviations(points)
        length = float(np.ptp(points, axis=0).max())
        costs += length * np.log1p((off / length / _STRAIGHT) ** 2)
        weights += length
    return costs / max(weights, 1e-9)


def _deviations(points: Floats) -> Floats:
    """(B,) rms distance of an edge (n, 2) from the image of a line, for each of _BENDS, in the lens' own picture.

    The image of a x + b y + c = 0 is a x + b y + c w = 0 with w = 1 + bend r^2: the best c is linear in a and b, and
    these are an eigenvector; distances are to first order.
    """
    x, y = points.T
    w = 1 + _BENDS[:, None] * (x**2 + y**2)[None]  # (B, n)
    norm = (w * w).sum(1)
    wx, wy = (w @ x) / norm, (w @ y) / norm
    left = np.stack([x - w * wx[:, None], y - w * wy[:, None]], 1)  # (B, 2, n)
    normal = np.linalg.eigh(left @ left.transpose(0, 2, 1))[1][:, :, 0]
    c = -(normal[:, 0] * wx + normal[:, 1] * wy)
    off = normal[:, :1] * x + normal[:, 1:] * y + c[:, None] * w
    slope = 2 * (c * _BENDS)[:, None]
    steep = np.hypot(normal[:, :1] + slope * x, normal[:, 1:] + slope * y)
    return np.asarray(np.sqrt(((off / np.maximum(steep, 1e-3)) ** 2).mean(1)))


def _least(costs: Floats) -> tuple[float, float]:
    """The bend of the least cost, and the difference of that cost from the cost without a bend."""
    at = int(np.argmin(costs))
    none = float(np.interp(0.0, _BENDS, costs))
    return float(_BENDS[at]), none - float(costs[at])
