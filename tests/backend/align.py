"""The published way to align two chunks that share frames, from points: the plain twin of `Overlap.rigid_guess`."""

from __future__ import annotations

import numpy as np

from pipeline.backend.chunk import Chunk, Shared
from pipeline.backend.sim3 import Array, Sim3, fit_similarity
from pipeline.errors import AlignmentError


def align_points(
    first: Chunk,
    second: Chunk,
    shared: Shared,
    *,
    scale: bool = True,
    huber_delta: float = 0.1,
    rounds: int = 5,
    confidence_floor: float = 0.1,
) -> Sim3:
    """first_from_second over all pixels of all shared frames (Scal3R, "Joining chunks").

    Depth is unprojected with the predicted cameras. The same pixels of the same frames are paired with weight
    sqrt(conf_a conf_b); pixels count whose confidences are above `confidence_floor` times the smaller median. The
    weighted closed form is repeated `rounds` times with Huber weights on the distance, in units of `first`
    (`huber_delta`). Raises AlignmentError if fewer than three pixels are left.
    """
    points_first, confidence_first = first.points(shared.in_first)
    points_second, confidence_second = second.points(shared.in_second)
    finite = np.isfinite(points_first).all(-1) & np.isfinite(points_second).all(-1)
    floor = confidence_floor * min(float(np.median(confidence_first)), float(np.median(confidence_second)))
    use = finite & (confidence_first > floor) & (confidence_second > floor)
    target, source = points_first[use], points_second[use]
    weight = np.sqrt(confidence_first[use] * confidence_second[use])
    robust = np.ones_like(weight)
    try:
        for _ in range(rounds):
            relative = fit_similarity(source, target, weight * robust, with_scale=scale)
            robust = huber_weight(np.linalg.norm(relative.apply(source) - target, axis=1), huber_delta)
        return fit_similarity(source, target, weight * robust, with_scale=scale)
    except ValueError as error:
        raise AlignmentError(
            f"chunks with frames {first.frames} and {second.frames} cannot be aligned: {error}"
        ) from error


def huber_weight(residual: Array, delta: float) -> Array:
    """min(1, delta / residual), elementwise."""
    return np.asarray(delta / np.maximum(residual, delta))
