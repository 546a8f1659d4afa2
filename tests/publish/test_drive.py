"""Publishing a whole drive: its files and tables, bad frames, overwriting, and errors."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.errors import DriveError, StorageError
from pipeline.publish import PublishConfig, is_published, open_drive, publish_drive, read_manifest
from pipeline.publish.points import frame_points
from tests.publish.drives import Chunks, Loop, small_drive

SMALL = PublishConfig(shard_rows=64, row_group_rows=32)


def publish(output, drive, options=SMALL, **more):
    return publish_drive(str(output), drive.facts, drive.chunks, drive.joined, options, drive.run, **more)


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_a_published_drive_has_the_promised_files_and_its_manifest_names_each_of_them(tmp_path):
    manifest = publish(tmp_path, small_drive())
    folder = tmp_path / "drive-1"
    parts = [f"points/part-{n:05d}.parquet" for n in range(len(manifest.point_files))]
    assert len(parts) > 2
    assert files_in(folder) == sorted(
        ["manifest.json", "poses.parquet", "chunks.parquet", "loops.parquet", "cameras.parquet", *parts]
    )
    assert sorted(file.path for file in manifest.files) + ["manifest.json"] == sorted(
        files_in(folder), key=lambda name: (name == "manifest.json", name)
    )
    for file in manifest.files:
        data = (folder / file.path).read_bytes()
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert file.rows == pq.read_metadata(folder / file.path).num_rows


def test_plain_pyarrow_reads_every_table_with_the_promised_schema(tmp_path):
    manifest = publish(tmp_path, small_drive())
    folder = tmp_path / "drive-1"
    for name in ("poses", "chunks", "loops"):
        assert pq.read_table(folder / f"{name}.parquet").schema.equals(schema.TABLES[name], check_metadata=True)
    points = pq.read_table(folder / "points")
    assert points.schema.equals(schema.POINTS) and points.num_rows == manifest.counts.points


def test_chunks_have_the_figures_of_their_verdict(tmp_path):
    judged = [
        {"chunk": n, "noise": 1.0 + n, "inliers": 1.0, "log_scale": None, "scale_jump": 0.1, "level": "warn"}
        for n in range(3)
    ]
    drive = small_drive()
    run = dataclasses.replace(drive.run, quality={"verdict": "warn", "chunks": judged})
    publish(tmp_path, dataclasses.replace(drive, run=run))
    table = pq.read_table(tmp_path / "drive-1" / "chunks.parquet")
    assert table["noise"].to_pylist() == [1.0, 2.0, 3.0, None]
    assert table["depth_disagreement"].to_pylist() == [None] * 4
    assert table["verdict"].to_pylist() == ["warn"] * 3 + [None]


def test_the_manifest_contains_input_settings_weights_and_counts(tmp_path):
    loops = [
        Loop(range(2), range(8, 10), 0.9, 0.1, True, None),
        Loop(range(2), range(4, 6), 0.8, 9.0, False, "far"),
    ]
    manifest = publish(tmp_path, small_drive(bad=[3, 9], left_out=[5], loops=loops))
    stored = json.loads((tmp_path / "drive-1" / "manifest.json").read_text())
    counts = stored["counts"]
    path = counts.pop("path_length")
    points = pq.read_table(tmp_path / "drive-1" / "points").num_rows
    assert counts == {
        "frames": 10,
        "frames_ok": 7,
        "frames_filled": 3,
        "frames_missing": 0,
        "chunks": 4,
        "loops": 2,
        "loops_accepted": 1,
        "points": points,
        "frames_still": 1,
    }
    # eight steps of (1, 0.1, 0.5); the last frame takes the pose of the one before
    assert path == pytest.approx(8 * np.sqrt(1.26))
    assert stored["input"]["files"][3] == {"name": "000003.png", "size": 1003, "etag": "etag3"}
    assert stored["schema_version"] == 1 and stored["identity"] == "a" * 64
    assert stored["weights_sha256"] == "b" * 64 and stored["code_version"] == "0.1.0"
    assert stored["config"] == {"chunk_size": 4} and stored["quality"] == {"verdict": "pass"}
    assert stored["timings"]["forward"] == 1.5 and stored["timings"]["publish"] > 0
    assert read_manifest(str(tmp_path), "drive-1") == manifest


def test_no_credentials_are_in_any_published_file(tmp_path):
    publish(tmp_path, small_drive())
    for name in files_in(tmp_path):
        data = (tmp_path / name).read_bytes()
        assert b"secret" not in data and b"Signature" not in data
    assert open_drive(str(tmp_path), "drive-1").poses["uri"][3].as_py() == "s3://bucket/drives/1/000003.png"


def test_every_frame_has_a_row_and_bad_or_left_out_ones_are_filled(tmp_path):
    drive = small_drive(bad=[3, 9], left_out=[5], times=[10 * n for n in range(10)])
    publish(tmp_path, drive)
    poses = open_drive(str(tmp_path), "drive-1").poses.to_pydict()
    assert poses["frame_index"] == list(range(10)) and poses["timestamp_ns"] == [10 * n for n in range(10)]
    assert [n for n in range(10) if poses["status"][n] == "filled"] == [3, 5, 9]
    assert {n for n in range(10) if poses["confidence"][n] is None} == {3, 5, 9}
    # frame 3 is bad: between its neighbours; 5 is in no chunk: the car stands as at 4; 9 is bad and the last frame
    assert np.allclose(poses["x"], [0, 1, 2, 3, 4, 4, 6, 7, 8, 8])
    angle = 2 * np.degrees(np.arctan2(np.array(poses["qy"]), poses["qw"]))  # the drive turns by -3 degrees per frame
    assert np.allclose(angle, -3.0 * np.array([0, 1, 2, 3, 4, 4, 6, 7, 8, 8]))
    assert poses["chunk_index"] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    # chunks have 8 x 6 pixels of sources of 32 x 32: reduced to a quarter, 2 of 8 rows cropped
    assert {len(set(poses[name])) for name in ("fx", "fy", "cx", "cy")} == {1}
    assert [poses[name][0] for name in ("fx", "fy", "cx", "cy")] == pytest.approx([25.6, 28.8, 16, 16])
    assert set(poses["width"]) == set(poses["height"]) == {32}


def test_frames_of_a_drive_without_any_good_frame_are_missing_and_have_no_poses(tmp_path):
    manifest = publish(tmp_path, small_drive(bad=range(10)))
    poses = open_drive(str(tmp_path), "drive-1").poses
    assert manifest.counts.frames_missing == 10 and manifest.counts.points == 0
    assert set(poses["status"].to_pylist()) == {"missing"}
    for name in ("x", "qw", "fx", "chunk_index", "confidence"):
        assert poses[name].null_count == 10


def test_a_drive_of_one_frame_is_one_pose_at_identity(tmp_path):
    manifest = publish(tmp_path, small_drive(1))
    row = open_drive(str(tmp_path), "drive-1").poses.to_pylist()[0]
    assert [row[name] for name in ("x", "y", "z", "qw", "qx", "qy", "qz")] == [0, 0, 0, 1, 0, 0, 0]
    assert row["status"] == "ok" and manifest.counts.path_length == 0 and manifest.counts.points > 0


def test_points_are_those_of_owned_good_frames_above_the_chunks_threshold(tmp_path):
    drive = small_drive(bad=[3])
    publish(tmp_path, drive)
    points = open_drive(str(tmp_path), "drive-1").points()
    expected = []
    for number in range(4):
        chunk = drive.chunks[number]
        own = [
            i
            for i, frame in enumerate(chunk.frame_index)
            if drive.joined.owner[frame] == number and frame not in drive.chunks.bad
        ]
        values = sorted(chunk.confidence[own].ravel())
        threshold = 0.75 * values[len(values) // 2]
        for i in own:
            frame = chunk.frame_index[i]
            pose, scale = drive.joined.world_from_camera[frame], drive.joined.depth_scale[frame]
            expected.append(
                frame_points(
                    chunk.depth[i],
                    chunk.confidence[i],
                    chunk.rgb[i],
                    chunk.intrinsics[i],
                    pose,
                    scale,
                    threshold,
                    frame,
                    number,
                )
            )
    columns = [np.concatenate([b.arrays()[k] for b in expected], axis=-1) for k in range(5)]
    assert sorted(points["frame_index"].to_pylist()) == sorted(columns[3])
    assert sorted(points["x"].to_pylist()) == sorted(columns[0][0].tolist())
    assert sorted(points["g"].to_pylist()) == sorted(columns[1][1].tolist())
    chunks = open_drive(str(tmp_path), "drive-1").chunks.to_pydict()
    assert chunks["points"] == np.bincount(columns[4]).tolist()


def test_rows_of_chunks_contain_ranges_transforms_and_the_overlap_with_the_chunk_before(tmp_path):
    publish(tmp_path, small_drive(left_out=[5]))
    chunks = open_drive(str(tmp_path), "drive-1").chunks.to_pydict()
    assert chunks["frame_start"] == [0, 2, 4, 6] and chunks["frame_stop"] == [4, 6, 8, 10]
    assert chunks["frames"] == [4] * 4 and chunks["frames_owned"] == [2, 2, 1, 4]
    assert chunks["scale"] == pytest.approx([1.0, 1.1, 1.2, 1.3]) and chunks["x"] == [0, 1, 2, 3]
    assert chunks["overlap_residual"] == [None, 0.01, 0.02, 0.03]
    assert chunks["overlap_inliers"] == [None, 0.9, 0.9, 0.9]


def test_every_loop_has_a_row_and_without_loops_the_table_is_empty(tmp_path):
    loops = [
        Loop(range(2), range(8, 10), 0.9, 0.1, True, None),
        Loop(range(2, 4), range(6, 8), None, float("nan"), False, "residual too large"),
    ]
    publish(tmp_path, small_drive(loops=loops))
    table = open_drive(str(tmp_path), "drive-1").loops.to_pydict()
    assert table["first_start"] == [0, 2] and table["second_stop"] == [10, 8]
    assert table["similarity"] == [0.9, None] and table["residual"] == [0.1, None]
    assert table["accepted"] == [True, False] and table["reason"] == [None, "residual too large"]
    publish(tmp_path, small_drive(drive_id="other"))
    assert open_drive(str(tmp_path), "other").loops.num_rows == 0


def test_without_points_there_are_poses_and_no_point_files(tmp_path):
    manifest = publish(tmp_path, small_drive(), PublishConfig(with_points=False))
    assert manifest.point_files == () and not (tmp_path / "drive-1" / "points").exists()
    drive = open_drive(str(tmp_path), "drive-1")
    assert drive.points().num_rows == 0 and set(drive.poses["status"].to_pylist()) == {"ok"}


def test_progress_is_reported_for_each_chunk_and_each_chunk_is_read_once(tmp_path):
    drive, told = small_drive(), []
    manifest = publish(tmp_path, drive, progress=lambda *what: told.append(what))
    assert [what[:2] for what in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1][2] == manifest.counts.points and drive.chunks.made == [0, 1, 2, 3]


def test_publishing_the_same_drive_twice_gives_the_same_bytes(tmp_path):
    first, second = publish(tmp_path / "a", small_drive()), publish(tmp_path / "b", small_drive())
    assert first.files == second.files


def test_a_finished_drive_is_not_replaced_without_overwrite(tmp_path):
    publish(tmp_path, small_drive())
    before = {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}
    with pytest.raises(DriveError, match=r"drive-1 is published .* --overwrite"):
        publish(tmp_path, small_drive(seed=1))
    assert before == {name: (tmp_path / name).read_bytes() for name in files_in(tmp_path)}


def test_overwriting_removes_the_old_drive_and_keeps_files_of_the_user(tmp_path):
    publish(tmp_path, small_drive(20))
    for name in ("notes.txt", "points/mine.parquet", "000001.png"):
        (tmp_path / "drive-1" / name).write_text("mine")
    manifest = publish(tmp_path, small_drive(4, seed=1), overwrite=True)
    assert files_in(tmp_path / "drive-1") == sorted(
        ["manifest.json", "notes.txt", "points/mine.parquet", "000001.png"] + [file.path for file in manifest.files]
    )
    assert open_drive(str(tmp_path), "drive-1").poses.num_rows == 4


class Unreadable(Chunks):
    """Chunks of which the third one's file is missing."""

    def __getitem__(self, number):
        if number == 2:
            raise StorageError("no such file: chunk 2")
        return super().__getitem__(number)


def test_a_chunk_that_cannot_be_read_fails_the_publish_without_a_manifest(tmp_path):
    drive = small_drive()
    gone = dataclasses.replace(drive, chunks=Unreadable(drive.chunks.plan, 6, 8))
    with pytest.raises(StorageError, match="chunk 2"):
        publish(tmp_path, gone)
    assert not is_published(str(tmp_path), "drive-1")
    publish(tmp_path, drive)
    assert is_published(str(tmp_path), "drive-1")


def test_chunks_without_a_transform_each_are_refused(tmp_path):
    drive = small_drive()
    drive.chunks.plan.pop()
    with pytest.raises(DriveError, match="drive-1: expected a transform for each of 3 chunks, got 4"):
        publish(tmp_path, drive)


def broken(drive, **changes):
    return dataclasses.replace(drive, joined=dataclasses.replace(drive.joined, **changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"frame_index": np.arange(10) + 1}, "below its 10 frames"),
        ({"frame_index": np.zeros(10, int)}, "must be different"),
        ({"owner": np.full(10, 4)}, "chunks 0..3, got 4"),
        ({"owner": np.full(10, 3)}, "chunk 3: it owns frame 0 but does not hold it"),
        ({"depth_scale": np.zeros(10)}, "frame 0 was joined with a pose or scale"),
        ({"world_from_camera": np.full((10, 4, 4), np.nan)}, "frame 0 was joined"),
        ({"world_from_camera": np.zeros((9, 4, 4))}, "expected a pose, an owner and a depth scale for 10"),
    ],
)
def test_a_trajectory_that_does_not_fit_is_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(DriveError, match=message) as caught:
        publish(tmp_path, broken(small_drive(), **changes))
    assert "drive-1" in str(caught.value) and "\n" not in str(caught.value)
    assert not is_published(str(tmp_path), "drive-1")


def test_a_chunk_of_another_size_than_the_networks_is_refused(tmp_path):
    drive = small_drive()
    drive.chunks.height += 1
    with pytest.raises(DriveError, match=r"drive-1, chunk 0: expected arrays"):
        publish(tmp_path, drive)


def test_a_store_in_memory_holds_a_drive_as_well_as_a_disk(tmp_path):
    drive, output = small_drive(), "memory://published"
    assert not is_published(output, "drive-1")
    publish(output, drive)
    publish(output, drive, overwrite=True)
    publish(tmp_path, drive)
    there, here = open_drive(output, "drive-1"), open_drive(str(tmp_path), "drive-1")
    assert there.manifest.files == here.manifest.files
    assert there.points().equals(here.points()) and there.poses.equals(here.poses)
