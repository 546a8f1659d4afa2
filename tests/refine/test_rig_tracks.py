"""Corners of a rig are followed in each camera's own pictures."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.cameras.camera import Camera
from pipeline.cameras.rectify import View
from pipeline.refine.rig_tracks import RigTracker, RigTracks, link_rig
from pipeline.refine.tracks import Picture
from tests.refine.test_track_files import pictures


def test_each_camera_has_its_own_tracks_through_segments_that_cut_instants(tmp_path: Path) -> None:
    """Two cameras whose pictures move in opposite directions. A picture is missing, and a segment begins with the
    second camera."""
    moved = [pictures(8, (3.5, 1.25)), pictures(8, (-2.5, 0.5))]
    shown: list[Picture | None] = [Picture.of(moved[frame % 2][frame // 2]) for frame in range(16)]
    shown[5] = None
    tracker = RigTracker(str(tmp_path), 2)
    for begin, end in pairwise((0, 7, 16)):
        tracker.segment_done(begin, shown[begin:end])
    assert link_rig(str(tmp_path), 2) > 1000
    tracks = RigTracks(str(tmp_path), 2).of(0, 16)
    assert not (tracks.frame == 5).any()
    same = (np.diff(tracks.track) == 0) & (np.diff(tracks.frame) == 2)
    steps, camera = np.diff(tracks.xy, axis=0)[same], tracks.frame[:-1][same] % 2
    for number, step in enumerate(([-3.5, -1.25], [2.5, -0.5])):
        off = np.linalg.norm(steps[camera == number] - step, axis=1)
        assert len(off) > 300 and np.median(off) < 0.1
    for track in np.unique(tracks.track)[:50]:
        assert len(np.unique(tracks.frame[tracks.track == track] % 2)) == 1
    whole = [np.unique(tracks.track[tracks.frame == frame]) for frame in (0, 14)]
    assert len(np.intersect1d(*whole)) > 30, "tracks go on across the border of the segments"
    part = RigTracks(str(tmp_path), 2).of(3, 9)
    assert part.frame.min() == 3 and part.frame.max() == 8
    inside = tracks.select((tracks.frame >= 3) & (tracks.frame < 9))
    np.testing.assert_array_equal(part.track, inside.track)


def test_no_corner_lies_at_the_rim_of_what_a_narrower_camera_sees(tmp_path: Path) -> None:
    """Two cameras see the same; the picture of the second one does not fill the common view."""
    seen = pictures(4, (3.5, 1.25))
    height, width = seen[0].shape
    wide = Camera("pinhole", width, height, width / 2, width / 2, width / 2, height / 2)
    views = tuple(View(lens, width, height, wide.fx) for lens in (wide, replace(wide, fx=wide.fx * 2, fy=wide.fy * 2)))
    unseen = ~views[1].seen()
    shown = [Picture.of(np.where(unseen, 128, picture).astype(np.uint8)) for picture in seen for _ in range(2)]
    larger = tuple(replace(view, width=2 * width, height=2 * height, focal=2 * view.focal) for view in views)
    for name, of_network in (("as-large", views), ("larger", larger)):
        folder = str(tmp_path / name)
        RigTracker(folder, 2, views=of_network).segment_done(0, shown)
        link_rig(folder, 2)
        tracks = RigTracks(folder, 2).of(0, 8)
        rim = np.abs(np.abs(tracks.xy - (width / 2, height / 2)) - (width / 4, height / 4)).min(1)
        second = tracks.frame % 2 == 1
        assert second.sum() > 100 and rim[second].min() > 10 > rim[~second].min()
