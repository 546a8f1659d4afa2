"""Corners are followed through pictures, also where OpenCV raises an error."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.refine.tracks import Picture, track_pictures
from pipeline.refine.two_view import two_view_pose
from tests.refine.scene import CAMERA, drive


def shifted(count: int) -> list[Picture]:
    """Pictures (120, 320) of a soft texture that moves to the left by two pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 400)).astype(np.uint8)
    sheet = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.float64)
    sheet = np.clip(128 + 4 * (sheet - 128), 0, 255).astype(np.uint8)
    return [Picture.of(np.ascontiguousarray(sheet[:, 2 * n : 2 * n + 320])) for n in range(count)]


def test_corners_are_followed_where_opencv_fails_to_find_a_geometry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise cv2.error("(-215:Assertion failed) !model.empty() in function 'setModelParameters'")

    pictures = shifted(3)
    monkeypatch.setattr(cv2, "findFundamentalMat", fails)
    monkeypatch.setattr(cv2, "findEssentialMat", fails)
    tracks = track_pictures(pictures)
    first, second, _ = tracks.between(0, 2)
    assert len(first) > 100
    np.testing.assert_allclose(np.median(second - first, axis=0), [-4, 0], atol=0.05)
    a, b, _ = drive(frames=4).tracks.between(0, 2)
    assert two_view_pose(a, b, CAMERA) is None
