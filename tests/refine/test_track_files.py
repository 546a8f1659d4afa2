"""Tracks of moving pictures, and of segments linked into one drive."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.refine.segment_files import SegmentTracker
from pipeline.refine.track_files import DriveTracks, link_segments
from pipeline.refine.tracks import LONG_SIDE, Picture, track_pictures

Grey = NDArray[np.uint8]


def pictures(count: int, step: tuple[float, float] = (3.5, 1.25), size: tuple[int, int] = (320, 200)) -> list[Grey]:
    """A texture that moves by `step` pixels a frame."""
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (600, 900)).astype(np.float32), (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    out = []
    for i in range(count):
        shift = np.array([[1, 0, -100 - step[0] * i], [0, 1, -100 - step[1] * i]], np.float32)
        out.append(cv2.warpAffine(texture, shift, size, flags=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8))
    return out


def test_tracks_follow_the_picture_within_a_tenth_of_a_pixel() -> None:
    tracks = track_pictures([Picture.of(one) for one in pictures(6)])
    assert len(np.unique(tracks.track)) > 100
    same = np.diff(tracks.track) == 0
    moved = np.diff(tracks.xy, axis=0)[same]
    assert np.median(np.linalg.norm(moved - [-3.5, -1.25], axis=1)) < 0.1


def test_corners_of_a_small_picture_do_not_follow_the_background() -> None:
    """Squares of 16 pixels in front of a background that moves a quarter as much, in a picture of 320 pixels."""
    rng = np.random.default_rng(3)
    behind, before = pictures(4, (1.0, 0.0)), pictures(4, (4.0, 0.0))
    corners = rng.integers(0, (200, 320), (30, 2))
    shown = []
    for i, (far, near) in enumerate(zip(behind, before, strict=True)):
        front = np.zeros((200, 320), np.bool_)
        for y, x in corners:
            front[y : y + 16, max(x - 4 * i, 0) : max(x + 16 - 4 * i, 0)] = True
        shown.append(Picture.of(np.where(front, 255 - near, far)))
    tracks = track_pictures(shown)
    moved = -np.diff(tracks.xy[:, 0])[np.diff(tracks.track) == 0]
    neither = np.minimum(np.abs(moved - 1), np.abs(moved - 4)) > 0.3  # with a patch of 21 pixels 29 % of them
    assert len(moved) > 1000 and neither.mean() < 0.15


def test_a_frame_that_cannot_be_read_does_not_end_tracks() -> None:
    shown: list[Picture | None] = [Picture.of(one) for one in pictures(5)]
    shown[2] = None
    tracks = track_pictures(shown)
    assert not (tracks.frame == 2).any()
    assert len(np.intersect1d(tracks.track[tracks.frame == 1], tracks.track[tracks.frame == 3])) > 80


def test_masked_pixels_have_no_tracks() -> None:
    mask = np.ones((200, 320), np.bool_)
    mask[120:] = False
    tracks = track_pictures([Picture.of(one) for one in pictures(3)], mask=mask)
    assert len(tracks) and (tracks.xy[:, 1] < 121).all()


def test_large_pictures_are_reduced_and_their_tracks_are_in_source_pixels() -> None:
    large = np.zeros((1000, 2 * LONG_SIDE), np.uint8)
    picture = Picture.of(large)
    assert picture.pixels.shape[1] == LONG_SIDE
    np.testing.assert_allclose(picture.to_source(np.array([[-0.5, -0.5]])), [[0, 0]])
    there = np.array([[100.5, 40.25]])
    np.testing.assert_allclose(picture.to_source(picture.from_source(there)), there, atol=1e-3)


def test_segments_are_linked_into_tracks_of_the_whole_drive(tmp_path: Path) -> None:
    shown = pictures(12)
    tracker = SegmentTracker(str(tmp_path))
    for begin in (0, 4, 8):
        tracker.segment_done(begin, [tracker.picture(one) for one in shown[begin : begin + 4]])
    assert link_segments(str(tmp_path)) > 1000
    tracks = DriveTracks(str(tmp_path)).of(0, 12)
    _, count = np.unique(tracks.track, return_counts=True)
    assert (count >= 9).sum() > 30, "tracks continue from segment to segment"
    same = (np.diff(tracks.track) == 0) & (np.diff(tracks.frame) == 1)
    moved = np.diff(tracks.xy, axis=0)[same]
    assert np.quantile(np.linalg.norm(moved - [-3.5, -1.25], axis=1), 0.9) < 0.5
    pairs = set(zip(tracks.track.tolist(), tracks.frame.tolist(), strict=True))
    assert len(pairs) == len(tracks), "a track has one observation in a frame"


def test_segments_of_ranks_that_share_frames_are_linked_too(tmp_path: Path) -> None:
    shown = pictures(10)
    tracker = SegmentTracker(str(tmp_path))
    tracker.segment_done(0, [tracker.picture(one) for one in shown[0:6]])
    tracker.segment_done(4, [tracker.picture(one) for one in shown[4:10]])
    link_segments(str(tmp_path))
    tracks = DriveTracks(str(tmp_path)).of(0, 10)
    _, count = np.unique(tracks.track, return_counts=True)
    assert (count >= 8).sum() > 30
    assert len(set(zip(tracks.track.tolist(), tracks.frame.tolist(), strict=True))) == len(tracks)


def test_segments_of_an_earlier_attempt_are_not_counted_twice(tmp_path: Path) -> None:
    shown = pictures(12)

    def staged(folder: Path, *borders: int) -> Path:
        tracker = SegmentTracker(str(folder))
        for begin, stop in pairwise(borders):
            tracker.segment_done(begin, [tracker.picture(one) for one in shown[begin:stop]])
        return folder

    clean = staged(tmp_path / "clean", 0, 6, 12)
    link_segments(str(staged(tmp_path / "twice", 0, 4, 8, 12)))
    link_segments(str(staged(tmp_path / "twice", 0, 6, 12)))
    link_segments(str(clean))
    again, once = (DriveTracks(str(folder)).of(0, 12) for folder in (tmp_path / "twice", clean))
    assert abs(len(again) - len(once)) < 0.1 * len(once)
    pairs = set(zip(again.track.tolist(), again.frame.tolist(), strict=True))
    assert len(pairs) == len(again), "a track has one observation in a frame"
