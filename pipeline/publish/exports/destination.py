"""The folder of an export: it appears complete or not at all, and overwrites nothing without `overwrite`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline import storage
from pipeline.errors import DriveError, StorageError

MARKER, KIND = "export.json", "export"
"""The file that says what the folder holds; it is written last. Only a folder that has it may be replaced."""


@contextlib.contextmanager
def whole_folder(to: str, *, overwrite: bool) -> Iterator[Path]:
    """A local folder to write an export into. At the end, without an error, it is signed with MARKER
    (storage.sign_folder) and becomes `to`.

    `to` is a path (the folder is written beside it under another name and renamed) or any other URI (files are
    uploaded one by one, MARKER last). Raises DriveError where `to` exists and may not be replaced: without `overwrite`
    only an empty folder may be, with it also a former export that contains nothing else. Raises StorageError.
    """
    to = storage.absolute(to)
    check_free(to, overwrite=overwrite)
    local = storage.is_local(to)
    if local:
        parent, name = os.path.split(to.rstrip("/"))
        with _as_storage_error(to):
            os.makedirs(parent, exist_ok=True)
            folder = Path(parent) / f".{name[:80]}.{uuid.uuid4().hex}.tmp"
            folder.mkdir()
    else:
        folder = Path(tempfile.mkdtemp(prefix="export-"))
    try:
        with _as_storage_error(to):
            yield folder
            if local:
                _rename(folder, Path(to), overwrite)
            else:
                _upload(folder, to)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_free(to: str, *, overwrite: bool) -> None:
    """Raises DriveError where an export may not be written to `to`."""
    to = storage.absolute(to)
    if not overwrite and storage.read_signature(to, MARKER, KIND) is not None:
        raise DriveError(f"{storage.redacted(to)} holds an export already; --overwrite replaces it")
    storage.check_replaceable(to, MARKER, KIND)


def _rename(folder: Path, target: Path, overwrite: bool) -> None:
    check_free(str(target), overwrite=overwrite)  # again, because it may exist by now
    storage.replace_folder(folder, target, MARKER, KIND)


def _upload(folder: Path, to: str) -> None:
    storage.remove_signed(to, MARKER, KIND)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == MARKER):
        storage.upload(path, storage.join(to, *path.relative_to(folder).parts))


@contextlib.contextmanager
def _as_storage_error(to: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {storage.redacted(to)}: {error.strerror or error}") from None
