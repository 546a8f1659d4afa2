"""Chunks that know how certain their poses are: errors that loops reveal go where poses are least certain."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.backend import join_chunks
from pipeline.backend.chunk import Chunk
from pipeline.backend.config import BackendConfig
from pipeline.backend.drift import MOST_UNLIKE, looseness_of
from pipeline.backend.overlap import measure_overlap
from pipeline.backend.pose_residuals import PoseResiduals
from pipeline.errors import AlignmentError

_KINK = 700  # the frame at which all chunks see the drive turned
_NEAR = 15  # frames around it are uncertain


@pytest.fixture(scope="module")
def kinked(make: Callable[..., Any], drives: ModuleType) -> Any:
    """A drive whose chunks agree on a turn of 2 degrees that is not there; loop chunks see the true drive."""
    scenario = make(seed=2, limit=1640, loops=8, noise=0.5)
    truth, angle = scenario.world_from_cam, np.radians(2)
    turn = np.eye(4)
    turn[[0, 2], [0, 2]], turn[0, 2], turn[2, 0] = np.cos(angle), np.sin(angle), -np.sin(angle)
    bent = truth.copy()
    bent[_KINK:] = truth[_KINK] @ turn @ np.linalg.inv(truth[_KINK]) @ truth[_KINK:]
    rng = np.random.default_rng(2)
    scenario.chunks = [drives._predict(bent, one.frame_index, rng, 8, 20, 0.5) for one in scenario.chunks]
    return scenario


def near_the_kink(chunk: Any, factor: float) -> np.ndarray:
    near = np.abs(chunk.frame_index - _KINK) < _NEAR
    return np.where(near[:, None], factor, 1.0) * np.array([1e-4, 1e-3])


def test_loops_correct_a_turn_that_chunks_know_to_be_uncertain(kinked: Any, drives: ModuleType) -> None:
    error = []
    for factor in (1.0, 5.0):
        result = join_chunks(
            kinked.chunks,
            loop_chunks=kinked.loop_chunks,
            loop_pairs=kinked.loop_pairs,
            deviations=[near_the_kink(chunk, factor) for chunk in kinked.chunks],
        )
        assert all(loop.accepted for loop in result.loops)
        error.append(drives.ate(result.world_from_camera, kinked.world_from_cam))
    assert error[1] < 0.95 * error[0]


def test_deviations_that_are_all_alike_or_unknown_change_nothing(make: Callable[..., Any]) -> None:
    chunks = make(seed=1, limit=200, loops=0).chunks
    plain = join_chunks(chunks).world_from_camera
    alike = [np.full((len(chunk.frame_index), 2), 1e-3) for chunk in chunks]
    unknown = [None, *(np.full((len(chunk.frame_index), 2), np.nan) for chunk in chunks[1:])]
    np.testing.assert_array_equal(join_chunks(chunks, deviations=unknown).world_from_camera, plain)
    turned = join_chunks(chunks, deviations=alike).world_from_camera
    np.testing.assert_allclose(turned[:, :3, :3], plain[:, :3, :3], atol=1e-3)


def test_a_row_has_the_deviation_of_its_frame_in_both_chunks(make: Callable[..., Any]) -> None:
    chunks = make(seed=1, limit=90, loops=0).chunks
    known = [
        Chunk.read(one, pose_deviation=np.where(one.frame_index[:, None] == 40, 30.0, 1.0) * [1e-3, 1e-2])
        for one in chunks
    ]
    overlap = measure_overlap(known[0], known[1], (0, 1), BackendConfig())
    assert overlap is not None
    deviation = PoseResiduals.of([overlap], 59.0, np.ones(2)).deviation
    poor = overlap.frame_index == 40
    np.testing.assert_allclose(deviation[poor, :6], MOST_UNLIKE)
    np.testing.assert_allclose(deviation[~poor, :6], 1.0)


def test_a_chunk_is_as_loose_as_its_frames_are_uncertain() -> None:
    usual, poor = np.full((4, 2), 1e-3), np.full((4, 2), 2e-3)
    some = usual.copy()
    some[0] = np.nan
    assert looseness_of([]) is None and looseness_of([None, np.full((3, 2), np.nan)]) is None
    np.testing.assert_allclose(looseness_of([usual, some, poor, None, usual]), [1, 1, 2, 1, 1])
    np.testing.assert_allclose(looseness_of([usual, usual, 100 * poor]), [1, 1, MOST_UNLIKE])


def test_deviations_of_another_number_of_frames_are_refused(make: Callable[..., Any]) -> None:
    chunk = make(seed=1, limit=60, loops=0).chunks[0]
    with pytest.raises(AlignmentError, match=r"pose_deviation \(3, 2\) does not fit 60 frames"):
        join_chunks([chunk], deviations=[np.ones((3, 2))])
