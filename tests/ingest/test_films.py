"""Drives of several clips: frames have one clock and keep their places, also where a clip is cut off."""

import numpy as np
import pytest

from pipeline.errors import DriveError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.frames import DriveTask
from pipeline.ingest.segments import read_frames
from tests.ingest.makers import number_of, write_images, write_video

SECOND = 10**9


def frames_of(drive, numbers):
    task = DriveTask(drive, drive.source_height, drive.source_width, (range(drive.frame_count),), 40)
    images, ok, reasons = read_frames(task, numbers)
    return [number_of(image) for image in images], ok, reasons


def write_clips(folder, count, frames=4, rate=2, name="seg_{:03d}.mp4", **options):
    folder.mkdir(parents=True)
    return [write_video(folder / name.format(k), frames, rate=rate, codec="mpeg4", **options) for k in range(count)]


def test_sixty_clips_of_two_seconds_are_one_drive_and_a_truncated_one_is_flagged(tmp_path):
    paths = write_clips(tmp_path / "ride", 60)
    paths[31].write_bytes(paths[31].read_bytes()[:900])  # no index: it cannot be opened
    drive = find_drive(str(tmp_path / "ride"))
    assert drive.drive_id == "ride" and drive.frame_count == 240 and len(drive.listing) == 60
    assert set(np.diff(drive.timestamps_ns)) == {SECOND // 2}
    assert drive.frame_uris()[123:129:4] == [f"{paths[30]}#frame=3", f"{paths[31]}#frame=3"]
    assert "60 clips are one drive: seg_000.mp4 to seg_059.mp4" in drive.notes[0]
    assert "clip seg_031.mp4 cannot be opened" in drive.notes[1]
    numbers, ok, reasons = frames_of(drive, range(116, 136))
    assert ok.tolist() == [True] * 8 + [False] * 4 + [True] * 8
    assert [n for n, good in zip(numbers, ok, strict=True) if good] == [0, 1, 2, 3] * 4
    assert all("seg_031.mp4" in reason for reason in reasons[8:12])


def test_the_missing_frames_of_a_clip_that_ends_early_are_flagged(tmp_path):
    paths = write_clips(tmp_path / "ride", 3, frames=20, rate=10, index_first=True)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: int(len(data) * 0.6)])
    drive = find_drive(str(tmp_path / "ride"))
    assert drive.frame_count == 60 and set(np.diff(drive.timestamps_ns)) == {SECOND // 10}
    numbers, ok, reasons = frames_of(drive, range(60))
    lost = np.flatnonzero(~ok)
    assert 20 < lost[0] < 40 and lost.tolist() == list(range(lost[0], 40))
    assert numbers[40:] == list(range(20)) and "ends early" in reasons[39]


def test_times_in_the_names_of_clips_give_the_times_of_frames(tmp_path):
    folder = tmp_path / "car"
    folder.mkdir()
    for second in (0, 2, 4, 30, 32):
        write_video(folder / f"20240501_0800{second:02d}.mp4", 4, rate=2, codec="mpeg4")
    with pytest.raises(DriveError, match=r"5 videos of 2 drives.*20240501_080000.mp4..20240501_080004.mp4 has 3"):
        find_drive(str(folder), drive_id="car")
    drive = find_drive(f"{folder}/20240501_080000.mp4..20240501_080004.mp4")
    assert drive.drive_id == "20240501_080000"
    start = 1_714_550_400 * SECOND
    assert drive.timestamps_ns == tuple(start + k * SECOND // 2 for k in range(12))
    assert find_drive(f"{folder}/20240501_080030.mp4..20240501_080032.mp4").timestamps_ns[0] == start + 30 * SECOND
    # A single clip begins at the time in its name, too; its frames are found as well.
    alone = find_drive(str(folder / "20240501_080030.mp4"), stride=2)
    assert alone.timestamps_ns == (start + 30 * SECOND, start + 31 * SECOND)
    assert frames_of(alone, range(2))[0] == [0, 2]


def test_strides_rates_and_ranges_count_frames_over_all_clips(tmp_path):
    write_clips(tmp_path / "ride", 4)
    drive = find_drive(str(tmp_path / "ride"), stride=3, start=1)
    assert drive.frame_uris()[:3] == [
        f"{tmp_path}/ride/seg_00{clip}.mp4#frame={n}" for clip, n in ((0, 1), (1, 0), (1, 3))
    ]
    assert frames_of(drive, range(drive.frame_count))[0] == [1, 0, 3, 2, 1]
    assert find_drive(str(tmp_path / "ride"), fps=1).frame_count == 8


def test_clips_that_are_not_joined_are_named_in_the_error(tmp_path):
    write_clips(tmp_path / "ride", 2)
    with pytest.raises(DriveError, match="it holds 2 videos, each of them a drive"):
        find_drive(str(tmp_path / "ride"), join=False)
    with pytest.raises(DriveError, match="expected the first and the last"):
        find_drive(f"{tmp_path}/ride/seg_000.mp4..seg_009.mp4")


def test_a_folder_of_broken_clips_names_the_first(tmp_path):
    for path in write_clips(tmp_path / "ride", 2):
        path.write_bytes(b"x" * 100)
    with pytest.raises(DriveError, match=r"none of its 2 clips can be opened, the first: .*seg_000.mp4"):
        find_drive(f"{tmp_path}/ride/seg_000.mp4..seg_001.mp4")


def test_the_frames_of_a_clip_that_vanished_are_flagged_and_the_others_are_read(tmp_path):
    paths = write_clips(tmp_path / "ride", 3)
    drive = find_drive(str(tmp_path / "ride"))
    paths[1].unlink()
    _, ok, reasons = frames_of(drive, range(12))
    assert ok.tolist() == [True] * 4 + [False] * 4 + [True] * 4 and "vanished" in reasons[4]


def test_comma2k19_segments_are_one_drive_with_the_data_set_s_times(tmp_path):
    route = tmp_path / "b0c9|2018-07-27--06-03-57"
    for segment in (3, 4):
        (route / str(segment) / "global_pose").mkdir(parents=True)
        write_video(route / str(segment) / "video.hevc", 6, rate=20, codec="mpeg4", container="avi")
        with (route / str(segment) / "global_pose" / "frame_times").open("wb") as file:
            np.save(file, 1000 + 60 * segment + np.arange(6) / 20)
    drive = find_drive(str(route))
    assert drive.drive_id == "b0c9_2018-07-27--06-03-57" and drive.frame_count == 12
    assert drive.timestamps_ns[:2] == (1180 * SECOND, 1180 * SECOND + 50_000_000)
    assert drive.timestamps_ns[6] == 1240 * SECOND
    assert [file.name for file in drive.listing] == ["3/video.hevc", "4/video.hevc"]
    assert find_drive(f"{route}/4..4").frame_count == 6


def test_frames_split_over_folders_are_one_drive(tmp_path):
    paths = write_images(tmp_path / "all", 25)
    for number, path in enumerate(paths):
        folder = tmp_path / "ride" / f"{number // 10:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{number:06d}.png")
    (tmp_path / "ride" / "calib.txt").write_text("P0: 50 0 32 0 0 50 24 0 0 0 1 0\n")
    drive = find_drive(str(tmp_path / "ride"))
    assert drive.frame_count == 25 and drive.uris[10] == f"{tmp_path}/ride/001/000010.png"
    assert frames_of(drive, range(25))[0] == list(range(25))
    assert drive.camera.camera.fx == 50
    with pytest.raises(DriveError, match="no frames in"):
        find_drive(str(tmp_path / "ride"), join=False)


@pytest.mark.parametrize("restart", [0, 100])
def test_folders_whose_frame_numbers_do_not_continue_are_separate_drives(tmp_path, restart):
    for folder in range(3):
        for number, path in enumerate(write_images(tmp_path / "all", 4)):
            target = tmp_path / "fleet" / f"{folder:03d}" / f"{folder * restart + number:06d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    with pytest.raises(DriveError, match="no frames in"):
        find_drive(str(tmp_path / "fleet"))


def test_of_a_kitti_raw_recording_the_left_colour_camera_is_used(tmp_path):
    write_images(tmp_path / "2011_09_26_drive_0001_sync" / "image_02" / "data", 3)
    write_images(tmp_path / "2011_09_26_drive_0001_sync" / "image_00" / "data", 3)
    drive = find_drive(str(tmp_path / "2011_09_26_drive_0001_sync"))
    assert drive.drive_id == "2011_09_26_drive_0001_sync" and "/image_02/data/" in drive.uris[0]
