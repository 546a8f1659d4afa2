"""Which videos of a folder are clips of one recording."""

import random

import pytest

from pipeline.ingest.clips import clip_runs, clips_between, ends_of_range, range_name, start_of
from pipeline.ingest.video import ClipHeader

MINUTE = ClipHeader(60 * 10**9, 0, None)


def unread(name):
    raise AssertionError(f"{name} is opened, though its name tells all")


def runs(names, header=unread):
    mixed = list(names)
    random.Random(3).shuffle(mixed)
    return clip_runs(mixed, header)


def minutes(count, first=0, step=1, name="202405{:02d}_{:02d}{:02d}00.mp4"):
    stamps = [first + k * step for k in range(count)]
    return [name.format(1 + m // 1440, m // 60 % 24, m % 60) for m in stamps]


@pytest.mark.parametrize(
    "names",
    [
        ["GX010042.MP4", "GX020042.MP4", "GX030042.MP4"],
        ["GOPR0042.MP4", "GP010042.MP4", "GP020042.MP4"],
        [f"GH{k:02d}1234.MP4" for k in range(1, 12)],
    ],
)
def test_the_chapters_of_one_gopro_recording_are_one_drive(names):
    assert runs(names) == [tuple(names)]


def test_chapters_of_two_recordings_are_two_drives_and_a_missing_chapter_is_a_gap():
    names = ["GX010042.MP4", "GX020042.MP4", "GX010043.MP4", "GX030043.MP4"]
    assert runs(names) == [("GX010042.MP4", "GX020042.MP4"), ("GX010043.MP4",), ("GX030043.MP4",)]


@pytest.mark.parametrize("name", ["seg_{:03d}.mp4", "ride-part{}.mkv", "segment{:02d}.mp4", "2_chunk_{}.mp4"])
def test_numbered_pieces_are_one_drive(name):
    names = [name.format(k) for k in range(1, 13)]
    assert runs(names, lambda clip: MINUTE) == [tuple(names)]


def test_a_missing_piece_of_more_than_some_seconds_cuts_the_drive():
    names = [f"seg_{k:03d}.mp4" for k in (1, 2, 4, 5)]
    assert runs(names, lambda clip: MINUTE) == [tuple(names[:2]), tuple(names[2:])]
    short = ClipHeader(2 * 10**9, 0, None)
    assert runs(names, lambda clip: short) == [tuple(names)]


def test_times_in_the_headers_of_pieces_show_where_a_drive_was_interrupted():
    created = {f"seg_{k}.mp4": (60 * k + (600 if k > 3 else 0)) * 10**9 for k in range(1, 7)}

    def header(name):
        return ClipHeader(60 * 10**9, 0, created[name])

    names = list(created)
    assert runs(names, header) == [tuple(names[:3]), tuple(names[3:])]
    # Where all pieces have the same time, it is that of the recording from which they were cut.
    assert runs(names, lambda name: ClipHeader(60 * 10**9, 0, 10**18)) == [tuple(names)]


@pytest.mark.parametrize("name", ["202405{:02d}_{:02d}{:02d}00.mp4", "2024_05{:02d}_{:02d}{:02d}00_0001F.MP4"])
def test_clips_that_each_begin_when_the_last_one_ends_are_one_drive_and_one_header_is_read(name):
    opened = []

    def header(clip):
        opened.append(clip)
        return MINUTE

    names = minutes(60, name=name)
    assert runs(names, header) == [tuple(names)]
    assert len(opened) == 1


def test_a_gap_between_clips_cuts_the_drive():
    morning, noon = minutes(5, first=480), minutes(4, first=720)
    assert runs([*morning, *noon], lambda clip: MINUTE) == [tuple(morning), tuple(noon)]
    names = ["20240501_080000.mp4", "20240501_080104.mp4", "20240501_080210.mp4"]  # gaps of 4 and 6 seconds
    assert runs(names, lambda clip: MINUTE) == [tuple(names[:2]), tuple(names[2:])]


def test_a_clip_that_cannot_be_opened_keeps_its_place():
    names = minutes(6)
    for broken in (0, 3, 5):
        assert runs(names, lambda clip, broken=broken: None if clip == names[broken] else MINUTE) == [tuple(names)]


def test_each_camera_of_a_car_is_a_separate_drive():
    names = [f"2024-05-01_08-{m:02d}-00-{side}.mp4" for side in ("front", "back") for m in range(3)]
    assert sorted(runs(names, lambda clip: MINUTE)) == [tuple(names[3:]), tuple(names[:3])]


@pytest.mark.parametrize(
    "names",
    [
        ["a.mp4", "b.mp4", "drive.mkv"],
        [f"drive_{k}.mp4" for k in range(1, 9)],
        ["VID_20240501_080000.mp4", "VID_20240501_110000.mp4", "VID_20240502_080000.mp4"],
        ["seg_1.mp4", "seg_1.mkv", "other_2.mp4"],
    ],
)
def test_unrelated_videos_are_separate_drives(names):
    assert sorted(runs(names, lambda clip: MINUTE)) == sorted((name,) for name in names)


def test_numbered_videos_are_one_drive_where_each_begins_when_the_last_one_ends():
    names = [f"DJI_{k:04d}.MP4" for k in range(1, 5)]
    by_clock = {name: ClipHeader(60 * 10**9, 0, (60 * k + 10**6) * 10**9) for k, name in enumerate(names)}
    assert runs(names, by_clock.get) == [tuple(names)]
    by_start = {name: ClipHeader(60 * 10**9, 60 * k * 10**9, None) for k, name in enumerate(names)}
    assert runs(names, by_start.get) == [tuple(names)]
    hours_apart = {name: ClipHeader(60 * 10**9, 0, 3600 * k * 10**9) for k, name in enumerate(names)}
    assert runs(names, hours_apart.get) == [(name,) for name in names]


def test_consecutive_clips_are_named_by_the_first_and_the_last():
    names = [f"seg_{k}.mp4" for k in range(1, 12)]
    assert range_name(names) == "seg_1.mp4..seg_11.mp4"
    assert ends_of_range(range_name(names[1:10])) == ("seg_2.mp4", "seg_10.mp4")
    assert clips_between([*names, "other_3.mp4"], "seg_2.mp4", "seg_10.mp4") == tuple(names[1:10])
    assert clips_between(names, "seg_2.mp4", "seg_99.mp4") == ()
    assert ends_of_range("a..b.mp4") is None and ends_of_range("seg_1.mp4") is None
    assert start_of("20240501_080000.mp4") == 1_714_550_400 * 10**9 and start_of("seg_1.mp4") is None
