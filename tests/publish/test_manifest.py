"""The manifest: identity, credentials, versions, damage."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schema
from pipeline.errors import DriveError
from pipeline.publish import PublishConfig, drive_identity, is_published, publish_drive, read_manifest
from pipeline.publish.manifest import Manifest, plain
from tests.publish.drives import Listed, small_drive

LISTING = st.lists(
    st.builds(Listed, st.text(max_size=5), st.integers(0, 9), st.none() | st.text(max_size=3)),
    max_size=6,
    unique_by=lambda file: file.name,
)


@given(LISTING, st.randoms())
def test_identity_does_not_depend_on_the_order_of_the_listing(listing, random):
    shuffled = list(listing)
    random.shuffle(shuffled)
    assert drive_identity(listing, "w", {"a": 1}) == drive_identity(shuffled, "w", {"a": 1})


def test_identity_changes_with_name_size_etag_weights_settings_and_schema(monkeypatch):
    listing = [Listed("a", 1, "x"), Listed("b", 2, None)]
    names = [drive_identity(listing, "w", {"k": 1, "j": (1, 2)})]
    for change in ({"name": "c"}, {"size": 3}, {"etag": "y"}):
        names.append(
            drive_identity([dataclasses.replace(listing[0], **change), listing[1]], "w", {"k": 1, "j": (1, 2)})
        )
    names.append(drive_identity(listing[:1], "w", {"k": 1, "j": (1, 2)}))
    names.append(drive_identity(listing, None, {"k": 1, "j": (1, 2)}))
    names.append(drive_identity(listing, "w", {"k": 2, "j": (1, 2)}))
    monkeypatch.setattr("pipeline.publish.manifest.SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    names.append(drive_identity(listing, "w", {"k": 1, "j": (1, 2)}))
    assert len(set(names)) == len(names) and all(len(name) == 64 for name in names)
    monkeypatch.undo()
    assert drive_identity(listing, "w", {"j": [1, 2], "k": 1}) == names[0]


def test_settings_are_stored_as_plain_json(tmp_path):
    value = {
        "path": tmp_path,
        "array": np.arange(2),
        "n": np.float32(1.5),
        "inf": float("inf"),
        "t": (1, "a"),
    }
    assert json.loads(json.dumps(plain(value))) == {
        "path": str(tmp_path),
        "array": [0, 1],
        "n": 1.5,
        "inf": None,
        "t": [1, "a"],
    }
    with pytest.raises(TypeError, match="object"):
        plain({"x": object()})


@pytest.fixture
def published(tmp_path):
    drive = small_drive()
    publish_drive(str(tmp_path), drive.facts, drive.chunks, drive.joined, PublishConfig(), drive.run)
    return tmp_path


def change(output, **values):
    path = output / "drive-1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_manifest_survives_its_file(published):
    manifest = read_manifest(str(published), "drive-1")
    assert Manifest.from_bytes(manifest.to_bytes(), "x") == manifest


def test_a_drive_counts_as_published_if_its_result_has_this_identity(published):
    assert is_published(str(published), "drive-1")
    assert is_published(str(published), "drive-1", "a" * 64)
    assert not is_published(str(published), "drive-1", "f" * 64)
    assert not is_published(str(published), "drive-2")


def test_a_result_of_a_newer_schema_is_refused_and_not_replaced(published):
    change(published, schema_version=schema.SCHEMA_VERSION + 1)
    for ask in (read_manifest, is_published):
        with pytest.raises(DriveError, match=r"drive-1.*version 2 is newer than 1.*update"):
            ask(str(published), "drive-1")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": "x"}'])
def test_the_error_for_a_damaged_manifest_names_it(published, text):
    (published / "drive-1" / "manifest.json").write_text(text)
    with pytest.raises(DriveError, match=r"drive drive-1 in .*--overwrite makes it again") as caught:
        read_manifest(str(published), "drive-1")
    assert "\n" not in str(caught.value)


def test_missing_and_unfinished_drives_are_distinguished(published):
    with pytest.raises(DriveError, match=r"no drive drive-2 in"):
        read_manifest(str(published), "drive-2")
    (published / "drive-1" / "manifest.json").unlink()
    with pytest.raises(DriveError, match=r"drive-1 in .* is not finished"):
        read_manifest(str(published), "drive-1")
    with pytest.raises(DriveError, match="drive id"):
        read_manifest(str(published), "../drive-1")
