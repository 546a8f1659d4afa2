"""Where positions are looked for, and how their clock becomes the drive's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import DriveError
from pipeline.fleet.discover.drive_list import read_drive_list
from pipeline.georeference import NoPositionsError, PositionsConfig, find_positions, read_positions
from pipeline.georeference.clocks import on_drive_clock
from pipeline.georeference.comma2k19 import read_comma2k19
from pipeline.georeference.find import with_positions
from pipeline.georeference.positions import Positions, fixes_of
from pipeline.ingest.drives import find_drive
from pipeline.ingest.video import FRAME_MARK

GPS = "t,lat,lon\n0,49,8\n1,49.0001,8.0001\n2,49.0002,8.0002\n"
NAN = float("nan")


def frames(folder, count=4, exif=False):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = Image.new("RGB", (64, 32), (number, 90, 90))
        about = image.getexif()
        if exif:
            about[0x8825] = {1: "N", 2: (49.0, 0.0, number * 1.0), 3: "E", 4: (8.0, 0.0, 0.0), 6: 100.0}
        image.save(folder / f"{number:06d}.jpg", exif=about)
    return folder


def source_of(folder, **settings):
    drive = with_positions(find_drive(str(folder)), PositionsConfig(**settings))
    return drive, drive.positions


def test_a_drive_without_positions_has_none_and_its_identity_stays(tmp_path):
    drive, found = source_of(frames(tmp_path / "a"))
    assert found is None and "positions" not in drive.picture


@pytest.mark.parametrize("name", ["gps.csv", "track.gpx", "drive_gps.csv", "a.csv", "GNSS.CSV", "log.nmea"])
def test_a_file_that_lies_with_the_frames_is_found_by_its_name(tmp_path, name):
    folder = frames(tmp_path / "a")
    (folder / name).write_text(GPS)
    drive, found = source_of(folder)
    assert found["kind"] == "file" and found["uris"][0].endswith(name) and not found["asked"]
    assert not any(".csv" in note for note in drive.notes) or name == "a.csv"
    before = drive.picture["positions"]
    (folder / name).write_text(GPS + "3,49.0003,8.0003\n")
    assert source_of(folder)[0].picture["positions"] != before


def test_none_reads_nothing_that_lies_there(tmp_path):
    folder = frames(tmp_path / "a")
    (folder / "gps.csv").write_text(GPS)
    assert source_of(folder, file="none")[1] is None


def test_pictures_with_positions_are_their_own_source(tmp_path):
    folder = frames(tmp_path / "a", exif=True)
    drive, found = source_of(folder)
    assert found["kind"] == "exif"
    read = read_positions(
        find_positions(str(folder), drive.uris, "a", PositionsConfig()), PositionsConfig(), drive.uris, None
    )
    np.testing.assert_allclose(read.positions.fixes.latitude, 49 + np.arange(4) / 3600)
    assert read.window_s == 0 and read.frame_time_s.tolist() == [0, 1, 2, 3]


def test_kitti_raw_packets_are_found_beside_the_cameras(tmp_path):
    folder = frames(tmp_path / "2011_drive" / "image_02" / "data")
    packets = tmp_path / "2011_drive" / "oxts" / "data"
    packets.mkdir(parents=True)
    for number in range(4):
        row = [49 + number * 1e-5, 8.4, 112.0, *[0.0] * 5, 5.0, 0.0, *[0.0] * 13, 0.4, *[4.0] * 6]
        (packets / f"{number:010d}.txt").write_text(" ".join(map(str, row)))
    stamps = "".join(f"2011-09-26 13:02:{25 + number}.500000000\n" for number in range(4))
    (tmp_path / "2011_drive" / "oxts" / "timestamps.txt").write_text(stamps)
    (tmp_path / "2011_drive" / "image_02" / "timestamps.txt").write_text(stamps)
    drive, found = source_of(folder)
    assert found["kind"] == "oxts"
    source = find_positions(str(folder), drive.uris, "x", PositionsConfig())
    read = read_positions(source, PositionsConfig(), drive.uris, drive.timestamps_ns)
    np.testing.assert_allclose(read.positions.fixes.time_s, [0, 1, 2, 3], atol=1e-6)
    assert read.positions.fixes.accuracy.tolist() == [0.4] * 4
    assert read.positions.speed.speed_m_s.tolist() == [5.0] * 4


def segment(folder, first, count=40):
    """A segment as comma2k19 lays it out, seconds of the phone's boot clock from `first` on: 20 frames a second."""
    t = first + np.arange(count) / 20
    place = np.stack([49 + (t - 1000) * 1e-4, 8 + 0 * t, 10 + 0 * t, 0 * t, 100 + 0 * t, 0 * t], 1)
    for name, value in (
        ("global_pose/frame_times", t),
        ("processed_log/GNSS/live_gnss_ublox/t", t),
        ("processed_log/GNSS/live_gnss_ublox/value", place),
        ("processed_log/CAN/speed/t", t),
        ("processed_log/CAN/speed/value", np.full((count, 1), 11.1)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "wb") as file:
            np.save(file, value)
    (folder / "video.hevc").write_bytes(b"")


def test_segments_of_comma2k19_are_found_beside_their_videos_and_joined_on_the_firsts_clock(tmp_path):
    clips = []
    for number, first in enumerate((1000.0, 1002.0)):
        segment(tmp_path / str(number), first)
        clips.append(str(tmp_path / str(number) / "video.hevc"))
    uris = [f"{clip}{FRAME_MARK}{frame}" for clip in clips for frame in range(40)]
    source = find_positions(str(tmp_path), uris, "a", PositionsConfig())
    assert source.kind == "comma2k19" and len(source.uris) == 2
    read = read_positions(source, PositionsConfig(), uris, [round(n * 5e7) for n in range(80)])
    fixes, speed = read.positions.fixes, read.positions.speed
    np.testing.assert_allclose(fixes.time_s, np.arange(80) / 20, atol=1e-6)
    np.testing.assert_allclose(fixes.latitude, 49 + np.arange(80) / 20 * 1e-4, atol=1e-9)
    assert not speed.of_receiver and len(speed) == 80 and (speed.speed_m_s == 11.1).all()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("global_pose/frame_times", "frame_times"),
        ("processed_log/GNSS/live_gnss_ublox/value", ""),
        ("both", "without GNSS"),
    ],
)
def test_a_segment_with_parts_missing_gives_what_is_there_or_says_what_is_not(tmp_path, gone, said):
    segment(tmp_path, 1000.0)
    parts = ["processed_log/GNSS/live_gnss_ublox/value", "processed_log/CAN/speed/value"] if gone == "both" else [gone]
    for part in parts:
        (tmp_path / part).unlink()
    if said:
        with pytest.raises(NoPositionsError, match=said):
            read_comma2k19(str(tmp_path))
    else:
        read = read_comma2k19(str(tmp_path))
        assert len(read.fixes) == 0 and len(read.speed) == 40


def test_a_folder_given_for_many_drives_has_a_file_of_each_ones_name(tmp_path):
    folder = frames(tmp_path / "a")
    (tmp_path / "tracks").mkdir()
    (tmp_path / "tracks" / "a.csv").write_text(GPS)
    assert source_of(folder, file=str(tmp_path / "tracks"))[1]["uris"][0].endswith("tracks/a.csv")
    with pytest.raises(DriveError, match=r"b\.gpx"):
        with_positions(find_drive(str(frames(tmp_path / "b"))), PositionsConfig(file=str(tmp_path / "tracks")))


def test_drive_lists_have_a_column_of_positions(tmp_path):
    place = tmp_path / "drives.jsonl"
    rows = [{"drive_id": "a", "uri": "a", "positions": "a/gps.csv"}, {"drive_id": "b", "uri": "b", "positions": "none"}]
    place.write_text("\n".join(map(json.dumps, rows)))
    refs = list(read_drive_list(str(place)))
    assert refs[0].positions == str(tmp_path / "a" / "gps.csv") and refs[1].positions == "none"


def at(clock, times):
    return Positions("CSV gps.csv", clock, fixes_of([(t, 49, 8, NAN, NAN, NAN) for t in times]))


def test_times_since_1970_meet_frames_that_count_so_too():
    read = on_drive_clock(at("utc", [1.7e9 + 3, 1.7e9 + 4]), 1.7e9 + np.arange(10.0), 10, 5.0)
    assert read.positions.fixes.time_s.tolist() == [3, 4] and not read.positions.notes


def test_a_clock_without_a_date_takes_the_drives_day():
    midnight = 1_699_920_000.0  # 2023-11-14
    read = on_drive_clock(at("day", [3.0, 4.0]), midnight - 1 + np.arange(10.0), 10, 5.0)
    assert read.positions.fixes.time_s.tolist() == [4, 5]


def test_frames_that_count_from_their_start_begin_at_the_first_position_and_it_is_said():
    read = on_drive_clock(at("utc", [1.7e9, 1.7e9 + 9]), np.arange(10.0), 10, 5.0)
    assert read.positions.fixes.time_s.tolist() == [0, 9] and "first position" in read.positions.notes[0]


def test_the_date_in_a_video_is_used_where_it_fits():
    read = on_drive_clock(at("utc", [1.7e9, 1.7e9 + 900]), np.arange(10.0), 10, 5.0, created_s=1.7e9 + 100)
    assert read.positions.fixes.time_s[0] == -100 and "recording's date" in read.positions.notes[0]


def test_an_hour_of_positions_for_a_drive_of_seconds_asks_where():
    with pytest.raises(NoPositionsError, match=r"--positions\.clock-window 3591"):
        on_drive_clock(at("utc", [1.7e9, 1.7e9 + 3600]), np.arange(10.0), 10, 5.0)


def test_times_of_a_gps_week_take_the_drives_day():
    monday = 1_699_833_600.0  # 2023-11-13
    read = on_drive_clock(at("day", [86_400 + 3.0, 86_400 + 4.0]), monday - 1 + np.arange(10.0), 10, 5.0)
    assert read.positions.fixes.time_s.tolist() == [4, 5]


def test_milliseconds_from_the_drives_start_are_named():
    with pytest.raises(NoPositionsError, match=r"milliseconds\?.*time_ms"):
        on_drive_clock(at("drive", [0.0, 60_000.0]), np.arange(60.0), 60, 5.0)


def test_frame_numbers_are_those_of_the_source():
    read = on_drive_clock(
        at("frame", [10, 12, 99]), np.arange(4) * 0.2, 4, 5.0, frame_numbers=np.array([10, 12, 14, 16])
    )
    np.testing.assert_allclose(read.positions.fixes.time_s, [0, 0.2, NAN])
    assert read.window_s == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lever": "1,2"}, "x,y,z"),
        ({"lever": "1,2,nan"}, "within 100 m"),
        ({"clock_window": -1.0}, "0 to 86400"),
        ({"crs": "EPSG:999999"}, "no coordinate system"),
        ({"file": ""}, "empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        PositionsConfig(**settings)
