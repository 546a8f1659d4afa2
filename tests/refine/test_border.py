"""Tracks over the borders of segments are those of a drive without borders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.refine.border import Border, follow_over, same_corners
from pipeline.refine.segment_files import SegmentTracker, StagedSegment, tracks_table, write_table
from pipeline.refine.track_files import DriveTracks, link_segments
from pipeline.refine.tracks import LiveTracks, Picture, Tracks, track_pictures, tracks_and_live
from tests.refine.test_templates import grown
from tests.refine.test_track_files import pictures


def linked(folder: Path, shown: Sequence[Picture | None], *borders: int) -> Tracks:
    """Tracks of a drive whose segments end at the borders."""
    for begin, stop in pairwise([0, *borders, len(shown)]):
        SegmentTracker(str(folder)).segment_done(begin, shown[begin:stop])
    link_segments(str(folder))
    return DriveTracks(str(folder)).of(0, len(shown))


def places(tracks: Tracks) -> dict[tuple[int, int], NDArray[np.float64]]:
    return {(t, f): xy for t, f, xy in zip(tracks.track.tolist(), tracks.frame.tolist(), tracks.xy, strict=True)}


@pytest.mark.parametrize("border", [2, 5])
def test_tracks_that_live_at_a_border_are_those_of_a_drive_without_it(tmp_path: Path, border: int) -> None:
    shown = grown(8)
    whole, cut = track_pictures(shown), linked(tmp_path, shown, border)
    here = whole.frame == border - 1
    cut_places, compared, equal = places(cut), 0, 0
    at_border = dict(zip(cut.track[cut.frame == border - 1].tolist(), cut.xy[cut.frame == border - 1], strict=True))
    for number, xy in zip(whole.track[here].tolist(), whole.xy[here], strict=True):
        mine = [t for t, place in at_border.items() if np.linalg.norm(place - xy) < 0.01]
        for frame, there in zip(*(column[whole.track == number] for column in (whole.frame, whole.xy)), strict=True):
            compared += 1
            other = cut_places.get((mine[0], int(frame))) if mine else None
            equal += other is not None and bool(np.linalg.norm(other - there) < 0.05)
    assert compared > 500 and equal > 0.97 * compared


def test_a_corner_that_both_segments_found_has_one_track_with_the_positions_of_the_older_template() -> None:
    shown = [Picture.of(one) for one in pictures(12)]
    _, live = tracks_and_live(shown[:6])
    second = track_pictures(shown[6:], 6)
    assert live is not None
    border = follow_over(live, list(enumerate(shown[6:], 6)), second)
    assert len(border.first) > 30
    assert len(np.unique(border.first)) == len(np.unique(border.second)) == len(border.first)
    assert (np.linalg.norm(border.apart, axis=1) < 1).all()
    until = dict(zip(border.late.tolist(), border.until.tolist(), strict=True))
    for first, number in zip(border.first.tolist(), border.second.tolist(), strict=True):
        assert until[number] >= border.onward.frame[border.onward.track == first].max()
        assert (second.frame[second.track == number] == 6).any()


def test_tracks_that_part_after_the_border_are_two_corners() -> None:
    def track(number: int, *x: float) -> Tracks:
        xy = np.stack([x, np.full(len(x), 50.0)], 1)
        return Tracks(np.full(len(x), number), np.arange(5, 5 + len(x)), xy)

    def found(first: Tracks, second: Tracks, scale: float = 1.0) -> int:
        return len(same_corners(first, second, [5, 6, 7], scale, np.array([9.0, 9.0])).first)

    assert found(track(3, 10, 20, 30), track(8, 10.5, 20.5, 30.6)) == 1
    assert found(track(3, 10, 20, 30), track(8, 10.5, 20.5, 31.4)) == 0
    assert found(track(3, 10, 20, 30), track(8, 10.5, 20.5)) == 0
    assert found(track(3, 10, 20, 30), track(8, 11.5, 21.5, 31.5)) == 0
    assert found(track(3, 10, 20, 30), track(8, 11.5, 21.5, 31.5), 2.0) == 1
    assert found(Tracks.none(), track(8, 1, 2, 3)) == 0


def test_a_corner_beside_a_followed_one_begins_where_that_one_ends() -> None:
    xy = np.array([[50.0, 50.0], [54.0, 47.0], [80.0, 50.0]])
    followed = Tracks(np.array([4, 4, 4]), np.array([4, 5, 6]), np.repeat(xy[:1], 3, 0))
    second = Tracks(np.repeat([0, 1], 5), np.tile(np.arange(5, 10), 2), np.repeat(xy[1:], 5, 0))
    border = same_corners(followed, second, [5, 6, 7], 1.0, np.array([9.0, 9.0]))
    assert not len(border.first)
    assert border.late.tolist() == [0] and border.until.tolist() == [6]


def test_corners_found_in_a_segments_last_frame_go_on(tmp_path: Path) -> None:
    tracks = linked(tmp_path, [Picture.of(one) for one in pictures(6)], 1, 2, 3, 4, 5)
    _, count = np.unique(tracks.track, return_counts=True)
    assert len(tracks) > 300 and (count == 2).any(), "each segment has one frame, and no track of its own"


def test_more_segments_than_are_linked_at_once_are_one_drive(tmp_path: Path) -> None:
    shown = [Picture.of(one) for one in pictures(6, size=(120, 80))]
    there_and_back = [shown[n] for n in np.abs((np.arange(66) + 5) % 10 - 5)]
    linked(tmp_path, there_and_back, *range(1, 66))
    drive = DriveTracks(str(tmp_path))
    assert len(drive) == 66
    for begin in range(63):
        first, second, _ = drive.of(begin, begin + 4).between(begin + 1, begin + 2)
        assert len(first) > 10 and np.median(np.linalg.norm(first - second, axis=1)) < 5


def test_bad_frames_at_a_border_do_not_end_tracks(tmp_path: Path) -> None:
    shown: list[Picture | None] = [Picture.of(one) for one in pictures(8)]
    shown[3] = shown[4] = shown[5] = None
    first, second, _ = linked(tmp_path, shown, 4).between(2, 6)
    assert len(first) > 50
    assert np.median(np.linalg.norm(second - first - [-14.0, -5.0], axis=1)) < 0.3
    only_bad: list[Picture | None] = [*shown[:3], None, None, *shown[6:]]
    assert len(linked(tmp_path / "bad", only_bad, 3, 5)) > 100


def test_the_same_segments_give_the_same_files_wherever_borders_are_computed(tmp_path: Path) -> None:
    shown = [Picture.of(one) for one in pictures(12)]

    def in_reverse(work: object, of: Sequence[tuple[object, ...]]) -> list[Border]:
        assert callable(work)
        return [work(*pair) for pair in reversed(of)][::-1]

    found = []
    for name in ("once", "again"):
        linked(tmp_path / name, shown, 4, 8)
        link_segments(str(tmp_path / name), in_reverse)
        found.append({file.name: file.read_bytes() for file in sorted((tmp_path / name).iterdir())})
    assert found[0] == found[1] and len(found[0]) == 12


def test_live_tracks_and_pictures_are_read_as_they_were_staged(tmp_path: Path) -> None:
    shown = grown(5)
    SegmentTracker(str(tmp_path)).segment_done(0, shown)
    segment = StagedSegment(str(tmp_path), "segment-0000000-0000005.arrow")
    _, live = tracks_and_live(shown)
    read = segment.live()
    assert live is not None and read is not None and len(live.track) > 100
    for name in ("track", "points"):
        np.testing.assert_array_equal(getattr(read, name), getattr(live, name))
    for name in ("grey", "search", "warp"):
        np.testing.assert_allclose(getattr(read.templates, name), getattr(live.templates, name), atol=1e-4)
    assert read.frame == 4 and read.picture.scale == live.picture.scale
    for (frame, picture), (number, original) in zip(segment.pictures(), enumerate(shown), strict=True):
        assert frame == number
        np.testing.assert_array_equal(picture.pixels, original.pixels)


def test_segments_of_an_older_version_are_linked_by_their_first_and_last_picture(tmp_path: Path) -> None:
    shown = [Picture.of(one) for one in pictures(12)]
    for begin in (0, 4, 8):
        ends = [(begin, shown[begin]), (begin + 3, shown[begin + 3])]
        facts = {
            "first": begin,
            "stop": begin + 4,
            "ends": [{"frame": f, "shape": one.pixels.shape, "scale": one.scale} for f, one in ends],
        }
        metadata = {f"picture{n}".encode(): one.pixels.tobytes() for n, (_, one) in enumerate(ends)}
        table = tracks_table(track_pictures(shown[begin : begin + 4], begin))
        table = table.replace_schema_metadata({b"segment": json.dumps(facts).encode(), **metadata})
        write_table(str(tmp_path / f"segment-{begin:07d}-{begin + 4:07d}.arrow"), table)
    assert link_segments(str(tmp_path)) > 1000
    _, count = np.unique(DriveTracks(str(tmp_path)).of(0, 12).track, return_counts=True)
    assert (count >= 9).sum() > 30, "tracks continue from segment to segment"


def test_tracks_of_an_empty_picture_are_staged_too(tmp_path: Path) -> None:
    flat = Picture.of(np.full((200, 320), 90, np.uint8))
    assert not len(linked(tmp_path, [flat] * 6, 3))
    live = StagedSegment(str(tmp_path), "segment-0000000-0000003.arrow").live()
    assert isinstance(live, LiveTracks) and not len(live.track)
