"""What counts as a drive: images in natural order, KITTI sequences, videos; else the error gives a one-line reason."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import storage
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest.drives import Drive, find_drive, is_image_name
from pipeline.ingest.frame_series import natural_key
from pipeline.storage import NotFoundError
from tests.ingest.makers import picture, write_images, write_video
from tests.ingest.test_preprocess import png_that_claims
from tests.s3_server import s3, s3_server  # noqa: F401


def kitti(folder, count, times=None, camera="image_2"):
    (folder / camera).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / camera / f"{number:06d}.png")
    if times is not None:
        (folder / "times.txt").write_text("".join(f"{time:e}\n" for time in times))
    return folder


def test_names_are_sorted_by_the_numbers_in_them():
    ordered = ["9.png", "10.png", "a.png", "f1_9.png", "f1_10.png", "f02.png", "f2.png", "f10.png"]
    assert sorted(sorted(ordered), key=natural_key) == ordered


@given(st.lists(st.text(alphabet="ab019._-²٣", max_size=8)))
def test_natural_order_is_total_and_does_not_depend_on_the_listing(names):
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_dot_files_and_other_files_are_not_taken_for_images():
    assert all(is_image_name(name) for name in ("0.png", "a.JPG", "b.jpeg", "c.webp", "d.tiff"))
    assert not any(is_image_name(name) for name in (".DS_Store", "._0.png", "times.txt", "png", "a.png.part"))


def test_a_folder_of_images_is_a_drive_in_natural_order(tmp_path):
    folder = tmp_path / "street_1"
    write_images(folder, 12)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (folder / "thumbs.png").mkdir()
    drive = find_drive(str(folder))
    assert (drive.drive_id, drive.kind, drive.frame_count) == ("street_1", "images", 12)
    assert drive.uris == tuple(f"{folder}/frame{number}.png" for number in range(12))
    assert (drive.source_width, drive.source_height) == (64, 48)
    assert drive.timestamps_ns is None and drive.video_frames is None
    assert [file.name for file in drive.listing] == [f"frame{number}.png" for number in range(12)]
    assert drive.frame_uris() == list(drive.uris) == [f"{folder}/frame{number}.png" for number in range(12)]


def test_a_relative_path_and_a_trailing_slash_name_the_same_drive(tmp_path, monkeypatch):
    write_images(tmp_path / "street", 2)
    monkeypatch.chdir(tmp_path)
    whole = find_drive(str(tmp_path / "street"))
    assert find_drive("street") == find_drive(f"file://{tmp_path}/street") == whole
    assert find_drive("street/").uris == whole.uris and find_drive("street/").drive_id == "street"


def test_one_image_is_a_drive(tmp_path):
    write_images(tmp_path / "one", 1)
    assert find_drive(str(tmp_path / "one")).frame_count == 1


def test_a_stride_takes_every_nth_frame(tmp_path):
    write_images(tmp_path / "d", 7)
    drive = find_drive(str(tmp_path / "d"), stride=3)
    assert [uri[-10:] for uri in drive.uris] == ["frame0.png", "frame3.png", "frame6.png"]


def test_the_real_kitti_sequence_is_found_by_both_its_folders(shared):
    sequence = shared / "data/kitti/sequences/90"
    drive = find_drive(str(sequence))
    assert (drive.drive_id, drive.frame_count, drive.kind) == ("90", 51, "images")
    assert (drive.source_width, drive.source_height) == (1226, 370)
    assert drive.timestamps_ns is not None and drive.timestamps_ns[:3] == (0, 100_000_000, 200_000_000)
    by_images = find_drive(str(sequence / "image_0"))
    assert dataclasses.replace(by_images, source_uri=drive.source_uri) == drive
    assert find_drive(str(sequence), drive_id="mine", fps=5).frame_count == 26


def test_the_colour_camera_of_kitti_is_preferred(tmp_path):
    kitti(tmp_path / "07", 3, [0, 0.1, 0.2])
    kitti(tmp_path / "grey", 3, camera="image_0")
    shutil.copytree(tmp_path / "grey" / "image_0", tmp_path / "07" / "image_0")
    assert "/image_2/" in find_drive(str(tmp_path / "07")).uris[0]
    assert find_drive(str(tmp_path / "grey")).timestamps_ns is None  # a sequence without times.txt is allowed


def test_part_of_a_kitti_sequence_takes_its_times_by_number(tmp_path):
    folder = kitti(tmp_path / "07", 6, [0, 0.1, 0.2, 0.35, 0.4, 0.5])
    for number in (0, 1, 4):
        (folder / "image_2" / f"{number:06d}.png").unlink()
    assert find_drive(str(folder)).timestamps_ns == (200_000_000, 350_000_000, 500_000_000)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\n0.1\n", "expected a line for each of 3 images, got 2"),
        ("0\n0.1\nnoon\n", "line 3: expected a time"),
        ("0\n0.1\n0.1\n", "expected increasing times, got 0.1 s after 0.1 s at frame 2"),
        ("0\nnan\n0.1\n", "line 2: expected a time"),
        ("0\n0.1\ninf\n", "line 3: expected a time"),
    ],
)
def test_times_that_do_not_fit_are_refused(tmp_path, text, said):
    folder = kitti(tmp_path / "07", 3)
    (folder / "times.txt").write_text(text)
    with pytest.raises(DriveError, match=said) as raised:
        find_drive(str(folder))
    assert "times.txt" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(("fps", "expected"), [(10, 20), (5, 10), (2.5, 5), (100, 20), (3, 6), (0.5, 1)])
def test_fps_selects_frames_by_time(tmp_path, fps, expected):
    folder = kitti(tmp_path / "07", 20, [0.1 * number for number in range(20)])
    drive = find_drive(str(folder), fps=fps)
    assert drive.frame_count == expected
    times = np.array(drive.timestamps_ns) / 1e9
    assert times[0] == 0 and (np.diff(times) > 0).all()
    assert len(times) < 2 or np.diff(times).mean() == pytest.approx(max(1 / fps, 0.1), rel=0.1)


@pytest.mark.parametrize(
    ("wanted", "frames"),
    [
        ({"start": 5}, range(5, 20)),
        ({"end": 4}, range(4)),
        ({"start": 3, "end": 12, "stride": 4}, (3, 7, 11)),
        ({"start": 15, "end": 99}, range(15, 20)),
        ({"start": 4, "end": 12, "fps": 5}, (4, 6, 8, 10)),
    ],
)
def test_a_range_is_cut_before_stride_and_fps(tmp_path, wanted, frames):
    sequence = kitti(tmp_path / "07", 20, times=[k / 10 for k in range(20)])
    video = write_video(tmp_path / "clip.mp4", 20)
    drive = find_drive(str(sequence), **wanted)
    assert [file.name for file in drive.listing] == [f"{number:06d}.png" for number in frames]
    assert drive.timestamps_ns == tuple(number * 10**8 for number in frames)
    assert find_drive(str(video), **wanted).video_frames == tuple(frames)


def test_an_invalid_range_is_refused(tmp_path):
    write_images(tmp_path / "d", 4)
    with pytest.raises(DriveError, match="drive d: starts at frame 4 of 4"):
        find_drive(str(tmp_path / "d"), start=4)
    with pytest.raises(ValueError, match="start 3 and end 3"):
        find_drive(str(tmp_path / "d"), start=3, end=3)


def test_fps_without_times_is_refused(tmp_path):
    write_images(tmp_path / "d", 3)
    with pytest.raises(DriveError, match=r"fps needs known times.*use a stride"):
        find_drive(str(tmp_path / "d"), fps=2)


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"fps": 0}, {"fps": float("nan")}, {"stride": 2, "fps": 1}])
def test_invalid_settings_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"stride|fps"):
        find_drive(str(tmp_path), **wrong)


def test_a_missing_folder_gives_an_error(tmp_path):
    with pytest.raises(NotFoundError, match=r"no such file or folder: .*/nowhere"):
        find_drive(str(tmp_path / "nowhere"))
    with pytest.raises(NotFoundError, match=r"no such file or folder: .*/nowhere.mp4"):
        find_drive(str(tmp_path / "nowhere.mp4"))


def test_a_folder_without_images_gives_an_error_with_advice(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DriveError, match=r"no frames in .*; 1 file \.txt is not used; give the folder that holds"):
        find_drive(str(tmp_path))
    (tmp_path / "clip.mp4").write_bytes(b"x")
    with pytest.raises(DriveError, match=r"it holds 1 videos, each of them a drive: give one \(clip.mp4\)"):
        find_drive(str(tmp_path))


@pytest.mark.parametrize("name", ["my drive", "straße", "a:b"])
def test_an_unsafe_name_is_refused_and_the_error_asks_for_a_drive_id(tmp_path, name):
    write_images(tmp_path / name, 1)
    with pytest.raises(DriveError, match="--drive-id"):
        find_drive(str(tmp_path / name))
    assert find_drive(str(tmp_path / name), drive_id="good").drive_id == "good"
    with pytest.raises(DriveError):
        find_drive(str(tmp_path / name), drive_id="../up")


def test_unreadable_first_frames_do_not_decide_the_size(tmp_path):
    paths = write_images(tmp_path / "d", 5)
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"garbage")
    paths[2].write_bytes(png_that_claims(60_000, 60_000))
    drive = find_drive(str(tmp_path / "d"))
    assert drive.frame_count == 5 and (drive.source_width, drive.source_height) == (64, 48)


def test_a_drive_without_any_readable_frame_fails_with_the_first_reason(tmp_path):
    for path in write_images(tmp_path / "d", 3):
        path.write_bytes(b"garbage")
    with pytest.raises(DecodeError, match=r"drive d: .* first 3 of 3, got none \(frame0.png: not an image"):
        find_drive(str(tmp_path / "d"))
    for path in (tmp_path / "d").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DecodeError, match="all have no bytes"):
        find_drive(str(tmp_path / "d"))


def test_a_header_behind_a_large_preview_is_found(tmp_path):
    write_images(tmp_path / "d", 1, suffix=".jpg")
    path = tmp_path / "d" / "frame0.jpg"
    data = path.read_bytes()
    comment = b"\xff\xfe" + (65_000).to_bytes(2, "big") + bytes(64_998)
    path.write_bytes(data[:2] + comment * 3 + data[2:])
    assert find_drive(str(tmp_path / "d")).source_width == 64


def test_a_video_is_a_drive_with_the_times_of_its_frames(tmp_path):
    drive = find_drive(str(write_video(tmp_path / "ride.mp4", 30)))
    assert (drive.drive_id, drive.kind, drive.frame_count) == ("ride", "video", 30)
    assert drive.timestamps_ns == tuple(100_000_000 * number for number in range(30))
    assert drive.video_frames == tuple(range(30)) and len(drive.uris) == len(drive.listing) == 1
    assert drive.frame_uris()[3].endswith("/ride.mp4#frame=3")
    thinned = find_drive(drive.source_uri, fps=2)
    assert thinned.video_frames == (0, 5, 10, 15, 20, 25)
    assert find_drive(drive.source_uri, stride=7).video_frames == (0, 7, 14, 21, 28)


def test_a_video_without_bytes_or_index_gives_an_error(tmp_path):
    path = write_video(tmp_path / "ride.mp4", 20)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DecodeError, match=r"cannot be opened as a video, incomplete or not one") as raised:
        find_drive(str(path))
    assert "\n" not in str(raised.value)
    path.write_bytes(b"")
    with pytest.raises(DecodeError, match="has no bytes"):
        find_drive(str(path))


def test_a_drive_with_contradictory_values_is_refused(tmp_path):
    write_images(tmp_path / "d", 3)
    drive = find_drive(str(tmp_path / "d"))
    for change in (
        {"frame_count": 2},
        {"frame_count": 0, "uris": ()},
        {"drive_id": "../x"},
        {"timestamps_ns": (0, 1)},
        {"timestamps_ns": (0, 2, 1)},
        {"source_width": 0},
        {"kind": "video", "uris": drive.uris[:1]},
    ):
        with pytest.raises(DriveError):
            dataclasses.replace(drive, **change)


def test_twenty_thousand_files_are_listed_in_seconds(tmp_path):
    paths = write_images(tmp_path / "d", 1)
    data = paths[0].read_bytes()
    for number in range(1, 20_000):
        (tmp_path / "d" / f"frame{number}.png").write_bytes(data[:1])
    drive: Drive = find_drive(str(tmp_path / "d"))
    assert drive.frame_count == 20_000 and drive.uris[-1].endswith("/frame19999.png")


@pytest.mark.cluster
def test_the_same_drive_is_found_on_s3(tmp_path, s3):  # noqa: F811
    for path in write_images(tmp_path / "street", 12):
        storage.upload(path, storage.join(s3, "drives", "street", path.name))
    write_video(tmp_path / "ride.mp4", 12)
    storage.upload(tmp_path / "ride.mp4", storage.join(s3, "drives", "ride.mp4"))
    drive = find_drive(storage.join(s3, "drives", "street"))
    local = find_drive(str(tmp_path / "street"))
    assert drive.drive_id == "street" and drive.uris[10] == "s3://tests/drives/street/frame10.png"
    for here, there in zip(local.listing, drive.listing, strict=True):
        assert (here.name, here.size) == (there.name, there.size)
    assert all(file.etag for file in drive.listing)
    ride = find_drive(storage.join(s3, "drives", "ride.mp4"))
    assert ride.timestamps_ns == find_drive(str(tmp_path / "ride.mp4")).timestamps_ns
    with pytest.raises(NotFoundError, match="no such bucket"):
        find_drive("s3://nobody-made-this/street")
    with pytest.raises(NotFoundError, match="no such file or folder"):
        find_drive(storage.join(s3, "drives", "nowhere"))


@pytest.mark.parametrize("place", ["folder", "frame"])
def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path, place):
    latin = os.fsdecode("Stra\u00dfe".encode("latin-1"))
    folder = tmp_path / (latin if place == "folder" else "street")
    paths = write_images(folder, 3)
    if place == "frame":
        os.rename(paths[1], folder / f"{latin}.png")
    with pytest.raises(DriveError, match=r"1 names are not UTF-8, the first .*Stra.*rename"):
        find_drive(str(folder), drive_id="a")
