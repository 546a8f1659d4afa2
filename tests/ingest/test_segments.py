"""Segments: a bad frame is flagged and keeps its place; a failing store is an error."""

import time
from dataclasses import replace

import cv2
import fsspec
import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.cameras.config import CameraConfig
from pipeline.errors import DecodeError
from pipeline.ingest.chunks import plan_chunks
from pipeline.ingest.drives import find_drive
from pipeline.ingest.segments import GREY, DriveTask, decode_segment, decode_thumbnails, rank_segments, read_frames
from tests.ingest.makers import number_of, picture, write_images, write_video
from tests.ingest.test_preprocess import png_that_claims
from tests.s3_proxy import S3Proxy
from tests.s3_server import s3, s3_server  # noqa: F401


def task_of(uri, chunk_size=6, overlap=3, **options):
    drive = find_drive(str(uri), **options)
    return DriveTask(drive, 42, 56, plan_chunks(drive.frame_count, chunk_size, overlap), chunk_size - overlap)


def test_the_plan_reads_each_frame_once_and_names_its_files(tmp_path):
    write_images(tmp_path / "a", 14)
    write_images(tmp_path / "b", 2)
    tasks = [task_of(tmp_path / "a"), task_of(tmp_path / "b")]
    one = list(rank_segments(tasks, 0, 1))
    assert [(s.drive_index, s.start, s.stop) for s in one] == [
        *((0, 0, 3), (0, 3, 6), (0, 6, 9), (0, 9, 12), (0, 12, 14), (1, 0, 2))
    ]
    assert [uri for s in one for uri in s.uris] == [*tasks[0].drive.uris, *tasks[1].drive.uris]
    two = [list(rank_segments(tasks, rank, 2)) for rank in (0, 1)]
    assert [s.start for s in two[0]] == [0, 3, 6] and two[0][-1].stop == 9  # chunks 0-5, 3-8
    assert [s.start for s in two[1]] == [6, 9, 12, 0] and two[1][-1].drive_index == 1  # 6-11, 9-13; all of b


def test_frames_are_decoded_in_order_and_size(tmp_path):
    write_images(tmp_path / "d", 5)
    batch = decode_segment(next(rank_segments([task_of(tmp_path / "d", 5, 0)], 0, 1)))
    assert batch.images.shape == (5, 42, 56, 3) and batch.images.dtype == np.uint8
    assert batch.ok.all() and batch.reasons == (None,) * 5 and batch.storage_failure is None
    assert [number_of(image) for image in batch.images] == [0, 1, 2, 3, 4]


def test_bad_frames_are_grey_flagged_and_keep_their_places(tmp_path):
    paths = write_images(tmp_path / "d", 8)
    task = task_of(tmp_path / "d", 8, 0)
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:150])
    paths[3].write_bytes(png_that_claims(50_000, 50_000))
    Image.fromarray(picture(4, 80, 60)).save(paths[4])
    paths[5].unlink()
    Image.fromarray(np.zeros((48, 64), np.float32)).save(paths[6], "TIFF")
    batch = decode_segment(next(rank_segments([task], 0, 1)))
    assert list(batch.ok) == [True, False, False, False, False, False, False, True]
    expected = [
        *(None, "frame1.png: the file has no bytes", "frame2.png: corrupt or truncated PNG"),
        "frame3.png: more than 89478485 pixels: refused as a decompression bomb",
        "frame4.png: expected 64x48 pixels as in the drive's first frame, got 80x60",
        *("vanished since the drive was listed", "frame6.png: expected 8 or 16 bits", None),
    ]
    for said, reason in zip(batch.reasons, expected, strict=True):
        assert said is None if reason is None else reason in said
    assert (batch.images[1:7] == GREY).all()
    assert [number_of(batch.images[i]) for i in (0, 7)] == [0, 7]


@pytest.mark.parametrize("what", ["links in a circle", "a folder", "a device without end"])
def test_a_file_that_cannot_be_read_is_one_bad_frame(tmp_path, what):
    paths = write_images(tmp_path / "d", 4)
    task = task_of(tmp_path / "d", 4, 0)
    paths[2].unlink()
    if what == "links in a circle":
        paths[2].symlink_to(paths[2])
    elif what == "a folder":
        paths[2].mkdir()
    else:
        paths[2].symlink_to("/dev/zero")
    for decode in (decode_segment, decode_thumbnails):
        batch = decode(next(rank_segments([task], 0, 1)), waits_s=())
        assert batch.storage_failure is None and list(batch.ok) == [True, True, False, True]
        assert "frame2.png" in batch.reasons[2]


def test_a_video_cut_off_has_the_frames_that_are_there(tmp_path):
    path = write_video(tmp_path / "ride.mp4", 40, index_first=True)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.9)])
    batches = [decode_segment(segment) for segment in rank_segments([task_of(path, 16, 6)], 0, 1)]
    ok = np.concatenate([batch.ok for batch in batches])
    images = np.concatenate([batch.images for batch in batches])
    assert 25 < len(ok) < 40 and ok[:-1].all()  # the last packet may be incomplete
    assert [number_of(image) for image in images[ok]] == list(np.flatnonzero(ok))


class Seen:
    """A tracker that records the pictures that it gets."""

    long_side = 200

    def __init__(self):
        self.segments = []

    def picture(self, grey):
        return grey

    def segment_done(self, first_frame, pictures):
        self.segments.append((first_frame, [None if one is None else one.shape for one in pictures]))


def test_a_tracker_sees_each_good_frame_once_where_it_is_decoded(tmp_path):
    paths = write_images(tmp_path / "d", 5)
    paths[1].write_bytes(b"")
    tracker = Seen()
    task = replace(task_of(tmp_path / "d", 5, 0), segment_length=3, tracker=tracker)
    for segment in rank_segments([task], 0, 1):
        decode_segment(segment)
    whole = (48, 64)
    assert tracker.segments == [(0, [whole, None, whole]), (3, [whole, whole])]
    read_frames(task, range(5))
    assert len(tracker.segments) == 2, "the tracker must not get frames that are read again"


def test_a_tracker_sees_the_pictures_of_a_lens_rectified(tmp_path):
    write_images(tmp_path / "d", 2)
    (tmp_path / "camera.txt").write_text("1 OPENCV_FISHEYE 64 48 20 20 32 24 0.01 0 0 0\n")
    camera = CameraConfig(str(tmp_path / "camera.txt"))
    drive = find_drive(str(tmp_path / "d"), camera=camera)
    tracker = Seen()
    task = DriveTask(drive, 14, 28, plan_chunks(2, 2, 0), 2, tracker=tracker)
    decode_segment(next(rank_segments([task], 0, 1)))
    assert tracker.segments == [(0, [(28, 56), (28, 56)])], "twice the network's picture: the lens shows no more detail"


def test_frames_of_one_colour_are_flagged_for_every_colour(tmp_path):
    paths = write_images(tmp_path / "street", 6)
    for number, grey in ((2, 0), (4, 255)):
        Image.new("RGB", (64, 48), (grey,) * 3).save(paths[number])
    (batch,) = (decode_segment(segment) for segment in rank_segments([task_of(tmp_path / "street", 6, 0)], 0, 1))
    assert batch.ok.tolist() == [True, True, False, True, False, True]
    assert "shows nothing" in batch.reasons[2] and "frame4.png" in batch.reasons[4]


def test_a_dangling_link_is_a_bad_frame_with_a_reason(tmp_path):
    paths = write_images(tmp_path / "street", 6)
    paths[3].unlink()
    paths[3].symlink_to(tmp_path / "nowhere.png")
    (batch,) = (decode_segment(segment) for segment in rank_segments([task_of(tmp_path / "street", 6, 0)], 0, 1))
    assert batch.ok.tolist() == [True, True, True, False, True, True]
    assert "link that leads nowhere" in batch.reasons[3]


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_pictures_of_more_than_8_bits_have_one_white_level_for_the_whole_drive(tmp_path, bits, colour):
    folder = tmp_path / "street"
    folder.mkdir()
    for number in range(6):
        grey = picture(number)[..., 0].astype(np.uint16)
        grey[0, 0] = 255 if number == 3 else grey[0, 0]  # there is one bright spot in the drive
        deep = (grey.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
        values = np.repeat(deep[..., None], 3, axis=-1) if colour else deep
        cv2.imwrite(str(folder / f"frame{number}.png"), values)
    task = task_of(folder, 6, 0)
    assert task.drive.white == 2**bits - 1
    (batch,) = (decode_segment(segment) for segment in rank_segments([task], 0, 1))
    assert [number_of(image) for image in batch.images] == list(range(6))


@pytest.mark.parametrize("size", [(1, 1), (17, 4000), (4000, 17), (40, 500)])
def test_frames_of_no_useful_size_are_refused_before_any_work(tmp_path, size):
    folder = tmp_path / "street"
    write_images(folder, 3, width=size[0], height=size[1])
    with pytest.raises(DecodeError, match=rf"{size[0]}x{size[1]} pixels cannot be used"):
        find_drive(str(folder))


def test_a_video_with_a_stride_gives_the_planned_frames(tmp_path):
    path = write_video(tmp_path / "ride.mp4", 30)
    batches = [decode_segment(segment) for segment in rank_segments([task_of(path, 4, 1, fps=2)], 0, 1)]
    images = np.concatenate([batch.images for batch in batches])
    assert [number_of(image) for image in images] == [0, 5, 10, 15, 20, 25]


def test_a_task_for_frames_that_the_drive_does_not_have_is_refused(tmp_path):
    write_images(tmp_path / "d", 8)
    drive = find_drive(str(tmp_path / "d"))
    for chunks in ((range(5),), (range(1, 8),), (), (range(3), range(5, 8))):
        with pytest.raises(ValueError):
            DriveTask(drive, 42, 56, chunks, 4)
    with pytest.raises(ValueError):
        DriveTask(drive, 42, 56, (range(8),), 0)


@pytest.mark.cluster
def test_a_failing_store_is_an_error_and_not_a_bad_frame(tmp_path, s3, monkeypatch):  # noqa: F811
    for path in write_images(tmp_path / "street", 4):
        storage.upload(path, storage.join(s3, "outage", path.name))
    segment = next(rank_segments([task_of(storage.join(s3, "outage"), 4, 0)], 0, 1))
    assert decode_segment(segment).ok.all()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    batch = decode_segment(segment, waits_s=(0.1,))
    assert len(batch.ok) == 0 and batch.images.shape == (0, 42, 56, 3)
    assert batch.storage_failure is not None
    assert batch.storage_failure.startswith("drive outage, frames 0 to 3: the store of s3://tests/outage")


@pytest.mark.cluster
def test_a_store_that_answers_again_after_a_while_is_waited_for(tmp_path, s3, s3_server, monkeypatch):  # noqa: F811
    for path in write_images(tmp_path / "street", 4):
        storage.upload(path, storage.join(s3, "again", path.name))
    segment = next(rank_segments([task_of(storage.join(s3, "again"), 4, 0)], 0, 1))
    proxy = S3Proxy(s3_server.ports[0])
    back = time.monotonic() + 1.5
    proxy.fault = lambda method, path: "503" if time.monotonic() < back else None
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        batch = decode_segment(segment, waits_s=(0.5,) * 40)
    finally:
        proxy.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert batch.storage_failure is None and batch.ok.all() and proxy.hit > 0


def test_frames_read_again_are_those_of_the_stream(tmp_path):
    write_images(tmp_path / "d", 12)
    task = task_of(tmp_path / "d")
    images, ok, reasons = read_frames(task, (1, 2, 3, 9, 10))
    whole = np.concatenate([decode_segment(s).images for s in rank_segments([task], 0, 1)])
    np.testing.assert_array_equal(images, whole[[1, 2, 3, 9, 10]])
    assert ok.all() and reasons == (None,) * 5
