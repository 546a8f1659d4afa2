"""Finds parts of the picture that do not move while the car does: bonnet, mirror, time stamp, dirt, black borders.

Pixels of the world change their colours during a drive. Three kinds of parts are found. Still parts have pixels whose
colour stays the same, inside a border that stays too. The bonnet is below a line across the lower part of the picture
at which the distribution of colours over time changes. Text is found by `burnt_in_text.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.cameras.burnt_in_text import find_text

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Part = Literal["bonnet", "text", "mirror, border or dirt"]
"""Kinds of parts."""

_WIDTH = 160  # approximate number of columns to which pictures are shrunk
_NOISE = 2.0  # least standard deviation of a colour over time: of camera noise and compression
_QUANTILE = 0.8
_DEVIATIONS = 1.2816  # deviations within which four fifths of a normal distribution are
_OUTLINE = 3  # pixels by which a bonnet's outline may be blurred
_MOVING = 0.5  # share of a part's surroundings that moves
_STRONG = 60.0  # jump of brightness at a border that no cloud has
_RESTLESS = 1.0  # a pixel with a larger deviation over the picture's median one is probably not the bonnet's
_MOST = 2.0  # larger distances count as this one in the gain of an outline
_LOW = 0.9  # of the height: an outline that does not reach the side of the picture ends below this
_JUMP = 0.07  # of the height: a larger step from one column to the next ends a part of an outline
_UNREST = 0.1  # cost of a restless pixel below an outline, for each factor e of its restlessness
_BEND = 0.3  # cost of a step of an outline by one of 64 rows from one column to the next


@dataclass(frozen=True)
class StaticParts:
    """Limits of `find_static_parts`; colour values are 0 to 255."""

    still: float = 0.3
    """A pixel is still where its deviation over time is below this share of the picture's median one."""
    edge: float = 8.0
    """Least jump of brightness over two pixels at a part's border, which three of four frames must show."""
    border: float = 20.0
    """Least median of this jump along a part's border. The edges of clouds are weaker."""
    smallest: float = 0.002
    """Least share of the picture of a mirror, a border or dirt."""
    fewest: int = 24
    """Least number of frames; with fewer nothing is found."""
    dim: float = 4.0
    """Least median deviation over time. In a darker drive, by night or in fog, nothing is found: the world is as still
    as the car."""
    distance: float = 0.4
    """Least Bhattacharyya distance between the colours over time above and below a bonnet's outline."""
    sure_distance: float = 1.5
    """Least median of this distance along a part of the outline; it rises with the unrest below the outline."""
    calm: float = 0.45
    """Usual deviation over time of a bonnet with reflections, over the picture's median one. Shadows of trees and
    houses raise it."""
    supported: float = 0.75
    """Least share of the columns of a bonnet in which the outline has `distance`."""
    smallest_bonnet: float = 0.01
    """Least share of the picture of a bonnet."""
    highest: float = 0.57
    """Highest place of a bonnet's outline, as a share of the picture's height from its top."""


@dataclass(frozen=True)
class _Colours:
    """The colours of each pixel over time: median and standard deviation (h, w, 3), of brightness and of two colour
    differences; edges (h, w): the jump of brightness that most frames show there (`_edges`)."""

    usual: Floats
    deviation: Floats
    edges: Floats

    @property
    def spread(self) -> Floats:
        """(h, w): standard deviation over all channels."""
        return np.sqrt((self.deviation**2).sum(-1))


def find_static_parts(pictures: NDArray[np.uint8], limits: StaticParts | None = None) -> Mask:
    """A mask (h, w) from frames (N, h, w, 3) spread over a drive: True where a pixel counts, False where it does not
    move while the car does."""
    nothing = np.zeros(pictures.shape[1:3], bool)
    return ~np.logical_or.reduce([nothing, *find_parts(pictures, limits).values()])


def find_parts(pictures: NDArray[np.uint8], limits: StaticParts | None = None) -> dict[Part, Mask]:
    """Masks (h, w) of each kind of part that does not move while the car does, from frames (N, h, w, 3) spread over a
    drive: True in the part. They do not overlap. Kinds that were not found are left out."""
    limits = limits or StaticParts()
    count, height, width = pictures.shape[:3]
    if count < limits.fewest:
        return {}
    factor = max(1, round(width / _WIDTH))
    colours = _over_time(_shrunk(pictures, factor))
    typical = float(np.median(colours.spread))
    if typical < limits.dim:
        return {}
    still = _still_parts(colours, typical, limits)
    bonnet = _bonnet(colours, still, typical, limits)
    # A calm road just above a bonnet may also be still. So near the outline only the outline decides.
    near = ndimage.binary_dilation(bonnet, iterations=_OUTLINE)
    bonnet, still = (
        one.repeat(factor, axis=0).repeat(factor, axis=1)[:height, :width] for one in (bonnet, still & ~near)
    )
    text = find_text(pictures) & ~bonnet
    found: dict[Part, Mask] = {"bonnet": bonnet, "text": text, "mirror, border or dirt": still & ~bonnet & ~text}
    return {kind: mask for kind, mask in found.items() if mask.any()}


def parts_said(parts: Mapping[Part, Mask]) -> str:
    """The parts that `find_parts` found, with their shares of the picture, in one line; "nothing" if there are none."""
    shares = {kind: float(mask.mean()) for kind, mask in parts.items()}
    if not shares:
        return "nothing"
    each = "; ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
    return f"{sum(shares.values()):.1%} of the picture ({each})"


def _shrunk(pictures: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Means over blocks of factor x factor pixels; the last column and row are repeated to fill the last blocks."""
    if factor == 1:
        return pictures
    height, width = pictures.shape[1:3]
    padded = np.pad(pictures, ((0, 0), (0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    rows, columns = padded.shape[1] // factor, padded.shape[2] // factor
    blocks = padded.reshape(len(padded), rows, factor, columns, factor, 3)
    return np.stack([block.mean((1, 3)).round().astype(np.uint8) for block in blocks])


def _over_time(pictures: NDArray[np.uint8]) -> _Colours:
    """The colours over time, of the given pictures or of pictures scaled to equal brightness: of those whose pixels in
    the lower half vary less. An automatic exposure changes the brightness of the bonnet."""
    values = np.ascontiguousarray(np.moveaxis(pictures, 0, -1)).astype(np.float32)  # (h, w, 3, N)
    grey: Floats = values.mean(2, dtype=np.float32)
    level = np.maximum(np.median(grey, axis=(0, 1)), 1.0)
    gain: Floats = (float(np.median(level)) / level).clip(0.5, 2.0).astype(np.float32)
    low = slice(len(grey) // 2, None)
    both: tuple[Floats, Floats] = (grey[low], grey[low] * gain)
    calmest = [float(np.quantile(_statistics(one)[1], 0.1)) for one in both]
    if calmest[1] < calmest[0]:
        values *= gain
    red, green, blue = values[:, :, 0], values[:, :, 1], values[:, :, 2]
    opponent = ((red + green + blue) / 3, red - green, blue - (red + green) / 2)
    channels = [_statistics(one.astype(np.float32)) for one in opponent]
    deviation = np.maximum(np.stack([one[1] for one in channels], -1), _NOISE)
    usual = np.stack([one[0] for one in channels], -1)
    return _Colours(usual, deviation, _edges(grey, usual))


def _statistics(channel: Floats) -> tuple[Floats, Floats]:
    """Median and standard deviation of values over time (..., N); both robust."""
    count = channel.shape[-1]
    usual = np.partition(channel, count // 2, axis=-1)[..., count // 2]
    far = int(_QUANTILE * (count - 1))
    reach = np.partition(np.abs(channel - usual[..., None]), far, axis=-1)[..., far]
    return usual, (reach / _DEVIATIONS).astype(np.float32)


def _still_parts(colours: _Colours, typical: float, limits: StaticParts) -> Mask:
    """Parts that are still and whose border is still. The sky is also still, but its border moves with the houses and
    trees in front of it. Clouds are surrounded by sky, which is as still as they are."""
    still = colours.spread < limits.still * typical
    sharp = still & (colours.edges >= limits.edge)
    letters = ndimage.binary_closing(np.pad(sharp, 3, mode="edge"), np.ones((3, 3), bool))[3:-3, 3:-3]
    masked = _bordered(letters, still, colours.edges, limits)
    masked |= _bordered(still & ~sharp, still, colours.edges, limits)
    masked = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(masked, 2, mode="edge")))[2:-2, 2:-2]
    return _without_small(masked, limits.smallest)


def _without_small(masked: Mask, smallest: float) -> Mask:
    labels, _ = ndimage.label(masked)
    shares = np.bincount(labels.ravel()) / masked.size
    shares[0] = 0
    return np.asarray(shares[labels] >= smallest)


def _bordered(candidates: Mask, still: Mask, edges: Floats, limits: StaticParts) -> Mask:
    """The connected candidates whose border is an edge in most frames, and whose surroundings move or whose edge is
    stronger than that of any cloud."""
    found = np.zeros_like(still)
    labels, _ = ndimage.label(candidates, np.ones((3, 3), bool))
    for number, place in enumerate(ndimage.find_objects(labels), 1):
        around = tuple(slice(max(one.start - 5, 0), one.stop + 5) for one in place)
        own = labels[around] == number
        part = ndimage.binary_dilation(own, iterations=2) & still[around]  # with its rim, which is sharp
        if part.sum() < limits.smallest * still.size:
            continue
        border = ndimage.binary_dilation(part) & ~ndimage.binary_erosion(part, border_value=1)
        ring = ndimage.binary_dilation(part, iterations=3) & ~ndimage.binary_dilation(part)
        strength = float(np.median(edges[around][border])) if border.any() else 0.0
        moves = float((~still[around])[ring].mean()) if ring.any() else 0.0
        if strength >= limits.border and (moves >= _MOVING or strength >= _STRONG):
            found[around] |= part
    return found


def _bonnet(colours: _Colours, still: Mask, typical: float, limits: StaticParts) -> Mask:
    """The area below the line across the picture along which the colours over time change most. The line ends at the
    sides of the picture or at its lower rim. Empty where the change is too small. still: parts found before."""
    height, width = colours.spread.shape
    distance = _border_distance(colours)
    first = int(limits.highest * height)
    restless = np.maximum(np.log(colours.spread / (_RESTLESS * typical)), 0)
    below = np.cumsum(restless[::-1], axis=0)[::-1] * 64 / height
    gain = np.minimum(distance, _MOST) - limits.distance - _UNREST * below
    rows = np.append(np.arange(first, height), height)
    gain = np.concatenate([gain[first:], np.zeros((1, width), np.float32)])
    top = rows[_best_path(gain, _BEND * 64 / height)]
    evidence = distance[np.minimum(top, height - 1), np.arange(width)]
    evidence[top == height] = 0.0
    for run in _runs(top, height):
        inside = np.arange(height)[:, None] >= top[run]
        # The kerb of a long straight street is still, too, but the road below it is less calm than a bonnet.
        unrest = float(np.median(colours.spread[:, run][inside])) / (limits.calm * typical)
        is_outline = (evidence[run] >= limits.distance).mean() >= limits.supported
        above = still[np.maximum(top[run] - 2, 0), np.arange(run.start, run.stop)]
        is_lower_rim = unrest > 1 and above.mean() > 0.5  # the lower edge of another part, above the moving world
        if is_lower_rim or not (is_outline and np.median(evidence[run]) >= limits.sure_distance * max(unrest, 1.0)):
            top[run] = height
    for first, last in _groups(top < height):
        left, right = top[first], top[last - 1]
        # A line on the road may end in the middle of the picture; an outline ends at its sides or at its lower rim.
        if (first > 0 and left < _LOW * height) or (last < width and right < _LOW * height):
            top[first:last] = height
    masked = np.arange(height)[:, None] >= top
    if masked.mean() < limits.smallest_bonnet:
        return np.zeros((height, width), bool)
    return _with_outline(masked, top, colours)


def _runs(top: NDArray[np.intp], height: int) -> list[slice]:
    """The columns of an outline between jumps and gaps."""
    jumps = np.flatnonzero((np.abs(np.diff(top)) > _JUMP * height) | (np.diff(top == height) != 0)) + 1
    edges = [0, *jumps.tolist(), len(top)]
    return [slice(first, last) for first, last in pairwise(edges) if top[first] < height]


def _groups(inside: Mask) -> list[tuple[int, int]]:
    """First column of each row of neighbours that are True (w,), and the one after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _with_outline(masked: Mask, top: NDArray[np.intp], colours: _Colours) -> Mask:
    """The bonnet with a finer outline: in each column it lies where the bonnet's colours become those of the world.
    Where the camera shakes, a pixel belongs to the bonnet if half of the frames show it there."""
    height, width = masked.shape
    reach = max(_OUTLINE, round(_OUTLINE * height / 64))
    column = np.arange(width)
    own, world = np.minimum(top + reach, height - 1), np.maximum(top - reach, 0)
    features = np.concatenate([colours.usual, np.log(colours.deviation)], axis=-1)
    first, last = features[world, column], features[own, column]  # (w, 6)
    variance = (colours.deviation[own, column] ** 2 + colours.deviation[world, column] ** 2) / 2
    step = last - first
    weight = step**2 / np.concatenate([8 * variance, np.full_like(variance, 2.0)], axis=-1)
    step = np.where(np.abs(step) < 1e-3, 1e-3, step)
    share = ((features - first) / step).clip(0, 1)
    is_own = (share * weight).sum(-1) > weight.sum(-1) / 2
    row = np.arange(height)[:, None]
    near = (np.abs(row - top) < reach) & (top < height)
    return np.where(near, is_own, masked)


def _border_distance(colours: _Colours) -> Floats:
    """(h, w): the Bhattacharyya distance between the colours over time of a pixel and those two above it, summed over
    the channels as if they were independent."""
    usual, variance = colours.usual, colours.deviation**2
    up = np.maximum(np.arange(len(usual)) - 2, 0)
    both = variance + variance[up]
    moved = (usual - usual[up]) ** 2 / (4 * both)
    return (moved + np.log(both / (2 * colours.deviation * colours.deviation[up])) / 2).sum(-1)


def _best_path(gain: Floats, bend: float) -> NDArray[np.intp]:
    """The row in each column of the path from left to right with the highest sum of `gain` (rows, columns), less `bend`
    for each row by which it rises or falls from one column to the next (dynamic programming)."""
    rows, columns = gain.shape
    came = np.zeros((rows, columns), np.intp)
    total = gain[:, 0].astype(np.float64)
    for column in range(1, columns):
        value, source = total.copy(), np.arange(rows)
        for order in (range(1, rows), range(rows - 2, -1, -1)):
            step = 1 if order.start == 1 else -1
            for row in order:
                if value[row - step] - bend > value[row]:
                    value[row], source[row] = value[row - step] - bend, source[row - step]
        came[:, column] = source
        total = value + gain[:, column]
    path = np.empty(columns, np.intp)
    path[-1] = int(np.argmax(total))
    for column in range(columns - 1, 0, -1):
        path[column - 1] = came[path[column], column]
    return path


def _edges(grey: Floats, usual: Floats) -> Floats:
    """(h, w): the jump between the two neighbours of a pixel, along rows or columns, that at least three of four frames
    show in brightness over time (h, w, N), and that a channel of the median picture (h, w, channels) shows as well."""
    rare = grey.shape[-1] // 4
    often = np.partition(_jumps(grey), rare, axis=-1)[..., rare]
    return np.asarray(np.minimum(often, _jumps(usual).max(-1)))


def _jumps(values: Floats) -> Floats:
    """Largest jump between the two neighbours of a pixel, along rows or columns, of values (h, w, n)."""
    down = np.abs(np.roll(values, -1, 0) - np.roll(values, 1, 0))
    across = np.abs(np.roll(values, -1, 1) - np.roll(values, 1, 1))
    down[[0, -1]] = across[:, [0, -1]] = 0.0
    return np.asarray(np.maximum(down, across))
