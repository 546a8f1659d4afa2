"""Which drives an input contains: below a prefix by layout, or a single drive. Unsafe and repeated ids are refused."""

import json
import threading
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from pipeline import storage
from pipeline.errors import DriveError, StorageError
from pipeline.fleet.discover.discovery import DEPTH, iter_drives
from pipeline.fleet.discover.drive_ref import DriveRef, RefusedDrive
from pipeline.fleet.discover.folder_look import FIRST_LOOK_NAMES
from pipeline.storage import UnreachableError
from pipeline.storage import retry as patience
from pipeline.storage.stores import resolve
from tests.s3_server import s3, s3_server  # noqa: F401

LAYOUTS = {
    "folders of images": (["0010/a.png", "0002/b.jpg", "0001/c.png"], ["0001", "0002", "0010"]),
    "KITTI": (
        [
            "sequences/00/image_2/0.png",
            "sequences/00/image_0/0.png",
            "sequences/00/times.txt",
            "sequences/01/image_0/0.png",
            "poses/00.txt",
        ],
        ["00", "01"],
    ),
    "videos": (["b.MP4", "a.mkv", "notes.txt"], ["a", "b"]),
    "dates above drives": (
        ["2024-05-01/car1/0.png", "2024-05-02/car1/0.png", "2024-05-02/clip.mp4"],
        ["2024-05-01__car1", "2024-05-02__car1", "2024-05-02__clip"],
    ),
    "mixed": (["d1/0.png", "d2/image_2/0.png", "d3.mp4"], ["d1", "d2", "d3"]),
    "hidden": (["d1/0.png", "_runs/r/run.json", ".cache/0.png", "d1/.DS_Store"], ["d1"]),
    "nothing usable inside": (["d1/0.png", "empty/notes.txt"], ["d1"]),
    "pictures that are not read": (["d1/0.png", "d2/0.gif"], ["d1", "d2"]),
    "KITTI raw": (
        [f"2011_09_26/d1/{name}" for name in ("image_02/data/0.png", "image_02/timestamps.txt", "oxts/data/0.txt")],
        ["2011_09_26__d1__image_02"],
    ),
    "EuRoC": (["mav0/cam0/data/1.png", "mav0/cam0/data.csv", "mav0/imu0/data.csv"], ["mav0__cam0"]),
    "nuScenes": (
        ["samples/CAM_FRONT/1.jpg", "samples/LIDAR_TOP/x.pcd.bin", "v1.0-mini/scene.json", "maps/0.png"],
        ["samples__CAM_FRONT"],
    ),
    "a result beside": (["d1/0.png", "r/manifest.json", "r/poses.parquet", "r/points/part-00000.parquet"], ["d1"]),
    "images deep below": (["d1/frames/left/0.png"], ["d1__frames__left"]),
    "an image beside drives": (
        ["overview.jpg", "2024/thumb.png", "2024/d1/0.png", "2024/d2/0.png", "d3/0.png"],
        ["2024__d1", "2024__d2", "d3"],
    ),
    "folders beside images": (["d1/0.png", "d1/1.png", "d1/masks/0.png", "d2/0.png", "d2/depth/0.png"], ["d1", "d2"]),
    "frames split over folders": (
        [f"ride/{n // 3:03d}/{n:06d}.png" for n in range(8)] + ["other/000000.png", "other/000001.png"],
        ["other", "ride"],
    ),
    "a camera's folders": (
        [f"DCIM/{100 + n // 4}GOPRO/G{10_000 + n:07d}.JPG" for n in range(12)] + ["other/0.png"],
        ["DCIM", "other"],
    ),
    "numbered folders of drives": ([f"{d}/{n:06d}.png" for d in range(3) for n in range(4)], ["0", "1", "2"]),
    "chapters and other videos": (
        ["card/GX010042.MP4", "card/GX020042.MP4", "card/GX010043.MP4", "a.mp4"],
        ["card__GX010042", "card__GX010043", "a"],
    ),
    "a folder of chapters": (["card/GX010042.MP4", "card/GX020042.MP4", "card/GX010042.THM"], ["card"]),
    "pieces": ([f"rides/{ride}/seg_{k:03d}.mp4" for ride in "ab" for k in range(3)], ["rides__a", "rides__b"]),
    "comma2k19": (
        [
            f"Chunk_1/b0c9|2018-07-27--06-03-57/{segment}/{name}"
            for segment in (3, 4, 9)
            for name in ("video.hevc", "global_pose/frame_times")
        ],
        ["Chunk_1__b0c9_2018-07-27--06-03-57__3", "Chunk_1__b0c9_2018-07-27--06-03-57__9"],
    ),
    "openpilot": (
        [f"cars/2018-07-27--06-03-57--{segment}/fcamera.hevc" for segment in (0, 1)]
        + [f"cars/2018-07-28--06-03-57--{segment}/fcamera.hevc" for segment in (0, 1)],
        ["cars__2018-07-27--06-03-57--0", "cars__2018-07-28--06-03-57--0"],
    ),
    "nuScenes scenes": (
        [
            f"samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__{1532402927612460 + s * 500_000}.jpg"
            for s in (0, 1, 2, 60, 61)
        ]
        + [f"samples/CAM_FRONT/n008-2018-08-01-15-16-36-0400__CAM_FRONT__{1533151603512404 + s}.jpg" for s in (0, 9)],
        [
            "samples__CAM_FRONT__n008-2018-08-01-15-16-36-0400__001",
            "samples__CAM_FRONT__n015-2018-07-24-11-22-45_0800__001",
            "samples__CAM_FRONT__n015-2018-07-24-11-22-45_0800__002",
        ],
    ),
    "Argoverse 2": (
        [
            f"val/log/sensors/cameras/{camera}/{315966253899927216 + k}.jpg"
            for camera in ("ring_front_center", "ring_rear_left")
            for k in range(2)
        ],
        ["val__log__ring_front_center", "val__log__ring_rear_left"],
    ),
    "Waymo-like": (
        [f"segment-1/{camera}/{n:06d}.png" for camera in ("FRONT", "FRONT_LEFT") for n in range(2)],
        ["segment-1__FRONT", "segment-1__FRONT_LEFT"],
    ),
    "the first image late": ([f"d1/{n:03d}.json" for n in range(FIRST_LOOK_NAMES + 5)] + ["d1/z.png"], ["d1"]),
}


def put(root: str, names: list[str]) -> str:
    for name in names:
        storage.write_bytes_atomically(storage.join(root, *name.split("/")), b"x")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_drives_are_found_by_layout_on_disk(tmp_path, layout):
    names, expected = LAYOUTS[layout]
    found = list(iter_drives(put(str(tmp_path / "fleet"), names)))
    assert [ref.drive_id for ref in found] == expected
    assert all(isinstance(ref, DriveRef) and storage.exists(ref.uri.partition("..")[0]) for ref in found)


@pytest.mark.cluster
def test_drives_are_found_by_layout_on_s3(s3):  # noqa: F811
    for number, (names, expected) in enumerate(LAYOUTS.values()):
        assert [ref.drive_id for ref in iter_drives(put(f"{s3}/layout/{number}", names))] == expected


@pytest.mark.parametrize("name", ["one/0.png", "one/image_2/0.png"])
def test_an_input_that_is_a_drive_gives_this_one_drive(tmp_path, name):
    put(str(tmp_path), [name])
    assert list(iter_drives(str(tmp_path / "one"))) == [DriveRef("one", str(tmp_path / "one"))]


def test_an_input_that_is_a_video_gives_this_one_drive():
    assert list(iter_drives("s3://b/clip.mp4")) == [DriveRef("clip", "s3://b/clip.mp4")]


def test_invalid_names_and_repeated_ids_are_refused_and_the_other_drives_are_found(tmp_path):
    put(str(tmp_path), ["a b/0.png", "ok/0.png", "ok.mp4", "späti/0.png", "z/0.png"])
    found = list(iter_drives(str(tmp_path)))
    assert [ref.drive_id for ref in found if isinstance(ref, DriveRef)] == ["ok", "späti", "z"][::2]
    refused = {ref.uri.rpartition("/")[2]: ref.reason for ref in found if isinstance(ref, RefusedDrive)}
    assert set(refused) == {"a b", "späti", "ok.mp4"}
    assert "expected letters, digits" in refused["a b"] and "drive list" in refused["a b"]
    assert f"is taken by {tmp_path / 'ok'}" in refused["ok.mp4"]
    assert all("\n" not in reason for reason in refused.values())


@pytest.mark.parametrize("names", [["notes.txt"], ["_hidden/0.png"]])
def test_an_input_without_drives_gives_a_one_line_error(tmp_path, names):
    put(str(tmp_path), names)
    with pytest.raises(DriveError, match=r"no drives below .*drive list"):
        iter_drives(str(tmp_path))


def test_a_missing_input_gives_an_error(tmp_path):
    with pytest.raises(StorageError, match="no such file or folder"):
        iter_drives(str(tmp_path / "nowhere"))


def test_folders_are_searched_down_to_a_fixed_depth(tmp_path):
    put(str(tmp_path), ["/".join([*"abcdef", "0.png"])])
    (ref,) = iter_drives(str(tmp_path))
    assert ref.uri == str(Path(tmp_path, *"abcdef"[:DEPTH]))


def test_with_no_join_clips_every_file_is_a_drive(tmp_path):
    names = ["card/GX010042.MP4", "card/GX020042.MP4", *(f"ride/{n // 3:03d}/{n:06d}.png" for n in range(6))]
    found = iter_drives(put(str(tmp_path), names), join=False)
    assert [ref.drive_id for ref in found] == ["card__GX010042", "card__GX020042", "ride__000", "ride__001"]


def test_joined_drives_name_their_files(tmp_path):
    root = put(str(tmp_path), ["GX010042.MP4", "GX020042.MP4", "GX010043.MP4"])
    assert [ref.uri for ref in iter_drives(root)] == [f"{root}/GX010042.MP4..GX020042.MP4", f"{root}/GX010043.MP4"]
    alone = put(str(tmp_path / "ride"), ["seg_1.mp4", "seg_2.mp4"])
    assert list(iter_drives(alone)) == [DriveRef("ride", alone)]  # as if the drive itself were given as the input


@pytest.mark.cluster
def test_discovery_does_not_list_frames(s3, monkeypatch):  # noqa: F811
    """Five drives of many frames take one request for the prefix and one small request for each drive."""
    bucket = f"{s3}/wide"
    fs = fsspec.filesystem("s3")
    fs.mkdirs("tests/wide", exist_ok=True)
    fs.pipe(
        {f"tests/wide/d{d}/{f:04d}.png": b"x" for d in range(5) for f in range(3 * FIRST_LOOK_NAMES)}, batch_size=32
    )
    requests, lock = [], threading.Lock()
    storage_fs = resolve(bucket)[0]
    real = storage_fs.call_s3

    def counted(method, **arguments):
        answer = real(method, **arguments)
        with lock:
            requests.append((method, len(answer.get("Contents", ()))))
        return answer

    monkeypatch.setattr(storage_fs, "call_s3", counted)
    assert len(list(iter_drives(bucket))) == 5
    assert len(requests) == 6 and max(names for _, names in requests) <= FIRST_LOOK_NAMES


def test_a_drive_list_can_be_the_input(tmp_path):
    rows = [{"drive_id": "a", "uri": "d/a"}, {"drive_id": "../a", "uri": "d/b"}, {"drive_id": "a", "uri": "d/c"}]
    (tmp_path / "fleet.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(iter_drives(str(tmp_path / "fleet.jsonl")))
    assert found[0] == DriveRef("a", str(tmp_path / "d/a"))
    assert [type(ref) for ref in found[1:]] == [RefusedDrive, RefusedDrive]
    assert "'../a'" in found[1].reason and "is taken" in found[2].reason


def test_the_output_folder_below_the_input_is_not_searched(tmp_path):
    root = put(str(tmp_path / "fleet"), ["d1/0.png", "out/d1/points/part-00000.parquet", "out/d1.png", "out/d2/x.txt"])
    assert [ref.drive_id for ref in iter_drives(root, leave_out=f"{root}/out")] == ["d1"]


def test_a_folder_that_cannot_be_listed_is_tried_again_and_the_other_drives_are_found(tmp_path, monkeypatch):
    names = [*(f"d{number}/0.png" for number in range(5)), "d3/far/0.png"]  # d3 contains drives, which must not be lost
    root = put(str(tmp_path / "fleet"), [name for name in names if name != "d3/0.png"])
    monkeypatch.setattr(patience, "STORE_WAITS_S", (0.01, 0.01))
    listed, asked = storage.iter_folder, Counter()

    def at_times(uri, *arguments):
        name = uri.rpartition("/")[2]
        asked[name] += 1
        if name == "d3" or (name == "d1" and asked[name] < 3):
            raise UnreachableError("no answer")
        return listed(uri, *arguments)

    monkeypatch.setattr(storage, "iter_folder", at_times)
    found = []
    with pytest.raises(StorageError, match=r"1 folder\(s\) could not be looked into, the first: no answer"):
        for ref in iter_drives(root):
            found.append(ref.drive_id)
    assert found == ["d0", "d1", "d2", "d4"]
    assert (asked["d1"], asked["d3"], asked["d0"]) == (3, 3, 1)


def test_links_to_folders_are_followed_and_each_folder_is_one_drive(tmp_path):
    put(str(tmp_path), ["store/x/0.png", "store/y/0.png", "fleet/c/0.png", "fleet/e/0.png"])
    fleet = tmp_path / "fleet"
    links = {"a": "../store/x", "b": "../store/y", "again": "../store/x", "up": "..", "self": ".", "latest": "c"}
    for name, target in links.items():
        (fleet / name).symlink_to(target)
    (fleet / "e" / "up").symlink_to("..")
    notes = []
    assert [ref.drive_id for ref in iter_drives(str(fleet), note=notes.append)] == ["a", "b", "c", "e"]
    assert len(notes) == 4
    assert sum("above it" in note for note in notes) == 2
    assert sum("the same folder as" in note or "is found itself" in note for note in notes) == 2


def test_a_dangling_link_is_refused_with_its_name(tmp_path):
    put(str(tmp_path), ["a/0.png"])
    (tmp_path / "gone").symlink_to("/nowhere/drive")
    drives = {ref.drive_id: ref for ref in iter_drives(str(tmp_path))}
    assert isinstance(drives["a"], DriveRef)
    assert isinstance(drives["gone"], RefusedDrive) and "/nowhere/drive, which is not there" in drives["gone"].reason


def test_folders_without_drives_are_noted_and_an_input_without_any_drive_is_an_error(tmp_path):
    put(str(tmp_path), ["fleet/d/0.png", "out/d/manifest.json", "out/d/poses.parquet", "lidar/scans/0.bin"])
    put(str(tmp_path / "fleet"), [f"lidar{number}/0.bin" for number in range(30)])
    notes = []
    assert [ref.drive_id for ref in iter_drives(str(tmp_path / "fleet"), note=notes.append)] == ["d"]
    assert len(notes) == 21 and "lidar0 holds no pictures" in notes[0] and "10 more folders" in notes[-1]
    for name, said in (
        ("out", "out/d is a result of this program"),
        ("out/d", "is a result"),
        ("lidar", "no pictures"),
    ):
        with pytest.raises(DriveError, match=said):
            list(iter_drives(str(tmp_path / name)))


@pytest.mark.parametrize("beside", [["a.mp4", "b.mp4"], ["d1/0.png", "d2/0.png"]])
def test_pictures_beside_clips_or_folders_of_drives_are_counted(tmp_path, beside):
    put(str(tmp_path), [*beside, "preview.jpg"])
    notes = []
    assert len(list(iter_drives(str(tmp_path), note=notes.append))) == 2
    assert len(notes) == 1 and notes[0].startswith("1 picture(s) in ")


def test_a_drive_in_a_folder_named_data_has_the_name_of_the_folder_above(tmp_path):
    put(str(tmp_path), ["image_02/data/0.png"])
    assert [ref.drive_id for ref in iter_drives(str(tmp_path / "image_02"))] == ["image_02"]
