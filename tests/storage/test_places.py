"""Paths and URIs as people write them, and folders with symbolic links."""

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import StorageError


def test_the_home_folder_is_meant_wherever_a_path_is_given(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert storage.absolute("~/drives") == "/home/ada/drives"
    assert storage.absolute("file:///drives/~") == "/drives/~"
    assert storage.absolute("s3://bucket/~/x") == "s3://bucket/~/x"


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_text_is_not_the_current_folder(empty):
    with pytest.raises(StorageError, match="variable unset"):
        storage.absolute(empty)


def test_a_path_with_a_nul_byte_is_refused():
    with pytest.raises(StorageError, match="NUL"):
        storage.absolute("/data/\0")


def test_a_scheme_is_read_in_any_case():
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


def test_a_link_that_leads_nowhere_is_listed_as_a_file_so_that_it_is_named_later(tmp_path: Path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert storage.list_files(str(tmp_path)).names == ["gone.jpg"]
    assert storage.is_dangling(str(tmp_path / "gone.jpg"))
    with pytest.raises(storage.NotFoundError):
        storage.read_bytes(str(tmp_path / "gone.jpg"))


def test_a_pipe_is_neither_file_nor_folder(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert storage.list_files(str(tmp_path)).names == []


@pytest.mark.parametrize("uri", ["s3://key:se/cret@bucket/x", "S3A://key@bucket/x", "gs://user:secret@bucket/x"])
def test_credentials_in_the_uri_of_a_bucket_are_refused_without_a_piece_of_them(uri):
    with pytest.raises(StorageError, match="credentials in a URI are not used") as caught:
        storage.list_files(uri)
    assert "bucket/x" in str(caught.value) and not caught.value.retryable
    assert not any(piece in str(caught.value) for piece in ("key:", "secret", "cret", "user"))


@pytest.mark.parametrize("uri", ["s3://", "gs:///", "S3://"])
def test_a_uri_without_a_bucket_is_refused(uri):
    with pytest.raises(StorageError, match="names no bucket"):
        storage.exists(uri)
