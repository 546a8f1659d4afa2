"""Holds the folder open into which a run writes: if it is moved away or unmounted, no write creates it again.

A folder created again would lack what was written before, and a manifest in it would name files that do not exist.
Object stores have no folders; a bucket that is gone refuses writes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import StorageError
from pipeline.storage.failures import translated
from pipeline.storage.uris import absolute, is_local


class VanishedError(StorageError):
    """The folder that a run writes into is not there any more, or another one took its place."""


@dataclass
class _Held:
    """descriptor: of the open folder, so that no other folder gets its inode number; holders: how many asked for it."""

    descriptor: int
    holders: int = 1


_held: dict[str, _Held] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def held_root(uri: str, *, make: bool) -> Iterator[None]:
    """Inside this context, no write of this process below `uri` creates that folder again.

    make: create the folder first if it is missing (for the process that begins a run). Without `make`, a missing folder
    is an error (for processes that work for a run). Raises VanishedError; StorageError where the folder cannot be
    created or opened.
    """
    if not is_local(uri):
        yield
        return
    root = absolute(uri)
    with _lock:
        if root in _held and not _is_there(root):
            raise VanishedError(_gone(root))
        if root in _held:
            _held[root].holders += 1
        else:
            with translated(uri, "write"):
                if make:
                    make_folders(root)
                try:
                    _held[root] = _Held(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
                except FileNotFoundError:
                    raise VanishedError(_gone(root)) from None
    try:
        yield
    finally:
        with _lock:
            _held[root].holders -= 1
            if not _held[root].holders:
                os.close(_held.pop(root).descriptor)


def make_folders(folder: str) -> None:
    """os.makedirs, but below a held root never the root itself. Raises VanishedError, OSError."""
    root = _root_of(folder)
    if root is None:
        os.makedirs(folder, exist_ok=True)
        return
    if not _is_there(root):
        raise VanishedError(_gone(root))
    place = root
    for name in os.path.relpath(folder, root).split(os.sep):  # one by one: if the root vanishes, the first fails
        place = os.path.join(place, name)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(place)
        except FileNotFoundError:
            raise VanishedError(_gone(root)) from None


def _root_of(folder: str) -> str | None:
    """The innermost held root that is this folder or contains it."""
    roots = [root for root in tuple(_held) if folder == root or folder.startswith(root.rstrip(os.sep) + os.sep)]
    return max(roots, key=len, default=None)


def _is_there(root: str) -> bool:
    held = _held.get(root)
    if held is None:  # another thread has just released it
        return os.path.isdir(root)
    try:
        now, then = os.stat(root), os.fstat(held.descriptor)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)


def _gone(root: str) -> str:
    return (
        f"the folder {root} is gone (moved, removed or unmounted) since this run began to write there; "
        "bring it back and give the same command again, which does what is left"
    )
