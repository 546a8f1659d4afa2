"""Corners of near objects show whether a car stands."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.ingest.stops import StopConfig, frames_to_check, standing_frames, still_frames, still_runs
from pipeline.refine.standing import standing

Grey = NDArray[np.uint8]


@pytest.fixture(scope="module")
def street() -> Grey:
    """Soft texture (400, 2000)."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 2000)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2.0) * np.uint8(1)


def view(street: Grey, near: float, far: float = 0.0, noise: int = 0) -> Grey:
    """A picture (200, 320) whose lower half is shifted by `near` pixels, its upper half by `far`."""
    sheets = [
        cv2.warpAffine(street, np.array([[1.0, 0, -100 - shift], [0, 1, 0]]), (320, 400), flags=cv2.INTER_CUBIC)
        for shift in (far, near)
    ]
    picture = np.concatenate([sheets[0][:100], sheets[1][100:200]]).astype(np.float64)
    picture = 128 + 4 * (picture - 128)
    return np.clip(picture + np.random.default_rng(noise).normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def test_a_car_stands_while_near_objects_stay_and_drives_while_they_move(street: Grey) -> None:
    still = [view(street, 0, noise=n) for n in range(4)]
    assert standing(still).all()
    creeping = [view(street, 0.1 * n, noise=n) for n in range(8)]
    assert 2 <= (~standing(creeping)).sum() <= 5, "slow motion accumulates"
    shaken = [view(street, n % 2, n % 2, noise=n) for n in range(4)]
    assert standing(shaken).all(), "motion that far objects have too is the camera's rotation"


def test_far_objects_that_stay_are_no_stop_and_hidden_objects_do_not_end_a_stop(street: Grey) -> None:
    assert not standing([view(street, 0), view(street, 2), view(street, 4)]).any()
    hidden = np.full((200, 320), 90, np.uint8)
    assert standing([view(street, 0), hidden, None, view(street, 0, noise=1)]).tolist() == [True] * 3
    assert not standing([view(street, 0), hidden, hidden]).any(), "hidden pictures do not show that the car stands"
    stopping = [view(street, 2.0 * min(n, 3), noise=n) for n in range(6)]
    assert standing(stopping).tolist() == [False, False, False, True, True]
    assert standing([]).shape == (0,)


def test_stops_that_thumbnails_propose_in_a_clip_that_never_stands_are_rejected(shared: Path) -> None:
    with av.open(str(shared / "data/telemetry/karma.mp4")) as clip:
        frames = [frame.to_ndarray(format="gray") for frame, _ in zip(clip.decode(video=0), range(40), strict=False)]
    small = np.stack([cv2.resize(frame, (64, 32), interpolation=cv2.INTER_AREA) for frame in frames])
    proposed = still_frames(np.asarray(small, np.uint8), StopConfig())
    assert proposed.any()
    for run in still_runs(proposed):
        checked = frames_to_check(run)
        pictures = [cv2.resize(frames[n], (640, 360), interpolation=cv2.INTER_AREA) for n in checked]
        assert not len(standing_frames(checked, standing([np.asarray(one, np.uint8) for one in pictures])))


def test_the_checked_frames_of_a_run_include_its_ends_and_are_few() -> None:
    assert frames_to_check(range(7, 12)) == (7, 11)
    assert frames_to_check(range(33))[:3] == (0, 6, 13)
    long = frames_to_check(range(100, 9100))
    assert (long[0], long[-1], len(long)) == (100, 9099, 64)
    assert standing_frames((3, 6, 9), np.array([False, True])).tolist() == [6, 7, 8, 9]
    assert not len(standing_frames((3, 6), np.array([False])))
