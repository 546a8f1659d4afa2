"""One listing of all files below a folder, and removal of the named files only."""

import pytest

from pipeline import storage
from pipeline.errors import StorageError


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    if request.param == "disk":
        yield str(tmp_path / "out" / "d1")
    else:
        uri = "memory://below/out/d1"
        yield uri
        storage.remove_tree("memory://below/out")


FILES = {"manifest.json": b"{}", "points/part-00000.parquet": b"123", "a/b/c": b"12", "points/own.txt": b"mine"}


@pytest.fixture
def filled(place):
    for path, data in FILES.items():
        storage.write_bytes_atomically(storage.join(place, *path.split("/")), data)
    storage.write_bytes_atomically(f"{place}2/manifest.json", b"the neighbour's")
    return place


def test_files_are_listed_by_their_paths_with_sizes(filled):
    assert storage.list_below(filled) == {path: len(data) for path, data in FILES.items()}
    assert storage.list_below(filled + "/") == storage.list_below(filled)


def test_a_missing_folder_has_an_empty_listing(place):
    assert storage.list_below(place) == {}


def test_only_the_named_files_are_removed(filled):
    storage.remove_below(filled, ["points/part-00000.parquet", "a/b/c", "not/there"])
    assert set(storage.list_below(filled)) == {"manifest.json", "points/own.txt"}
    assert storage.read_bytes(f"{filled}2/manifest.json") == b"the neighbour's"


def test_empty_folders_are_removed_and_others_are_kept(tmp_path):
    for path in FILES:
        storage.write_bytes_atomically(str(tmp_path / "d" / path), b"x")
    (tmp_path / "d" / "kept").mkdir()
    storage.remove_below(str(tmp_path / "d"), ["a/b/c", "points/part-00000.parquet"])
    assert not (tmp_path / "d" / "a").exists()
    assert (tmp_path / "d" / "points").is_dir() and (tmp_path / "d" / "kept").is_dir()


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link").symlink_to(tmp_path / "mine")
    assert "link/precious" not in storage.list_below(str(tmp_path / "d"))


def test_a_path_that_leads_out_of_the_folder_is_refused(place):
    storage.write_bytes_atomically(f"{place}2/precious", b"x")
    with pytest.raises(StorageError, match="not a plain name"):
        storage.remove_below(place, ["../d12/precious"])
    assert storage.read_bytes(f"{place}2/precious") == b"x"


def test_a_file_in_the_place_of_a_folder_is_an_error_and_has_no_files_below_it(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError, match="expected a folder"):
        storage.list_below(str(tmp_path / "file"))
    assert storage.list_below(str(tmp_path / "file" / "out" / "d1")) == {}
