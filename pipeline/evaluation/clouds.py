"""Point clouds against each other: Chamfer distance and F1 at a distance, after the trajectories' alignment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Cloud = NDArray[np.float32]
"""Positions (n, 3)."""

LARGEST = 1_000_000
"""Points of a cloud that are compared at most: a tree and its queries over more take minutes and gigabytes."""


@dataclass(frozen=True)
class CloudErrors:
    """Distances in metres between an estimate and the truth.

    accuracy: mean distance of an estimated point to the truth; completeness: of a true point to the estimate; chamfer:
    the mean of both. precision, recall: the shares nearer than `threshold`; f1 their harmonic mean. estimated, true:
    points compared.
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
    """Errors of an estimate (n, 3) against the truth (m, 3), both metres in one world. ValueError for an empty one."""
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
    """One point a cube of side `size` of all pieces, the first that comes, at most LARGEST of them drawn with `seed`.

    So that what was looked at often counts no more than what was seen once. Memory: a cube's place and point each.
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
