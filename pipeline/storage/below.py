"""Lists all files below a folder in one listing, and removes many files at once."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.failures import NotFoundError, translated
from pipeline.storage.files import remove_file
from pipeline.storage.stores import resolve
from pipeline.storage.uris import join

_REMOVED_AT_A_TIME = 16  # one request each: fsspec's removal of many files looks for each of them first


def list_below(uri: str) -> dict[str, int]:
    """Path below `uri` -> size in bytes, of every file at any depth; empty where nothing is there.

    An object store gets one request for each 1000 files. A link to a file has the size of its target; links to folders
    are not followed. Raises NotFoundError for a file where a folder was expected, RefusedError, UnreachableError,
    StorageError.
    """
    with translated(uri, "list"):
        fs, path = resolve(uri)
        if isinstance(fs, LocalFileSystem):
            return _local(path)
    try:
        with translated(uri, "list"):
            start = path.rstrip("/") + "/"
            found: dict[str, Mapping[str, int]] = fs.find(path, detail=True)
            start = start.lstrip("/")
            return {
                name.lstrip("/").removeprefix(start): int(entry["size"] or 0)
                for name, entry in found.items()
                if name.lstrip("/").startswith(start) and not name.endswith("/")
            }
    except NotFoundError:
        return {}


def some_below(uri: str, count: int) -> list[str]:
    """Paths of up to `count` files below a folder, whichever are found first; raises as `list_below`."""
    with translated(uri, "list"):
        fs, path = resolve(uri)
        if isinstance(fs, LocalFileSystem):
            return [name for name, _ in itertools.islice(_walk(path), count)]
    return list(list_below(uri))[:count]


def _local(root: str) -> dict[str, int]:
    return dict(sorted(_walk(root)))


def _walk(root: str) -> Iterator[tuple[str, int]]:
    if not os.path.lexists(root):  # below a file too
        return
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:  # gone since its name was read
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield os.path.relpath(entry.path, root), entry.stat().st_size


def remove_below(uri: str, paths: Sequence[str]) -> None:
    """Remove these files below a folder (paths as from `list_below`), and folders on a disk that are empty then, the
    folder itself among them. Files that are not there are fine. Raises StorageError."""
    with translated(uri, "remove"):
        fs, root = resolve(uri)
        if not isinstance(fs, LocalFileSystem):
            with ThreadPoolExecutor(_REMOVED_AT_A_TIME, thread_name_prefix="remove") as pool:
                list(pool.map(remove_file, [join(uri, path) for path in paths]))
            return
        folders = {root}
        for path in paths:
            file = join(root, path)  # raises for a path that leads out of the folder
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file)
            while (file := os.path.dirname(file)) not in folders:
                folders.add(file)
        for folder in sorted(folders, key=len, reverse=True):
            with contextlib.suppress(OSError):  # not empty: somebody else has files there
                os.rmdir(folder)
