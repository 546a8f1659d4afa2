"""Reads, writes (a whole file or nothing), copies and removes files; downloads a file once for a machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from pipeline.common.waits import long_call
from pipeline.errors import StorageError
from pipeline.storage.failures import UnreachableError, UnreadableFileError, code_of, translated
from pipeline.storage.folders import stored_file
from pipeline.storage.held_root import make_folders
from pipeline.storage.stores import is_object_store, resolve
from pipeline.storage.uris import is_local, redacted

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FETCHED_S = 600.0  # enough to fetch weights of some GB
READ_BLOCK_BYTES = 8 * 2**20  # of a file that is read piecewise (videos); s3fs would fetch 50 MiB at a time


def open_input(uri: str, *, readahead: bool = True) -> BinaryIO:
    """Open a file for reading in binary, seekable; errors while reading are `StorageError` too.

    readahead: fetch more than is asked for, for a reader that goes through the file; without it only what is asked for.
    """
    with translated(uri, "open"):
        fs, path = resolve(uri)
        if isinstance(fs, LocalFileSystem):
            _size_of_what_ends(path)
            return open(path, "rb")
        options = {} if readahead else {"cache_type": "none"}
        return io.BufferedReader(_Input(fs.open(path, "rb", block_size=READ_BLOCK_BYTES, **options), uri))


class _Input(io.RawIOBase):
    """A remote file for reading whose errors are `StorageError`."""

    def __init__(self, file: AbstractBufferedFile, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        room = memoryview(buffer)
        with translated(self._uri, "read"):
            data = self._file.read(len(room))
        room[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with translated(self._uri, "read"):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """Read a whole file, or its first `limit` bytes (a header).

    Raises:
        NotFoundError, RefusedError, UnreachableError, StorageError: as the store says, after retries;
        UnreadableFileError: a local file that exists but cannot be read, or a device or pipe, which may have no end.
    """
    with translated(uri, "read"):
        fs, path = resolve(uri)
        if isinstance(fs, LocalFileSystem):
            size = _size_of_what_ends(path)
            limit = None if limit is None else min(limit, size + 1)  # memory for all of it is taken before it is read
        if limit is None:
            # Stores that can read one object in parallel parts first ask for its size: a second request for each frame.
            whole = {"max_concurrency": 1} if hasattr(fs, "max_concurrency") else {}
            return bytes(fs.cat_file(path, **whole))
        try:
            return bytes(fs.cat_file(path, start=0, end=limit))
        except OSError as error:
            # A store answers a range of an empty object with an error instead of no bytes.
            if code_of(error) == "InvalidRange":
                return b""
            raise


def _size_of_what_ends(path: str) -> int:
    """Bytes of a local file. Raises UnreadableFileError for a device or pipe, which may have no end."""
    found = os.stat(path)
    mode = found.st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder the system says so itself
        raise UnreadableFileError(f"cannot read {redacted(path)}: a device or pipe, no file")
    return found.st_size


def write_bytes_atomically(uri: str, data: bytes) -> None:
    """Write a file so that no reader sees a part of it: a local file under another name, which is then renamed; an
    object by one PUT."""
    with translated(uri, "write"):
        fs, path = resolve(uri)
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, data)
            return
        with _renamed_when_whole(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def upload(local_path: str | Path, uri: str) -> None:
    """Copy a local file to a URI; no reader sees a part of it (as with `write_bytes_atomically`)."""
    with translated(uri, "write"):
        fs, path = resolve(uri)
        if not isinstance(fs, LocalFileSystem):
            fs.put_file(str(local_path), path)
            return
        with _renamed_when_whole(path) as temporary:
            shutil.copyfile(local_path, temporary)


@contextlib.contextmanager
def _renamed_when_whole(path: str) -> Iterator[str]:
    folder, name = os.path.split(path)
    make_folders(folder)
    temporary = os.path.join(folder, f".{name[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def copy(source: str, target: str) -> None:
    """Copy a file within one store; no reader sees a part of it. The store copies it itself; on a disk it is a hard
    link where the disk has such links."""
    with translated(target, "write"):
        fs, path = resolve(source)
        _, target_path = resolve(target)
        if not isinstance(fs, LocalFileSystem):
            fs.cp_file(path, target_path)
            return
        with _renamed_when_whole(target_path) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, temporary)


def make_dir(uri: str) -> None:
    """Make a folder and its parents, if the store has folders; buckets are never made."""
    with translated(uri, "write"):
        fs, path = resolve(uri)
        if not is_object_store(fs):
            if isinstance(fs, LocalFileSystem):
                make_folders(path)
            else:
                fs.makedirs(path, exist_ok=True)


def remove_file(uri: str) -> None:
    """Remove one file by one request; a file that is not there is no error."""
    with translated(uri, "remove"), contextlib.suppress(FileNotFoundError):
        fs, path = resolve(uri)
        fs.rm_file(path)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it (or one file); one that is not there is no error.

    Raises:
        StorageError: the URI is the root of a store or a whole bucket, or the store refuses.
    """
    with translated(uri, "remove"):
        fs, path = resolve(uri)
        depth = len([part for part in path.split("/") if part])
        if depth < (2 if is_object_store(fs) else 1):
            raise StorageError(f"will not remove a whole store or bucket: {redacted(uri)}")
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def cache_folder() -> Path:
    """The folder for files that this machine uses again: weights, compiled kernels."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "city-reconstruction"


def fetch_to_cache(uri: str, cache_dir: str | Path | None = None) -> Path:
    """Bring a file (weights) onto this machine once, for any number of processes that ask at the same time.

    The first process downloads under another name and renames; the others wait for it. A changed file (etag
    or size) is fetched anew. A local path is returned as it is.

    Args:
        cache_dir: default $XDG_CACHE_HOME/city-reconstruction, else ~/.cache/city-reconstruction.

    Raises:
        NotFoundError, RefusedError, UnreachableError, StorageError: as the store or the local disk says.
    """
    found = stored_file(uri)
    if is_local(uri):
        return Path(found.uri)
    folder = Path(cache_dir) if cache_dir is not None else cache_folder()
    key = hashlib.sha256(f"{found.uri}\n{found.size}\n{found.etag}".encode()).hexdigest()[:16]
    target = folder / f"{key}-{found.name}"
    with translated(uri, f"fetch into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{key}.lock", "w") as lock:
            with long_call(f"another process of this machine that fetches {found.name}", _FETCHED_S):
                fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when a process dies
            if not target.exists():
                # One fixed name, used under the lock: the remains of a killed process are overwritten and do not pile
                # up.
                partial = folder / f"{key}.part"
                fs, path = resolve(uri)
                fs.get_file(path, str(partial))
                if partial.stat().st_size != found.size:
                    got = partial.stat().st_size
                    message = f"{redacted(uri)}: expected {found.size} bytes, got {got}; try again"
                    raise UnreachableError(message)
                os.replace(partial, target)
    return target
