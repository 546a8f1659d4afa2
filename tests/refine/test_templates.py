"""A track is found again by its first patch, although the patch grows."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.refine.templates import Templates
from pipeline.refine.tracks import Picture, find_corners, track_pictures

GROWTH = 1.06  # of the picture from frame to frame


def grown(count: int) -> list[Picture]:
    """Pictures (200, 320) of a texture that grows around the middle."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 320)).astype(np.uint8)
    sheet = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0), np.float64)
    sheet = np.clip(128 + 5 * (sheet - 128), 0, 255).astype(np.uint8)
    pictures = []
    for n in range(count):
        scale = GROWTH**n
        motion = np.array([[scale, 0, 160 * (1 - scale)], [0, scale, 100 * (1 - scale)]])
        pictures.append(Picture.of(np.asarray(cv2.warpAffine(sheet, motion, (320, 200), flags=cv2.INTER_CUBIC))))
    return pictures


def test_a_track_stays_at_its_corner_while_the_picture_grows() -> None:
    first, last, _ = track_pictures(grown(9)).between(0, 8)
    assert len(first) > 40
    middle = np.array([160.5, 100.5])
    missed = np.linalg.norm(last - (middle + GROWTH**8 * (first - middle)), axis=1)
    assert np.median(missed) < 0.15  # 1.1 pixels where corners are followed from picture to picture alone


def test_a_patch_that_is_hidden_begins_a_new_template_where_it_was_followed_to() -> None:
    before = grown(1)[0].pixels
    points = find_corners(before, np.zeros((0, 2), np.float32))
    templates = Templates.of(before, points, 9)
    hidden = before.copy()
    hidden[:, :160] = np.random.default_rng(1).integers(0, 256, (200, 160))
    place, templates = templates.found(hidden, points)
    away, seen = points[:, 0] < 150, points[:, 0] > 170
    assert away.sum() > 20 and seen.sum() > 20
    np.testing.assert_allclose(place[away | seen], points[away | seen], atol=0.05)
    again, _ = templates.found(hidden, points)
    np.testing.assert_allclose(again[away], points[away], atol=0.05)
    np.testing.assert_array_equal(templates.warp[away], np.broadcast_to(np.eye(2), (int(away.sum()), 2, 2)))


def test_no_track_needs_no_template() -> None:
    none = Templates.of(grown(1)[0].pixels, np.zeros((0, 2), np.float32), 9)
    place, templates = none.found(grown(1)[0].pixels, np.zeros((0, 2), np.float32))
    assert len(place) == 0 and templates.grey.shape == (0, 81)
