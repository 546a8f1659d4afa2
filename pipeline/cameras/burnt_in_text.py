"""Finds text that a camera writes into its frames: time, place, speed, the maker's name.

The world moves, so it is smooth in the mean of a drive's frames, while text stays sharp. Detail is the difference of a
pixel from its surroundings. The strokes of small letters cover only a part of a pixel, whose colour then varies with
the world. So detail of the mean is compared with its variation over time, not with zero. A line of text has much
detail, and the sign of the detail changes from stroke to stroke along a row. At horizons, kerbs and the edges of a
bonnet it has the same sign along a row.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]

_AROUND = 0.05  # distance to each side, as a share of the picture's height, over which surroundings are averaged
_CONTRAST = 8.0  # least detail in the mean frame, colour values 0 to 255
_STEADY = 0.5  # least ratio of detail in the mean frame to its standard deviation over time
_NOISE = 3.0  # least such deviation where channels are compared
_DENSE = 0.45  # least share of pixels with detail in a line of text
_REACH = 0.05  # width over which this share is taken, as a share of the picture's width
_GAP = 0.08  # words that are nearer to each other than this share of the picture's width are one line
_STROKES = 0.12  # least share of the pixels of a row at which the sign changes
_CALM = 0.3  # a line is in the sky if the deviation around it is below this share of the picture's median one
_CLOUD = 16.0  # least mean detail of a line in the sky; clouds have less
_MARGIN = 0.25  # text is searched in this share of the picture's height at the top and at the bottom
_LEAST_ROWS = 3  # of a line; the edge above a bonnet has fewer
_LEAST_WIDTH = 0.06  # of a line, as a share of the picture's width
_LONG = 2.0  # least width over height of a line
_INK_ROW = 0.4  # a row has strokes if it has at least this share of those of the row with most
_OUTLINE_ROW = 0.5  # the row beside the strokes is their outline if its contrast is at least this share of the mean


def find_text(pictures: NDArray[np.uint8]) -> Mask:
    """A mask (h, w) from frames (N, h, w, 3) of a moving car: True in the boxes of lines of text that stay the same."""
    height, width = pictures.shape[1:3]
    mean, deviation = _detail(pictures)
    strong = np.abs(mean)
    has_detail = (strong > _CONTRAST) & (strong > _STEADY * deviation)
    strokes = np.zeros((height, width), bool)
    strokes[:, 1:] = (mean[:, 1:] * mean[:, :-1] < 0) & (has_detail[:, 1:] | has_detail[:, :-1])
    found = np.zeros((height, width), bool)
    for rows, columns in _lines(has_detail):
        own = slice(rows.start, rows.stop), columns
        top, bottom = _inked(strokes[own].mean(1), strong[own].mean(1))
        top, bottom = top + rows.start, bottom + rows.start
        box = slice(top, bottom), columns
        in_margin = bottom <= _MARGIN * height or top >= (1 - _MARGIN) * height
        wide = columns.stop - columns.start
        is_line = bottom - top >= _LEAST_ROWS and wide >= max(_LONG * (bottom - top), _LEAST_WIDTH * width)
        is_written = np.median(strokes[box].mean(1)) >= _STROKES and has_detail[box].mean() >= _DENSE
        around = slice(max(top - 3, 0), bottom + 3), slice(max(columns.start - 3, 0), columns.stop + 3)
        in_sky = np.median(deviation[around]) < _CALM * np.median(deviation)
        is_cloud = in_sky and strong[box].mean() < _CLOUD
        if in_margin and is_line and is_written and not is_cloud:
            found[top:bottom, max(columns.start - 1, 0) : columns.stop + 1] = True
    return found


def _detail(pictures: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Mean and standard deviation over time (h, w) of each pixel's difference from its surroundings, in the channel
    with the largest ratio of both."""
    side = 2 * max(round(_AROUND * pictures.shape[1]), 2) + 1
    total = np.zeros(pictures.shape[1:], np.float64)
    squares = np.zeros_like(total)
    for picture in pictures:
        values = picture.astype(np.float32)
        values -= cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT)
        total += values
        squares += values * values
    mean = total / len(pictures)
    deviation = np.sqrt(np.maximum(squares / len(pictures) - mean**2, 0))
    surest = np.argmax(np.abs(mean) / (deviation + _NOISE), axis=-1)[..., None]
    taken = (np.take_along_axis(one, surest, -1)[..., 0].astype(np.float32) for one in (mean, deviation))
    return next(taken), next(taken)


def _lines(has_detail: Mask) -> list[tuple[slice, slice]]:
    """Rows and columns of each area with much detail."""
    width = has_detail.shape[1]
    reach = 2 * max(round(_REACH * width / 2), 4) + 1
    dense = cv2.blur(has_detail.astype(np.float32), (reach, 3), borderType=cv2.BORDER_REFLECT) > _DENSE
    gap = max(round(_GAP * width), 5)
    padded = np.pad(has_detail & dense, ((0, 0), (gap, gap)))
    joined = ndimage.binary_closing(padded, np.ones((1, gap | 1), bool))[:, gap:-gap]
    labels, _ = ndimage.label(joined, np.ones((3, 3), bool))
    return [place for place in ndimage.find_objects(labels) if place[0].stop - place[0].start >= _LEAST_ROWS]


def _inked(strokes: NDArray[np.float64], contrast: Floats) -> tuple[int, int]:
    """First row of a line of text and the one after its last, from the share of strokes (n,) and the mean contrast (n,)
    of each row. Rows above and below have contrast too, because letters differ in brightness from their surroundings.
    """
    rows = np.flatnonzero(strokes >= _INK_ROW * strokes.max())
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    outline = _OUTLINE_ROW * float(contrast[top:bottom].mean())
    if top > 0 and contrast[top - 1] >= outline:
        top -= 1
    if bottom < len(contrast) and contrast[bottom] >= outline:
        bottom += 1
    return top, bottom
