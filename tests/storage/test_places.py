"""Paths and URIs as users write them, and folders with symbolic links."""

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import StorageError


def test_a_tilde_means_the_home_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert storage.absolute("~/drives") == "/home/ada/drives"
    assert storage.absolute("file:///drives/~") == "/drives/~"
    assert storage.absolute("s3://bucket/~/x") == "s3://bucket/~/x"


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_text_is_refused_and_not_taken_for_the_current_folder(empty):
    with pytest.raises(StorageError, match="variable unset"):
        storage.absolute(empty)


def test_a_path_with_a_nul_byte_is_refused():
    with pytest.raises(StorageError, match="NUL"):
        storage.absolute("/data/\0")


def test_a_scheme_may_have_upper_and_lower_case_letters():
    assert storage.absolute("S3://Bucket/Key") == "s3://Bucket/Key"
    assert storage.absolute("File:///data/x") == "/data/x"
    assert storage.absolute("file://localhost/data") == "/data"


def test_links_to_files_and_folders_are_followed(tmp_path: Path):
    real = tmp_path / "real"
    (real / "inner").mkdir(parents=True)
    (real / "a.jpg").write_bytes(b"12345")
    here = tmp_path / "here"
    here.mkdir()
    (here / "a.jpg").symlink_to(real / "a.jpg")
    (here / "drive").symlink_to(real, target_is_directory=True)
    files = storage.list_files(str(here))
    assert files.columns()[:2] == (["a.jpg"], [5])
    assert storage.list_folders(str(here)) == ["drive"]
    assert {entry.name: entry.is_folder for entry in storage.iter_folder(str(here))} == {"a.jpg": False, "drive": True}


def test_a_dangling_link_is_listed_as_a_file_so_that_it_is_reported_later(tmp_path: Path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert storage.list_files(str(tmp_path)).names == ["gone.jpg"]
    assert storage.is_dangling(str(tmp_path / "gone.jpg"))
    with pytest.raises(storage.NotFoundError):
        storage.read_bytes(str(tmp_path / "gone.jpg"))


def test_a_named_pipe_is_neither_file_nor_folder(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert storage.list_files(str(tmp_path)).names == []


@pytest.mark.parametrize("uri", ["s3://key:se/cret@bucket/x", "S3A://key@bucket/x", "gs://user:secret@bucket/x"])
def test_credentials_in_the_uri_of_a_bucket_are_refused_and_not_repeated_in_the_error(uri):
    with pytest.raises(StorageError, match="credentials in a URI are not used") as caught:
        storage.list_files(uri)
    assert "bucket/x" in str(caught.value) and not caught.value.retryable
    assert not any(piece in str(caught.value) for piece in ("key:", "secret", "cret", "user"))


@pytest.mark.parametrize("uri", ["s3://", "gs:///", "S3://"])
def test_a_uri_without_a_bucket_is_refused(uri):
    with pytest.raises(StorageError, match="names no bucket"):
        storage.exists(uri)
