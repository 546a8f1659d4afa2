"""A root folder that vanishes while it is held is not made again; folders below a held root are made as usual."""

import os
import shutil

import pytest

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.storage import VanishedError, held_root


def writes(root):
    """Each way to write below a root, by name."""
    local = root.parent / "local"
    local.write_bytes(b"x")
    return {
        "write": lambda: storage.write_bytes_atomically(f"{root}/a/b/file", b"x"),
        "write at the top": lambda: storage.write_bytes_atomically(f"{root}/file", b"x"),
        "upload": lambda: storage.upload(local, f"{root}/a/b/file"),
        "make_dir": lambda: storage.make_dir(f"{root}/a/b"),
        "swap": lambda: storage.compare_and_swap(f"{root}/a/b/file", None, b"x"),
    }


WAYS = ("write", "write at the top", "upload", "make_dir", "swap")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gone", ["moved", "removed", "another in its place"])
def test_no_write_makes_a_vanished_root_again(tmp_path, way, gone):
    root = tmp_path / "out"
    with held_root(str(root), make=True):
        if gone == "removed":
            shutil.rmtree(root)
        else:
            root.rename(tmp_path / "elsewhere")
        if gone == "another in its place":
            root.mkdir()
        with pytest.raises(VanishedError, match="is gone"):
            writes(root)[way]()
        assert not root.exists() or not os.listdir(root)


@pytest.mark.parametrize("way", WAYS)
def test_folders_below_a_held_root_are_made(tmp_path, way):
    root = tmp_path / "out"
    with held_root(str(root), make=True):
        writes(root)[way]()
    assert os.listdir(root)


def test_folders_that_are_not_held_are_made_as_usual(tmp_path):
    with held_root(str(tmp_path / "out"), make=True):
        storage.write_bytes_atomically(str(tmp_path / "out-2" / "file"), b"x")
        storage.write_bytes_atomically(str(tmp_path / "other" / "deep" / "file"), b"x")
    shutil.rmtree(tmp_path / "out")
    storage.write_bytes_atomically(str(tmp_path / "out" / "file"), b"x")  # the root is not held any more


def test_a_root_held_twice_is_held_until_both_release_it(tmp_path):
    root = tmp_path / "out"
    with held_root(str(root), make=True):
        with held_root(str(root), make=False):
            pass
        root.rename(tmp_path / "elsewhere")
        with pytest.raises(VanishedError):
            storage.write_bytes_atomically(str(root / "file"), b"x")
        with pytest.raises(VanishedError), held_root(str(root), make=True):
            pass


def test_a_process_that_works_for_a_run_does_not_make_the_runs_root(tmp_path):
    with pytest.raises(StorageError, match="is gone"), held_root(str(tmp_path / "out"), make=False):
        pass
    assert not (tmp_path / "out").exists()


def test_a_root_that_comes_back_can_be_written_again(tmp_path):
    root = tmp_path / "out"
    with held_root(str(root), make=True):
        root.rename(tmp_path / "elsewhere")
        with pytest.raises(VanishedError):
            storage.write_bytes_atomically(str(root / "file"), b"x")
        (tmp_path / "elsewhere").rename(root)
        storage.write_bytes_atomically(str(root / "file"), b"x")
    assert (root / "file").read_bytes() == b"x"


def test_a_file_in_the_place_of_the_root_is_named_in_the_error(tmp_path):
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(StorageError, match="out"), held_root(str(tmp_path / "out"), make=True):
        pass


def test_stores_without_folders_are_not_held():
    with held_root("memory://bucket/out", make=True):
        storage.write_bytes_atomically("memory://bucket/out/file", b"x")
    assert storage.read_bytes("memory://bucket/out/file") == b"x"
