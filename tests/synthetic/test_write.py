"""A rendered drive on storage: ingest recognises it, and it reads back with its truth."""

import json
import uuid

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline import storage
from pipeline.errors import DecodeError, DriveError
from pipeline.ingest.drives import find_drive
from pipeline.publish.poses import rotation_from_quaternion
from pipeline.synthetic import CityDrive, DriveSpec, list_drives, read_drive, sample_drive, write_drive

SPEC = DriveSpec(seed=21, frames=11, height=28, width=56, supersample=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("drives"))
    write_drive(SPEC, folder, "00")
    return folder


def test_a_drive_reads_back_as_it_was_rendered(root) -> None:
    drive, stored = CityDrive(21, 11, 28, 56, supersample=2), read_drive(root, "00")
    rendered = drive.render(range(11))
    relative = np.linalg.inv(rendered.world_from_camera[0]) @ rendered.world_from_camera
    assert np.allclose(stored.world_from_camera, relative, atol=1e-7)
    assert np.allclose(stored.world_from_camera[0], np.eye(4))
    assert np.allclose(stored.intrinsics, drive.intrinsics)
    assert stored.timestamps_s == pytest.approx(np.arange(11) * 0.1)
    for k in (0, 10):
        depth = stored.depth(k)
        assert np.abs(depth - rendered.depth[k]).max() <= 0.5 / 256 + 1e-6
        assert np.array_equal(depth == 0, rendered.depth[k] == 0)
        assert np.abs(stored.image(k).astype(int) - rendered.images[k]).mean() < 6  # JPEG


def test_ingest_recognises_it_as_a_kitti_drive(root) -> None:
    drive = find_drive(storage.join(root, "sequences", "00"))
    assert (drive.drive_id, drive.frame_count) == ("00", 11)
    assert (drive.source_height, drive.source_width) == (28, 56)
    assert drive.timestamps_ns is not None
    assert drive.timestamps_ns[10] == 1_000_000_000
    assert read_drive(root, "00").image_uris == drive.uris


def test_a_sequence_folder_names_its_drive_too(root) -> None:
    assert list_drives(root) == ("00",)
    assert read_drive(storage.join(root, "sequences", "00")).drive_id == "00"
    with pytest.raises(DriveError, match="sequences"):
        read_drive(root)


def test_a_finished_drive_is_kept_and_another_one_refused(root) -> None:
    before = storage.list_files(storage.join(root, "sequences", "00", "image_0"))
    counts = []
    assert write_drive(SPEC, root, "00", lambda done, total: counts.append((done, total))).endswith("sequences/00")
    assert counts == [(11, 11)]
    assert storage.list_files(storage.join(root, "sequences", "00", "image_0")) == before
    with pytest.raises(DriveError, match="another drive has this id"):
        write_drive(DriveSpec(22, 11, 28, 56, 2), root, "00")


def test_two_processes_render_the_same_files_as_one(tmp_path, monkeypatch) -> None:
    spec = DriveSpec(4, 18, 28, 56, 1, bonnet=True, bonnet_shake=2.0)
    write_drive(spec, str(tmp_path / "one"), "a")
    monkeypatch.setattr("pipeline.synthetic.write._SMALL", 0)
    counts = []
    write_drive(spec, str(tmp_path / "two"), "a", lambda done, total: counts.append(done), processes=2)
    assert counts == sorted(counts) and counts[-1] == 18
    one, two = (
        {p.relative_to(top): p.read_bytes() for p in top.rglob("*") if p.is_file()} for top in tmp_path.iterdir()
    )
    assert one == two


def test_a_killed_rendering_process_is_one_error_and_the_drive_is_written_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.synthetic.write._SMALL", 0)

    def kill_the_others(done: int, total: int) -> None:
        for child in psutil.Process().children():
            if "multiprocessing.spawn" in " ".join(child.cmdline()):
                child.kill()

    with pytest.raises(DriveError, match="was killed, perhaps for memory; run the same command again"):
        write_drive(DriveSpec(4, 40, 28, 56, 1), str(tmp_path), "a", kill_the_others, processes=2)
    assert not (tmp_path / "sequences/a/drive.json").exists()


def test_an_unfinished_drive_is_written_again(tmp_path) -> None:
    spec = DriveSpec(3, 3, 28, 56, 1)
    sequence = write_drive(spec, str(tmp_path), "a")
    (tmp_path / "sequences/a/drive.json").rename(tmp_path / "sequences/a/rendering.json")  # as a kill leaves it
    (tmp_path / "sequences/a/image_0/000002.jpg").unlink()
    assert write_drive(spec, str(tmp_path), "a") == sequence
    assert len(read_drive(sequence).image_uris) == 3
    assert json.loads((tmp_path / "sequences/a/drive.json").read_text())["seed"] == 3


def test_a_bucket_works_like_a_folder() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    sequence = write_drive(DriveSpec(3, 2, 28, 56, 1), root, "b")
    assert read_drive(sequence).depth(1).shape == (28, 56)


def test_the_sample_drive_is_rendered_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("pipeline.synthetic.write.SAMPLE", DriveSpec(5, 10, 28, 56, 1))
    calls = []
    uri = sample_drive(lambda done, total: calls.append((done, total)))
    assert calls == [(k + 1, 10) for k in range(10)]
    stamp = [f.etag for f in storage.list_files(storage.join(uri, "image_0"))]
    assert sample_drive() == uri
    assert [f.etag for f in storage.list_files(storage.join(uri, "image_0"))] == stamp
    assert find_drive(uri).frame_count == 10


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("poses/00.txt", "1 0 0 0 0 1 0 0 0 0 1\n", "frame 0: expected 12 numbers"),
        ("poses/00.txt", "1 0 0 0 0 1 0 0 0 0 1 0\n", "expected 2 poses"),
        ("poses/00.txt", "1 0 0 0 0 1 0 0 0 0 2 0\n" * 2, "frame 0: expected a rotation"),
        ("poses/00.txt", "1 0 0 nan 0 1 0 0 0 0 1 0\n" * 2, "expected 12 numbers"),
        ("sequences/00/calib.txt", "P1: 1 2 3\n", "no line P0"),
        ("sequences/00/calib.txt", "P0: 1 2 x\n", "12 numbers after P0"),
        ("sequences/00/times.txt", "0.0\n", "expected 2 times"),
    ],
)
def test_damaged_truth_is_refused(tmp_path, name: str, text: str, message: str) -> None:
    write_drive(DriveSpec(3, 2, 28, 56, 1), str(tmp_path), "00")
    (tmp_path / name).write_text(text)
    with pytest.raises(DriveError, match=message):
        read_drive(str(tmp_path), "00")


def test_damaged_and_missing_depth_is_reported(tmp_path) -> None:
    write_drive(DriveSpec(3, 2, 28, 56, 1), str(tmp_path), "00")
    depth = tmp_path / "sequences/00/depth_0"
    (depth / "000001.png").write_bytes(b"no image")
    with pytest.raises(DecodeError, match="frame 1"):
        read_drive(str(tmp_path), "00").depth(1)
    for file in depth.iterdir():
        file.unlink()
    depth.rmdir()
    with pytest.raises(DriveError, match="no depth images"):
        read_drive(str(tmp_path), "00").depth(0)


@pytest.mark.parametrize("mine", ["sequences/01/image_0/000000.jpg", "sequences/01/calib.txt", "poses/01.txt"])
def test_a_foreign_drive_is_not_overwritten(tmp_path, mine) -> None:
    path = tmp_path / mine
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DriveError, match="did not render"):
        write_drive(SPEC, str(tmp_path), "01")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path] and path.read_text() == "mine"


def test_interrupted_rendering_is_resumed(tmp_path) -> None:
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_drive(SPEC, str(tmp_path), "01", stop)
    with pytest.raises(DriveError, match="another drive has this id"):
        write_drive(DriveSpec(seed=22, frames=11, height=28, width=56, supersample=2), str(tmp_path), "01")
    assert len(read_drive(write_drive(SPEC, str(tmp_path), "01")).image_uris) == SPEC.frames
    assert not list(tmp_path.rglob("rendering.json"))


def test_a_rig_is_rendered_with_the_truth_of_where_its_cameras_sit(tmp_path) -> None:
    spec = DriveSpec(21, 2, 28, 56, supersample=1, cameras=3)
    sequence = write_drive(spec, str(tmp_path), "00")
    folder = tmp_path / "sequences" / "00"
    sensors = json.loads((folder / "rig_config.json").read_text())[0]["cameras"]
    assert [sensor["image_prefix"] for sensor in sensors] == ["image_0/", "cam_left/", "cam_right/"]
    drive = CityDrive(21, 2, 28, 56)
    for sensor in sensors[1:]:
        w, x, y, z = sensor["cam_from_rig_rotation"]
        camera_from_rig = np.eye(4)
        camera_from_rig[:3, :3] = rotation_from_quaternion(np.array([w, x, y, z]))
        camera_from_rig[:3, 3] = sensor["cam_from_rig_translation"]
        expected = drive.render_poses(drive.world_from_camera @ np.linalg.inv(camera_from_rig))
        name = sensor["image_prefix"].rstrip("/")
        stored = np.asarray(Image.open(folder / name / "000001.jpg"))
        assert np.abs(stored.astype(int) - expected.images[1]).mean() < 6  # JPEG
        depth = np.asarray(Image.open(folder / f"depth_{name}" / "000001.png")) / 256
        assert np.abs(depth - expected.depth[1]).max() <= 0.5 / 256 + 1e-6
    assert find_drive(sequence).frame_count == 2  # the front camera alone is an ordinary drive
    with pytest.raises(ValueError, match="no lens"):
        write_drive(DriveSpec(21, 2, 28, 56, lens="barrel", cameras=2), str(tmp_path), "01")


def test_a_stereo_pair_has_its_baseline_in_calib_txt_as_kitti_does(tmp_path) -> None:
    write_drive(DriveSpec(21, 1, 28, 56, supersample=1, cameras=2), str(tmp_path), "00")
    lines = (tmp_path / "sequences" / "00" / "calib.txt").read_text().splitlines()
    right = np.array(lines[1].removeprefix("P1: ").split(), float).reshape(3, 4)
    assert -right[0, 3] / right[0, 0] == pytest.approx(0.54)
