"""The views of an equirectangular camera as the cameras of one drive, from pictures and from videos."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs.reconstruct import many_drives
from pipeline.cameras.config import CameraConfig
from pipeline.cameras.rectify import SPHERE_VIEWS
from pipeline.config import RunConfig
from pipeline.errors import DriveError
from pipeline.fleet.plan.drive_plan import drive_config
from pipeline.ingest import video
from pipeline.ingest.drives import find_drive
from pipeline.ingest.segments import decode_segment, decode_thumbnails, segment_of
from pipeline.prepare import read_drive
from pipeline.refine.stereo_motion import pair_of
from pipeline.tracked_drive import tracker_of
from tests.ingest.makers import write_images, write_video

NET = (96, 48)
INSTANTS = 6
SPHERE = CameraConfig("equirectangular")
BAD = 2  # the instant whose picture is damaged


def sphere(number, width=256, height=128):
    """A smooth picture (height, width, 3) that shows something else to each side."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(20, 235, (8, 16, 3), dtype=np.uint8)
    return cv2.resize(np.concatenate([coarse, coarse[:, :1]], 1), (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pano"
    folder.mkdir()
    for number in range(INSTANTS):
        Image.fromarray(sphere(number)).save(folder / f"{number:06d}.png")
    (folder / f"{BAD:06d}.png").write_bytes(b"no picture")
    return str(folder)


@pytest.fixture
def film(tmp_path):
    return str(write_video(tmp_path / "pano.mp4", 12, width=256, height=128, show=sphere))


@dataclass(frozen=True)
class Seen:
    """Keeps the tracked pictures of the frames."""

    kept: list
    long_side: int = 200

    def picture(self, grey):
        return grey

    def segment_done(self, first_frame, pictures):
        self.kept.extend(pictures)


def decoded(drive, start, stop, seen=None):
    segment = segment_of(drive, 0, range(start, stop), range(drive.frame_count), NET[1], NET[0])
    return decode_segment(replace(segment, tracker=None if seen is None else Seen(seen)), waits_s=())


@pytest.mark.parametrize("kind", ["pictures", "film"])
def test_each_frame_of_the_rig_shows_what_the_drive_of_this_view_shows(kind, request):
    uri, chosen = request.getfixturevalue(kind), {"start": 1, "end": 6, "stride": 2}
    drive = find_drive(uri, rig="views", camera=SPHERE, **chosen)
    assert drive.rig.cameras == tuple(SPHERE_VIEWS) and drive.frame_count == 12
    assert drive.of_reference == find_drive(uri, camera=SPHERE, **chosen)
    alone = [find_drive(uri, camera=CameraConfig("equirectangular", views=name), **chosen) for name in SPHERE_VIEWS]
    for first, last in ((0, 12), (2, 9)):  # the second begins and ends within an instant
        seen: list = []
        batch = decoded(drive, first, last, seen)
        assert batch.ok.all()
        for place, number in enumerate(range(first, last)):
            mine = decoded(alone[number % 4], number // 4, number // 4 + 1)
            np.testing.assert_array_equal(batch.images[place], mine.images[0])
            small = cv2.resize(seen[place], NET, interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(mine.images[0], cv2.COLOR_RGB2GRAY)
            assert np.abs(small.astype(int) - grey).mean() < 4
    thumbs = decode_thumbnails(segment_of(drive.of_reference, 0, range(3), range(3), 32, 64), waits_s=())
    assert thumbs.ok.all() and len(thumbs.images) == 3


def test_a_picture_is_opened_once_for_all_its_views(pictures, film, monkeypatch):
    opened: list = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *given, **named: opened.append(0) or open_image(*given, **named))
    drive = find_drive(pictures, rig="views", camera=SPHERE)
    opened.clear()  # headers were read
    decoded(drive, 0, 4 * INSTANTS)
    assert len(opened) == INSTANTS
    first, again, second = video.decode_at(film, [0, 0, 100_000_000])
    assert first is again and second is not first


def test_all_views_of_a_bad_picture_are_bad_and_name_it(pictures):
    batch = decoded(find_drive(pictures, rig="views", camera=SPHERE), 0, 4 * INSTANTS)
    assert np.flatnonzero(~batch.ok).tolist() == list(range(4 * BAD, 4 * BAD + 4))
    assert {reason.partition(":")[0] for reason in batch.reasons if reason} == {f"{BAD:06d}.png"}


def test_the_views_are_at_one_place_with_known_rotations_and_no_stereo_pair(pictures):
    drive = find_drive(pictures, rig="views", camera=CameraConfig("equirectangular", views="left,rear,front"))
    assert drive.rig.cameras == ("front", "left", "rear")
    poses = drive.rig.poses
    assert (poses[:, :3, 3] == 0).all()
    ahead = {"front": (0, 0, 1), "left": (-1, 0, 0), "rear": (0, 0, -1)}
    for name, pose in zip(drive.rig.cameras, poses, strict=True):
        assert np.array_equal(pose[:3, 2], ahead[name]) and np.array_equal(pose[:3, 1], (0, 1, 0))
    assert pair_of(poses, drive.camera.camera.intrinsics) is None
    tracker = tracker_of("/out", replace(drive, source_width=640), drive.rig, range(drive.frame_count), NET)
    assert tracker is not None and tracker.stereo is None and len(tracker.views) == 3
    aside = find_drive(pictures, rig="views", camera=CameraConfig("equirectangular", views="rear,right"))
    assert aside.rig.cameras == ("rear", "right")  # without the front one the first is the reference
    assert np.allclose(aside.rig.poses[1][:3, 2], (-1, 0, 0))
    assert drive.picture != aside.picture


def test_what_is_no_rig_of_views_is_refused_with_what_to_do(pictures, tmp_path):
    with pytest.raises(DriveError, match=r"at least two views, and --camera.views names only left; name more, leave"):
        find_drive(pictures, rig="views", camera=CameraConfig("equirectangular", views="left"))
    with pytest.raises(DriveError, match=r"this drive has no calibration; give --camera.file equirectangular"):
        find_drive(pictures, rig="views")
    with pytest.raises(DriveError, match=r"drive pano: .* this drive has a pinhole camera; .*, else leave out --rig"):
        find_drive(pictures, rig="views", camera=CameraConfig("200,200,128,64"))
    for camera in ("cam_front", "cam_left"):
        write_images(tmp_path / "van" / camera, 3)
    with pytest.raises(DriveError, match=r"holds folders of several cameras; .* or --rig auto for all cameras"):
        find_drive(str(tmp_path / "van"), rig="views", camera=SPHERE)
    many = RunConfig(str(tmp_path), str(tmp_path / "out"), rig="views", camera=SPHERE)
    refs = {ref.drive_id: ref for ref in many_drives(many, [])}
    assert sorted(refs) == ["pano", "van"] and read_drive(drive_config(many, refs["pano"])).camera_count == 4
    with pytest.raises(DriveError, match="holds folders of several cameras"):
        read_drive(drive_config(many, refs["van"]))


def test_in_a_list_some_drives_are_rigs_of_views(pictures, film, tmp_path):
    (tmp_path / "list.csv").write_text(
        "drive_id,uri,camera,rig\na,pano,equirectangular,views\nb,pano,equirectangular,\n"
    )
    config = RunConfig(str(tmp_path / "list.csv"), str(tmp_path / "out"), camera=CameraConfig(views="front,right"))
    refs = list(many_drives(config, []))
    assert [ref.drive_id for ref in refs] == ["a", "b-front", "b-right"]
    drives = [read_drive(drive_config(config, ref)) for ref in refs]
    assert [drive.frame_count for drive in drives] == [2 * INSTANTS, INSTANTS, INSTANTS]
    assert drives[0].rig.cameras == ("front", "right") and drives[1].rig is None
    one = replace(config, input=film, rig="views", drive_id="d", camera=SPHERE)
    assert many_drives(one, []) is None and many_drives(replace(one, drive_id=None), []) is None
    (ref,) = many_drives(replace(one, drive_id=None, plan=True), [])
    assert read_drive(drive_config(one, ref)).frame_count == 48
