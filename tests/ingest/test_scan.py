"""A look at the whole drive before it is planned: real Ray tasks over images and videos."""

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StorageError
from pipeline.ingest.drives import find_drive
from pipeline.ingest.preprocess import decode_image, thumbnail
from pipeline.ingest.scan import judge, propose, scan_drive
from pipeline.ingest.segments import FrameBatch, decode_thumbnails, segment_of
from pipeline.ingest.stops import StopConfig
from pipeline.refine.standing import NearThings
from tests.ingest.makers import write_video
from tests.jobs.conftest import image

STOP = StopConfig()
PLACES = [*range(12), *[11] * 20, *range(12, 20)]  # what each frame shows: frames 12 to 31 stand still


def stopping_drive(folder, suffix=".jpg"):
    folder.mkdir()
    for number, place in enumerate(PLACES):
        image(3 * place, size=(256, 128)).save(folder / f"frame{number}{suffix}")
    return folder


@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_a_drive_is_scanned_in_tasks_and_standing_frames_are_left_out(tmp_path):
    drive = find_drive(str(stopping_drive(tmp_path / "drive")))
    told = []
    scan = scan_drive(drive, STOP, True, NearThings(), told.append)
    assert scan.kept == (*range(12), *range(32, 40))
    assert scan.turned.shape == (20,)
    assert sum(told) == 40
    assert scan_drive(drive, None, False, NearThings()).kept == tuple(range(40))
    for path in (tmp_path / "drive").iterdir():
        path.unlink()
    (tmp_path / "drive").rmdir()
    assert scan_drive(drive, STOP, True, NearThings()).kept == tuple(range(40))  # all vanished: none of them is still


@pytest.mark.cluster
@pytest.mark.usefixtures("one_ray")
def test_a_scan_says_where_the_store_failed(tmp_path, monkeypatch):
    drive = find_drive(str(stopping_drive(tmp_path / "drive")))
    away = drive.__class__(**{**vars(drive), "uris": tuple(f"nowhere-fs://{n}.jpg" for n in range(40))})
    with pytest.raises(StorageError, match="drive drive, frames 0 to 39"):
        scan_drive(away, STOP, True, NearThings())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_thumbnails_are_alike_however_the_image_is_stored(tmp_path, suffix):
    drive = find_drive(str(stopping_drive(tmp_path / "drive", suffix)))
    batch = decode_thumbnails(segment_of(drive, 0, range(2, 5), range(40), 32, 64))
    assert batch.images.shape == (3, 32, 64)
    assert batch.ok.all()
    whole = thumbnail(image(9, size=(256, 128)), 64, 32)
    assert np.abs(batch.images[1].astype(int) - whole).mean() < (8 if suffix == ".jpg" else 0.5)


def test_a_jpeg_is_decoded_small_for_a_thumbnail(tmp_path):
    image(0, size=(1024, 512)).save(tmp_path / "one.jpg")
    data = (tmp_path / "one.jpg").read_bytes()
    small = decode_image(data, expected_size=(1024, 512), draft=(64, 32))
    assert (small.size, small.mode) == ((128, 64), "L")
    with pytest.raises(ValueError, match="expected 512x512"):
        decode_image(data, expected_size=(512, 512), draft=(64, 32))


def test_thumbnails_of_a_video_are_those_of_the_frames_that_are_used(tmp_path):
    drive = find_drive(str(write_video(tmp_path / "ride.mp4", 30)), stride=3)
    batch = decode_thumbnails(segment_of(drive, 0, range(4, 8), range(10), 32, 64))
    assert [round((float(one.mean()) - 23.5) / 4) for one in batch.images] == [12, 15, 18, 21]


def test_a_frame_that_was_not_read_is_neither_still_nor_a_turn():
    pictures = np.stack([thumbnail(image(0, size=(128, 64)), 64, 32)] * 30)
    pictures[20] = 128
    ok = np.arange(30) != 20
    batch = FrameBatch(0, 0, pictures, ok, ())
    still = propose(STOP, batch)
    assert not still[20] and still[1:20].all() and still[21:].all()
    scan = judge(still, STOP.keep_every, True, batch)
    assert scan.kept == (0, 20, 29)
    assert np.abs(scan.turned).max() == 0


def test_turning_over_a_stop_is_summed():
    wide = np.asarray(Image.fromarray(np.asarray(image(0, size=(120, 62)))).convert("L").resize((128, 32)))
    views = np.stack([wide[:, shift : shift + 64] for shift in (0, 3, *[3] * 9, 6)])
    batch = FrameBatch(0, 0, views, np.ones(12, bool), ())
    scan = judge(propose(StopConfig(min_frames=3), batch), 100, True, batch)
    assert scan.kept == (0, 1, 11)
    assert scan.turned == pytest.approx(np.array([0, 3, 3]) / 64, abs=0.01)
