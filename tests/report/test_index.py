"""The index lists all drives of an output, also unreadable ones, and reads unchanged drives only once."""

import json

import pytest

from pipeline.common.progress import Reporter
from pipeline.errors import DriveError
from pipeline.report.index import index_drives, published_drives, write_index
from tests.report.drives import publish


@pytest.fixture
def output(tmp_path):
    publish(tmp_path / "out", tmp_path / "source", "first", points=False)
    publish(tmp_path / "out", tmp_path / "source", "second", points=False)
    (tmp_path / "out" / "unfinished").mkdir()
    (tmp_path / "out" / "_staging").mkdir()
    return tmp_path / "out"


def test_finished_drives_are_found_and_described(output, tmp_path):
    names = published_drives(str(output))
    assert names == ["first", "second"]
    entry = index_drives(str(output), names, tmp_path / "site", Reporter())[0]
    assert (entry["verdict"], entry["frames"], entry["loops"], entry["report"]) == ("warn", 30, 1, None)
    assert entry["path"] and all(0 <= value <= 100 for point in entry["path"] for value in point)
    assert (tmp_path / "site" / entry["thumb"]).is_file()


def test_an_unchanged_drive_is_not_read_again_and_a_changed_one_is(output, tmp_path):
    site = tmp_path / "site"
    first = index_drives(str(output), ["first"], site, Reporter())
    poses = next((output / "first").rglob("poses.parquet"))
    poses.rename(poses.with_name("away"))
    assert index_drives(str(output), ["first"], site, Reporter()) == first
    manifest = output / "first" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("a" * 64, "c" * 64))
    assert index_drives(str(output), ["first"], site, Reporter())[0]["verdict"] == "unreadable"


def test_the_entry_of_a_drive_of_a_newer_schema_says_so(output, tmp_path):
    manifest = output / "second" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema_version": 99}))
    names = published_drives(str(output))
    entries = index_drives(str(output), names, tmp_path / "site", Reporter())
    assert [entry["verdict"] for entry in entries] == ["warn", "unreadable"]
    assert "newer than" in entries[1]["error"]
    write_index(tmp_path / "site", str(output), entries, whole=True)
    write_index(tmp_path / "site", str(output), entries[:1], whole=False)  # the entry of the other drive is unchanged
    assert len(json.loads((tmp_path / "site" / "drives.json").read_text())["drives"]) == 2


def test_a_drive_whose_input_is_missing_has_no_thumbnail(output, tmp_path):
    for path in (tmp_path / "source").glob("*.png"):
        path.unlink()
    assert index_drives(str(output), ["first"], tmp_path / "site", Reporter())[0]["thumb"] is None


def test_an_output_without_drives_gives_an_error(tmp_path):
    with pytest.raises(DriveError, match="no output at"):
        published_drives(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DriveError, match="no finished drive in"):
        published_drives(str(tmp_path / "empty"))
