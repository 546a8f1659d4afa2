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


def test_of_a_rig_instants_are_compared_and_a_camera_that_is_black_for_a_stretch_hides_no_loop():
    rng = np.random.default_rng(1)
    ways = rng.normal(size=(2, 90, 24))
    ways[:, 60:] = ways[:, 10:40]  # both cameras see the first instants again
    rows = (ways + rng.normal(0, 0.2, ways.shape)).transpose(1, 0, 2).reshape(180, 24).astype(np.float32)
    usable = np.ones(180, np.bool_)
    rows[1:60:2], usable[1:60:2] = 0.0, False  # the second camera is black
    near = LoopConfig(min_gap=40, window=4, sequence=3, suppression=5)
    found = DetectedLoops(near, chunk_size=12).find(rows, usable, cameras=2)
    assert found and {loop.second - loop.first for loop in found} == {100}
    assert all(loop.first % 2 == 0 and len(loop.frames) == 8 for loop in found)
    first = found[0].first // 2
    instants = [*range(first - 1, first + 1), *range(first + 49, first + 51)]
    assert found[0].frames == tuple(2 * instant + camera for instant in instants for camera in (0, 1))
    far = LoopConfig(min_gap=60, window=4, sequence=3, suppression=5)  # 50 instants, though 100 frames
    assert DetectedLoops(far, chunk_size=12).find(rows, usable, cameras=2) == []


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
