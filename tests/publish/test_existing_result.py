"""What an output contains under a drive's name: a whole or damaged result, one of another input, or a user's files."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import schema
from pipeline.errors import DriveError
from pipeline.publish import PublishConfig, open_drive, publish_drive
from pipeline.publish.existing_result import Source, decide, longer_id, look_at, made_by_us
from tests.publish.drives import Listed, small_drive

HERE = "s3://bucket/drives/1"
IDENTITY = "a" * 64


def publish(output, **options):
    drive = small_drive(**options)
    arguments = (drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    return publish_drive(str(output), *arguments, overwrite=True)


@pytest.fixture
def out(tmp_path):
    publish(tmp_path / "out")
    return tmp_path / "out"


def source(uri=HERE, count=10, etag="etag", sample=None):
    files = [Listed(f"{n:06d}.png", 1000 + n, f"{etag}{n}" if etag else None) for n in range(count)]
    return Source(uri, files, lambda: sample)


def decided(out, identity=IDENTITY, where=None, **options):
    return decide(str(out), "drive-1", identity, where or source(), **{"overwrite": False, **options})


def users_table(path):
    """A Parquet file that somebody else made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": np.arange(3)}), path)


# -- whole, changed, damaged ---------------------------------------------------------------------------------


def test_a_drive_with_a_whole_result_of_this_identity_is_done(out):
    assert decided(out).done
    assert look_at(str(out), "drive-1").lost == ()


def test_a_drive_without_a_result_is_to_be_made(tmp_path):
    decision = decided(tmp_path / "nowhere")
    assert not decision.done and not decision.replaces
    assert not (tmp_path / "nowhere").exists()


def test_a_result_of_other_settings_is_made_again(out):
    decision = decided(out, identity="b" * 64)
    assert not decision.done and decision.replaces and "other input, weights or settings" in decision.why


FILES = ("poses.parquet", "chunks.parquet", "loops.parquet", "points/part-00000.parquet")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["removed", "cut", "grown", "empty"])
def test_a_result_whose_files_are_missing_is_made_again_despite_its_manifest(out, name, how):
    path = out / "drive-1" / name
    data = path.read_bytes()
    path.unlink() if how == "removed" else path.write_bytes({"cut": data[:-1], "grown": data + b"x", "empty": b""}[how])
    decision = decided(out)
    assert not decision.done and decision.replaces
    assert name in decision.why and "making it again" in decision.why


def test_with_overwrite_no_drive_counts_as_done(out):
    assert not decided(out, overwrite=True).done


# -- manifests that cannot be read ---------------------------------------------------------------------------

BROKEN = {
    "half": lambda text: text[: len(text) // 2],
    "empty": lambda text: b"",
    "binary": lambda text: bytes(range(256)),
    "list": lambda text: b"[]",
    "deep": lambda text: b"[" * 100_000,
    "newer": lambda text: text.replace(b'"schema_version": %d' % schema.SCHEMA_VERSION, b'"schema_version": 999', 1),
    "of another drive": lambda text: text.replace(b'"drive-1"', b'"../../drive-2"'),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_manifest_of_this_program_is_refused_and_the_advice_works(out, how):
    path = out / "drive-1" / "manifest.json"
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(DriveError, match="drive-1") as said:
        decided(out)
    assert how == "newer" or "--overwrite" in str(said.value)
    decision = decided(out, overwrite=True)
    assert not decision.done and decision.replaces
    publish(out)
    assert decided(out).done


# -- files of the user ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "points/part-00007.parquet"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_users_own_table_is_never_replaced(tmp_path, name, overwrite):
    own = tmp_path / "out" / "drive-1" / name
    users_table(own)
    before = own.read_bytes()
    with pytest.raises(DriveError, match="did not make"):
        decided(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(DriveError, match="did not make"):
        publish(tmp_path / "out")
    assert own.read_bytes() == before
    assert not (own.parents[name.count("/")] / "manifest.json").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("data", [b"no Parquet at all", b"PAR1", b"\0" * 64])
def test_a_users_own_file_that_is_no_table_is_never_replaced(tmp_path, name, data):
    own = tmp_path / "out" / "drive-1" / name
    own.parent.mkdir(parents=True)
    own.write_bytes(data)
    with pytest.raises(DriveError, match="did not make"):
        publish(tmp_path / "out")
    assert own.read_bytes() == data


@pytest.mark.parametrize(
    "text",
    [
        '{"files": []}',
        '{"schema_version": 1, "name": "x"}',
        "not json",
        "[1, 2]",
        '{"schema_version": 1, "drive_id": "another"}',
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_users_own_manifest_is_never_replaced(tmp_path, text, overwrite):
    own = tmp_path / "out" / "drive-1" / "manifest.json"
    own.parent.mkdir(parents=True)
    own.write_text(text)
    with pytest.raises(DriveError, match=r"manifest\.json, which this program did not make"):
        decided(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(DriveError, match="did not make"):
        publish(tmp_path / "out")
    assert own.read_text() == text


def test_files_of_other_names_stay_beside_a_result(tmp_path):
    folder = tmp_path / "out" / "drive-1"
    mine = {"000000.png": "image", "points/notes.txt": "notes", "_version-mine/x": "x", "poses.csv": "x"}
    for name, text in mine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    publish(tmp_path / "out")
    publish(tmp_path / "out", seed=1)
    assert {name: (folder / name).read_text() for name in mine} == mine
    assert decided(tmp_path / "out").done


def test_a_users_shard_beside_a_result_survives_a_new_version(out):
    own = out / "drive-1" / "points" / "part-00099.parquet"
    users_table(own)
    with pytest.raises(DriveError, match="part-00099"):
        decided(out, overwrite=True)
    assert own.exists()


def test_files_of_a_killed_publish_are_recognised_as_this_programs(out):
    (out / "drive-1" / "manifest.json").unlink()
    assert made_by_us(str(out / "drive-1" / "poses.parquet"))
    assert not decided(out).done
    publish(out)
    assert decided(out).done


def test_surplus_shards_of_a_longer_version_are_removed_with_the_next_version(tmp_path):
    out = tmp_path / "out"
    publish(out)
    folder = out / "drive-1" / "points"
    # as if it were the second shard of an earlier version
    shutil.copy(folder / "part-00000.parquet", folder / "part-00001.parquet")
    publish(out, seed=1)
    assert not (folder / "part-00001.parquet").exists()


# -- another input of the same name --------------------------------------------------------------------------


def test_another_input_of_the_same_name_is_refused_and_the_error_says_what_to_do(out):
    with pytest.raises(DriveError) as said:
        decided(out, where=source("s3://bucket/other/1", count=9))
    text = str(said.value)
    assert "s3://bucket/drives/1" in text and "s3://bucket/other/1" in text
    assert "--drive-id other__drive-1" in text and "--overwrite" in text
    assert not decided(out, where=source("s3://bucket/other/1", count=9), overwrite=True).done


def test_in_a_run_over_many_drives_the_advice_is_another_output(out):
    with pytest.raises(DriveError, match="another --output"):
        decided(out, where=source("s3://bucket/other/1", count=9), of_many=True)


@pytest.mark.parametrize("identity", [IDENTITY, "b" * 64])
def test_a_copy_elsewhere_is_the_same_drive(out, identity):
    decision = decided(out, identity=identity, where=source("s3://bucket/copy/1"))
    assert decision.done == (identity == IDENTITY)


@pytest.mark.parametrize(("sample", "same"), [("1" * 64, True), ("2" * 64, False), (None, False)])
def test_without_etags_inputs_are_compared_by_a_sample_of_their_content(out, sample, same):
    path = out / "drive-1" / "manifest.json"
    manifest = open_drive(str(out), "drive-1").manifest
    files = [{**file, "etag": None} for file in manifest.input["files"]]
    path.write_bytes(replace(manifest, input={**manifest.input, "files": files, "sample": "1" * 64}).to_bytes())
    where = source("/elsewhere/1", etag=None, sample=sample)
    if same:
        assert decided(out, where=where).done
    else:
        with pytest.raises(DriveError, match="another drive of this name"):
            decided(out, where=where)
    assert decided(out, where=source(etag=None, sample="2" * 64)).done  # the same place counts as the same drive


def test_a_changed_listing_at_the_same_place_is_the_same_drive(out):
    decision = decided(out, identity="b" * 64, where=source(count=12))
    assert not decision.done and decision.replaces


def test_suggested_ids_contain_enough_of_the_path_to_differ():
    assert longer_id("images", "/x/A/images", "/x/B/images") == "A__images"
    assert longer_id("images", "/x/A/cam 0/images", "/x/B/cam 0/images") == "A__cam-0__images"
    assert longer_id("90", "/k/a/sequences/90/image_0", "/k/b/sequences/90") == "a__sequences__90"
    assert longer_id("clip", "s3://b/x/clip.mp4", "/y/clip.mp4") == "x__clip"
    assert longer_id("d", "/d", "/d") == "d-2"
    assert len(longer_id("d" * 120, "/" + "A" * 100 + "/" + "d" * 120, "/B/" + "d" * 120)) <= 128


def test_looking_at_a_result_writes_no_files(out):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    decided(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert json.loads((out / "drive-1" / "manifest.json").read_text())["drive_id"] == "drive-1"
