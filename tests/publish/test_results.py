"""Points of a published drive are read by box and confidence, without reading the rest of the files."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.errors import DriveError
from pipeline.publish import PublishConfig, open_drive, publish_drive
from pipeline.publish.verify import verify_drive
from tests.publish.drives import small_drive
from tests.s3_server import s3, s3_server  # noqa: F401


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """120 frames along x, 230,400 points in 4 shards of some 29 row groups each."""
    folder = tmp_path_factory.mktemp("published")
    drive = small_drive(120, height=40, width=48, size=20, step=1.0)
    straight = np.tile(np.eye(4), (120, 1, 1))
    straight[:, 0, 3] = 0.2 * np.arange(120)  # neighbouring frames see nearly the same points
    joined = dataclasses.replace(drive.joined, world_from_camera=straight)
    options = PublishConfig(shard_rows=60_000, row_group_rows=2048, confidence_share=0.0)
    publish_drive(str(folder), drive.facts, drive.chunks, joined, options, drive.run)
    return str(folder)


BOX = ((9.0, -1.0, 4.0), (11.0, 1.0, 6.0))


def inside(table, box, least=0.0):
    xyz = np.stack([table[axis].to_numpy() for axis in "xyz"], -1)
    there = ((xyz >= box[0]) & (xyz <= box[1])).all(-1) & (table["confidence"].to_numpy() >= least)
    return table.filter(pyarrow.array(there))


def test_a_box_gives_exactly_its_points(output):
    drive = open_drive(output, "drive-1")
    everything = drive.points()
    assert everything.num_rows == drive.manifest.counts.points == 120 * 40 * 48
    assert everything.schema.equals(schema.POINTS)
    expected = inside(everything, BOX)
    assert 100 < expected.num_rows < 10_000
    assert drive.points(BOX).equals(expected)


def test_points_can_be_selected_by_confidence_and_columns(output):
    drive = open_drive(output, "drive-1")
    expected = inside(drive.points(), BOX, 5.0)
    got = drive.points(BOX, columns=["frame_index", "x"], min_confidence=5.0)
    assert got.column_names == ["x", "frame_index"]  # in the order of the schema
    assert got.equals(expected.select(["x", "frame_index"]))


def test_a_small_box_touches_few_row_groups_and_few_bytes(output):
    drive = open_drive(output, "drive-1")
    plan = drive.row_groups(BOX)
    everything = drive.row_groups()
    touched, total = sum(len(g.chosen) for g in plan), sum(g.total for g in everything)
    assert len(everything) == 4 and total == sum(len(g.chosen) for g in everything) > 100
    assert 0 < touched <= 0.2 * total  # if points were in order of frames, it would be more than half

    before = bytes_read()
    drive.points(BOX)
    few = bytes_read() - before
    drive.points()
    everything_read = bytes_read() - before - few
    assert 0 < few < 0.35 * everything_read  # with footers, which are large in comparison with such small row groups


def test_shards_that_the_manifest_rules_out_are_not_opened(output, tmp_path):
    shutil.copytree(output, tmp_path / "copy")
    drive = open_drive(str(tmp_path / "copy"), "drive-1")
    start = ((-9.0, -9.0, 0.0), (-4.0, 9.0, 20.0))  # a box behind all frames except the first ones
    expected = drive.points(start)
    assert [groups.file.path for groups in drive.row_groups(start)] == ["points/part-00000.parquet"]
    for file in drive.manifest.point_files[1:]:
        (tmp_path / "copy" / "drive-1" / file.path).unlink()
    assert drive.points(start).equals(expected) and expected.num_rows > 0


def bytes_read():
    """Bytes this process has read from files, as the kernel counts."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])


def test_other_readers_get_boxes_from_the_same_statistics(output):
    field = pyarrow.dataset.field
    where = (
        (field("x") >= 9.0)
        & (field("x") <= 11.0)
        & (field("y") >= -1.0)
        & (field("y") <= 1.0)
        & (field("z") >= 4.0)
        & (field("z") <= 6.0)
    )
    dataset = pyarrow.dataset.dataset(f"{output}/drive-1/points")
    fragments = [f for whole in dataset.get_fragments() for f in whole.split_by_row_group(where)]
    assert len(fragments) == sum(len(g.chosen) for g in open_drive(output, "drive-1").row_groups(BOX))
    assert dataset.to_table(filter=where).num_rows == open_drive(output, "drive-1").points(BOX).num_rows


def test_row_groups_without_confident_points_are_not_read(output):
    drive = open_drive(output, "drive-1")
    assert drive.row_groups(min_confidence=1e6)[0].chosen == ()
    assert drive.points(min_confidence=1e6).num_rows == 0
    assert drive.points(min_confidence=1e6).schema.equals(schema.POINTS)


def test_batches_together_are_all_points(output):
    drive = open_drive(output, "drive-1")
    batches = list(drive.point_batches(min_confidence=3.0))
    assert max(batch.num_rows for batch in batches) <= 2048
    assert pyarrow.concat_tables(batches).equals(drive.points(min_confidence=3.0))


def test_with_a_voxel_the_most_confident_point_of_each_cube_is_given(output):
    drive = open_drive(output, "drive-1")
    best: dict = {}
    for row in drive.points(BOX).to_pylist():
        cube = tuple(int(np.floor(row[axis] / 0.5)) for axis in "xyz")
        best[cube] = max(best.get(cube, 0.0), row["confidence"])
    got = drive.points(BOX, columns=["confidence"], voxel=0.5)
    assert got.column_names == ["confidence"]
    assert sorted(got["confidence"].to_pylist()) == sorted(best.values())


def test_thinning_while_reading_gives_the_same_points_as_thinning_afterwards(output, monkeypatch):
    drive = open_drive(output, "drive-1")
    expected = drive.points(voxel=1.0)
    monkeypatch.setattr("pipeline.publish.results._THINNED_AT", 3000)
    got = drive.points(voxel=1.0)
    assert got.num_rows == expected.num_rows < drive.manifest.counts.points / 2
    assert got.sort_by("x").equals(expected.sort_by("x"))


@pytest.mark.parametrize(
    "ask, message",
    [
        ({"columns": ["colour"]}, "there is no 'colour'"),
        ({"box": ((1, 1, 1), (0, 2, 2))}, "lowest and its highest corner"),
        ({"box": (1, 2, 3, 4, 5, 6)}, "lowest and its highest corner"),
    ],
)
def test_invalid_selections_are_refused(output, ask, message):
    with pytest.raises(ValueError, match=message):
        open_drive(output, "drive-1").points(**ask)


def test_the_error_for_a_missing_file_of_the_manifest_names_it(output, tmp_path):
    drive = small_drive()
    publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    (tmp_path / "drive-1" / "poses.parquet").unlink()
    with pytest.raises(DriveError, match=r"drive drive-1: poses\.parquet named by its manifest"):
        _ = open_drive(str(tmp_path), "drive-1").poses
    (tmp_path / "drive-1" / "chunks.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DriveError, match=r"drive drive-1: chunks\.parquet named by its manifest") as caught:
        _ = open_drive(str(tmp_path), "drive-1").chunks
    assert "\n" not in str(caught.value)


def test_shards_of_a_killed_attempt_are_not_read(output, tmp_path):
    drive = small_drive()
    manifest = publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    shard = tmp_path / "drive-1" / "points" / "part-00000.parquet"
    (shard.parent / "part-00009.parquet").write_bytes(shard.read_bytes())
    assert open_drive(str(tmp_path), "drive-1").points().num_rows == manifest.counts.points


def test_a_frame_range_gives_points_of_its_frames_and_reads_no_other_shards(output):
    drive = open_drive(output, "drive-1")
    everything = drive.points()
    frame = everything["frame_index"].to_numpy()
    expected = everything.filter(pyarrow.array((frame >= 10) & (frame < 14)))
    assert drive.points(frames=(10, 14)).equals(expected) and expected.num_rows == 4 * 40 * 48
    touched = [groups for groups in drive.row_groups(frames=(10, 14)) if groups.chosen]
    assert [groups.file.path for groups in touched] == ["points/part-00000.parquet"]


def test_cameras_contain_the_poses_as_arrays_and_see_their_points(output):
    drive = open_drive(output, "drive-1")
    cameras = drive.cameras
    assert len(cameras) == 120 and cameras.world_from_camera[7, 0, 3] == pytest.approx(1.4)
    points = drive.points(frames=(20, 24))
    places = cameras.places(points["frame_index"].to_numpy())
    pixels, depth = cameras.project(places, np.stack([points[a].to_numpy() for a in "xyz"], -1))
    assert (depth > 0).all() and (pixels > 0).all() and (pixels < cameras.sizes[places]).all()
    assert (cameras.places(np.array([-1, 5, 400])) == [-1, 5, -1]).all()
    table = drive.poses.to_pandas()
    assert list(table.columns) == schema.POSES.names and len(table) == 120


def test_far_points_are_left_out_unless_their_confidence_is_high(output):
    drive = open_drive(output, "drive-1")
    everything = drive.points()
    position = drive.cameras.world_from_camera[everything["frame_index"].to_numpy(), :3, 3]
    distance = np.linalg.norm(np.stack([everything[a].to_numpy() for a in "xyz"], -1) - position, axis=1)
    middle, sure = drive.typical
    assert middle == pytest.approx(np.median(distance), rel=0.05) and sure == pytest.approx(5.5, abs=0.3)
    keep = (distance <= 1.2 * middle) | (everything["confidence"].to_numpy() >= sure)
    assert 0.6 * len(keep) < keep.sum() < 0.9 * len(keep)
    assert drive.points(far=1.2).equals(everything.filter(pyarrow.array(keep)))


def test_batches_are_thinned_in_bounded_pieces(output, monkeypatch):
    drive = open_drive(output, "drive-1")
    exact = drive.points(voxel=0.7)
    monkeypatch.setattr("pipeline.publish.results._THINNED_AT", 10_000)
    batches = list(drive.point_batches(voxel=0.7))
    assert len(batches) > 10 and max(batch.num_rows for batch in batches) <= 12_048
    got = pyarrow.concat_tables(batches)
    cubes = {tuple(np.floor(np.array([row[a] for a in "xyz"]) / 0.7)) for row in got.to_pylist()}
    assert got.num_rows == exact.num_rows == len(cubes)  # the same cubes, one point in each


def test_from_a_store_a_small_box_fetches_few_bytes(output, s3, monkeypatch):  # noqa: F811
    import s3fs

    from pipeline import storage

    for file in Path(output, "drive-1").rglob("*"):
        if file.is_file():
            storage.upload(file, f"{s3}/out/drive-1/{file.relative_to(Path(output, 'drive-1'))}")
    fetched = []
    fetch = s3fs.core.S3File._fetch_range
    monkeypatch.setattr(
        s3fs.core.S3File, "_fetch_range", lambda self, a, b: (fetched.append(b - a), fetch(self, a, b))[1]
    )
    drive = open_drive(f"{s3}/out", "drive-1")
    assert drive.points(BOX).equals(open_drive(output, "drive-1").points(BOX))
    few = sum(fetched)
    fetched.clear()
    drive.points()
    everything = sum(fetched)
    stored = sum(file.size for file in drive.manifest.point_files)
    assert 0 < few < 0.35 * stored <= 0.4 * everything < 0.6 * stored


@pytest.mark.parametrize(
    "ask, message",
    [
        ({"frames": (5, 5)}, "one past the last"),
        ({"far": 0.0}, "far must be above zero"),
        ({"voxel": -1.0}, "voxel must be above zero"),
        ({"min_confidence": float("nan")}, "min_confidence"),
    ],
)
def test_selections_of_nothing_are_refused(output, ask, message):
    with pytest.raises(ValueError, match=message):
        open_drive(output, "drive-1").points(**ask)


def test_the_example_reads_a_drive_and_draws_it(output, tmp_path, capsys):
    from PIL import Image

    from jobs.examples.read_drive import main

    assert main(output, "drive-1", str(tmp_path / "drive.png")) == 0
    said = capsys.readouterr().out
    assert "120 frames, 230,400 points" in said and "0.200 units in the median" in said
    assert np.asarray(Image.open(tmp_path / "drive.png")).std() > 5


def test_points_of_the_sky_and_of_the_car_are_left_out_unless_asked_for(tmp_path):
    drive = small_drive(40, height=20, width=24, size=20)
    for chunk in (drive.chunks[k] for k in range(len(drive.chunks))):
        assert float(np.max(chunk.depth)) < 20 * float(np.median(chunk.depth))
    ego = np.zeros((20, 24), bool)
    ego[15:] = True
    options = PublishConfig(confidence_share=0.0, far=1.2)
    manifest = publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, options, drive.run, ego=[ego])
    opened = open_drive(str(tmp_path), manifest.drive_id)
    everything, near = opened.points(sky=True, ego=True), opened.points()
    kind = everything["class"].to_numpy()
    sky = kind != schema.UNKNOWN
    assert (kind == schema.EGO).mean() == pytest.approx(0.25, abs=0.01) and (kind == schema.SKY).any()
    assert set(opened.points(sky=True)["class"].to_pylist()) == {schema.UNKNOWN, schema.SKY}
    assert set(opened.points(ego=True)["class"].to_pylist()) == {schema.UNKNOWN, schema.EGO}
    assert everything.num_rows == manifest.counts.points and 0 < sky.sum() < len(sky)
    assert near.num_rows == (~sky).sum() and set(near["class"].to_pylist()) == {schema.UNKNOWN}
    assert sum(part.num_rows for part in opened.point_batches(columns=["x"])) == near.num_rows
    assert opened.points(columns=["class"], sky=True, ego=True).num_rows == everything.num_rows


def test_older_results_whose_points_have_no_class_are_read(tmp_path):
    drive = small_drive(40, height=20, width=24, size=20)
    manifest = publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    before = open_drive(str(tmp_path), manifest.drive_id).points(sky=True)
    folder, files = tmp_path / manifest.drive_id, []
    for file in manifest.files:
        if "points/" in file.path:
            path = folder / file.path
            pq.write_table(pq.read_table(path).drop_columns(["class"]), path, write_page_checksum=True)
            data = path.read_bytes()
            file = dataclasses.replace(file, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        files.append(file)
    (folder / "manifest.json").write_bytes(dataclasses.replace(manifest, files=tuple(files)).to_bytes())
    old = open_drive(str(tmp_path), manifest.drive_id).points()
    assert old.equals(before) and set(old["class"].to_pylist()) == {schema.UNKNOWN}
    assert verify_drive(str(tmp_path), manifest.drive_id).problems == ()
