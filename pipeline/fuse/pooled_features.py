"""The features of a picture pooled to one vector, by which pictures of one place are found among many (VLAD: Jegou et
al., "Aggregating local descriptors into a compact image representation", 2010)."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.fuse.candidates import Floats

_LEARNED = 40_000  # descriptors from which centres are learned
_FEWEST = 10  # features of a picture that is used


def learned(descriptors: Floats, count: int) -> Floats | None:
    """`count` centres (count, 128) of descriptors (n, 128); None of fewer descriptors."""
    if len(descriptors) < count:
        return None
    some = descriptors[np.linspace(0, len(descriptors) - 1, min(len(descriptors), _LEARNED)).astype(np.int64)]
    ends = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-3)
    cv2.setRNGSeed(0)
    _, _, centres = cv2.kmeans(some, count, None, ends, 1, cv2.KMEANS_PP_CENTERS)
    return np.asarray(centres, np.float32)


def pooled_features(descriptors: Floats, words: Floats) -> Floats:
    """Descriptors (n, 128) as one unit vector (W * 128,): sums of differences from their nearest centres (W, 128).
    Zeros of fewer than ten."""
    answer = np.zeros((len(words), descriptors.shape[1]), np.float32)
    if len(descriptors) < _FEWEST:
        return answer.ravel()
    nearest = (descriptors @ words.T - 0.5 * (words**2).sum(1)).argmax(1)
    np.add.at(answer, nearest, descriptors - words[nearest])
    answer /= np.maximum(np.linalg.norm(answer, axis=1, keepdims=True), 1e-6)
    return np.asarray(answer.ravel() / max(float(np.linalg.norm(answer)), 1e-6))
