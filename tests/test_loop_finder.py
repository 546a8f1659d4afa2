"""A user's detector replaces the built-in one in every worker."""

import pickle

import numpy as np
import pytest

from pipeline.backend.loop_detection import LoopCandidate, LoopConfig, TokenDetector
from pipeline.loop_finder import DetectedLoops


class BrightPlaces:
    """Finds two frames of equal brightness that are far apart."""

    def __init__(self, config):
        self.config = config

    def describe(self, tokens, grid, images):
        return images.reshape(len(images), -1).mean(1, keepdims=True).astype(np.float32)

    def candidates(self, descriptors, usable=None):
        rows = descriptors[:, 0]
        pairs = [(i, j) for i in range(len(rows)) for j in range(i + self.config.min_gap, len(rows))]
        return tuple(LoopCandidate(i, j, 0.9) for i, j in pairs if rows[i] == rows[j] and usable[i] and usable[j])


OWN = LoopConfig(min_gap=20, window=3, detector=f"{__name__}:BrightPlaces")


def test_a_named_detector_sees_the_images_and_its_places_become_loop_chunks():
    finder = pickle.loads(pickle.dumps(DetectedLoops(OWN, chunk_size=12)))
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 8, 3), np.uint8)
    images[35] = images[5]
    rows = finder.describe(np.zeros((40, 2, 3), np.float32), (1, 2), images)
    found = finder.find(rows, np.ones(40, np.bool_))
    assert [(loop.first, loop.second) for loop in found] == [(5, 35)]
    assert found[0].frames == (4, 5, 6, 34, 35, 36)
    assert finder.find(rows, np.arange(40) != 35) == []


def test_a_finder_is_sent_to_workers_without_its_opened_detector():
    finder = DetectedLoops(OWN, chunk_size=12)
    assert isinstance(finder.detector, BrightPlaces)
    assert "detector" not in pickle.loads(pickle.dumps(finder)).__dict__


def test_without_a_name_the_built_in_detector_is_used():
    assert isinstance(DetectedLoops(LoopConfig(), 12).detector, TokenDetector)


@pytest.mark.parametrize("name", ["nowhere:Detector", f"{__name__}:Nothing"])
def test_a_missing_detector_gives_a_one_line_error(name):
    with pytest.raises(ValueError, match=r"--loop\.detector .*installed on every machine"):
        _ = DetectedLoops(LoopConfig(detector=name), 12).detector


def test_the_name_of_a_detector_needs_a_module():
    with pytest.raises(ValueError, match="module:name"):
        LoopConfig(detector="Detector")
