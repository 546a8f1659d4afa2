"""Compares point clouds: Chamfer distance, and F1 at a distance, after the alignment of the trajectories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Cloud = NDArray[np.float32]
"""Positions (n, 3)."""

LARGEST = 1_000_000
"""Most points of a cloud that are compared; with more, the search tree takes minutes and gigabytes."""


@dataclass(frozen=True)
class CloudErrors:
    """Distances between an estimate and the truth, metres.

    accuracy: mean distance from an estimated point to the nearest true one; completeness: from a true point to the
    nearest estimated one; chamfer: mean of both; precision, recall: shares of these points nearer than `threshold`; f1:
    their harmonic mean; estimated, true: numbers of points compared.
    """

    accuracy: float
    completeness: float
    chamfer: float
    precision: float
    recall: float
    f1: float
    threshold: float
    estimated: int
    true: int


def compare_clouds(estimate: Cloud, truth: Cloud, threshold: float) -> CloudErrors:
    """Errors of an estimate (n, 3) against the truth (m, 3), both in metres in one world. Raises ValueError if one is
    empty."""
    for name, cloud in (("estimate", estimate), ("truth", truth)):
        if not len(cloud):
            raise ValueError(f"the {name} has no points to compare")
    to_truth = cKDTree(truth).query(estimate)[0]
    to_estimate = cKDTree(estimate).query(truth)[0]
    precision, recall = float((to_truth < threshold).mean()), float((to_estimate < threshold).mean())
    accuracy, completeness = float(to_truth.mean()), float(to_estimate.mean())
    return CloudErrors(
        accuracy=accuracy,
        completeness=completeness,
        chamfer=(accuracy + completeness) / 2,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        threshold=threshold,
        estimated=len(estimate),
        true=len(truth),
    )


def thinned(pieces: Iterable[Cloud], size: float, seed: int) -> Cloud:
    """One point of each cube of side `size` (the first one), at most LARGEST points, drawn with `seed`.

    So places that were seen often do not weigh more than others. RAM: one key and one point per cube.
    """
    kept: list[Cloud] = []
    known = np.empty(0, np.int64)
    for piece in pieces:
        piece = np.asarray(piece, np.float32)
        keys = _cubes(piece, size)
        keys, places = np.unique(keys, return_index=True)
        fresh = ~np.isin(keys, known, assume_unique=True)
        kept.append(piece[np.sort(places[fresh])])
        known = np.concatenate([known, keys[fresh]])
    cloud = np.concatenate(kept) if kept else np.empty((0, 3), np.float32)
    if len(cloud) <= LARGEST:
        return cloud
    return cloud[np.sort(np.random.default_rng(seed).choice(len(cloud), LARGEST, replace=False))]


def _cubes(points: Cloud, size: float) -> NDArray[np.int64]:
    half = 1 << 20
    cells = np.clip(np.floor(points.astype(np.float64) / size), -half, half - 1).astype(np.int64) + half
    return (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
