"""Replaces a file only if its content is still the expected one: by a conditional PUT on S3, by a lock on disks."""

from __future__ import annotations

import fcntl
import os

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.failures import code_of, translated
from pipeline.storage.files import write_bytes_atomically
from pipeline.storage.folders import etag_of
from pipeline.storage.held_root import make_folders
from pipeline.storage.stores import is_object_store, resolve


def compare_and_swap(uri: str, expected: bytes | None, new: bytes | None) -> bool:
    """Write a small file only if it contains `expected` (None: only if it is missing). new None removes the file.

    Of several processes that try at once, one succeeds: on a disk by a lock on the file, on S3 by conditional requests
    (If-None-Match, If-Match). Other stores have neither; there the file is read, written and read again, and two
    processes may both succeed. Returns whether it was done.

    Raises:
        RefusedError, UnreachableError, StorageError: as the store says; the write may then be done or not.
    """
    assert new != b"" and expected != b"", "an empty file counts as none"
    with translated(uri, "write"):
        fs, path = resolve(uri)
        if isinstance(fs, LocalFileSystem):
            return _swap_local(path, expected, new)
        conditions: dict[str, str] = {"IfNoneMatch": "*"}
        if expected is not None:
            try:
                etag = etag_of(fs.info(path))
                if bytes(fs.cat_file(path)) != expected:
                    return False
            except FileNotFoundError:
                return False
            conditions = {"IfMatch": f'"{etag}"'} if etag else {}
        if is_object_store(fs) and hasattr(fs, "call_s3") and conditions:
            bucket, key, _ = fs.split_path(path)
            try:
                if new is None:
                    fs.call_s3("delete_object", Bucket=bucket, Key=key, **conditions)
                else:
                    fs.call_s3("put_object", Bucket=bucket, Key=key, Body=new, **conditions)
                return True
            except OSError as error:
                code = code_of(error)
                if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                    return False
                if code != "NotImplemented":
                    raise
        return _swap_unconditionally(fs, path, expected, new)


def _swap_local(path: str, expected: bytes | None, new: bytes | None) -> bool:
    make_folders(os.path.dirname(path))
    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                    continue  # the file was removed, and perhaps made again, before the lock was taken
            except FileNotFoundError:
                continue
            file.seek(0)
            now = file.read() or None
            if now != expected:
                if now is None:
                    os.unlink(path)
                return False
            if new is None:
                os.unlink(path)
            else:
                # Readers take no lock. A process that waits for the lock sees afterwards that the file is another one.
                write_bytes_atomically(path, new)
            return True


def _swap_unconditionally(fs: AbstractFileSystem, path: str, expected: bytes | None, new: bytes | None) -> bool:
    now = bytes(fs.cat_file(path)) if fs.exists(path) else None
    if now != expected:
        return False
    if new is None:
        fs.rm_file(path)
        return True
    fs.pipe_file(path, new)
    return bytes(fs.cat_file(path)) == new
