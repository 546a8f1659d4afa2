"""Corners of a rig are followed in each camera's own pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

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
