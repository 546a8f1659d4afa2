"""Listings: files and folders, one page after the other."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fsspec import AbstractFileSystem

from pipeline.storage.failures import NotFoundError, translated
from pipeline.storage.listing import Listing, StoredFile
from pipeline.storage.s3_pages import s3_pages
from pipeline.storage.stores import is_object_store, resolve
from pipeline.storage.uris import absolute, parent_and_name, redacted


def list_files(uri: str) -> Listing:
    """List the files (not the folders) of one folder, in the order of their names as plain text.

    Raises:
        NotFoundError: no such bucket or folder, or a file where a folder was expected.
        RefusedError, UnreachableError, StorageError: as the store says.
    """
    root = absolute(uri)
    with translated(uri, "list"):
        fs, path = resolve(uri)
        if hasattr(fs, "call_s3"):
            pages = list(s3_pages(fs, path))
            if any(len(files) or folders for files, folders in pages):
                return Listing.of_pages(root, [files for files, _ in pages]).in_order_of_text()
        # on S3 too: an empty bucket, a file, or nothing at all
        names: list[str] = []
        sizes: list[int] = []
        etags: list[str | None] = []
        for entry in fs.ls(path, detail=True):
            full = str(entry["name"])
            if kind_of(entry) != "file" or full.endswith("/"):
                continue
            if full.strip("/") == path.strip("/"):
                raise NotFoundError(f"expected a folder at {redacted(uri)}, got a file")
            names.append(full.rpartition("/")[2])
            sizes.append(int(entry["size"] or 0))
            etags.append(etag_of(entry))
    return Listing(root, names, sizes, etags).in_order_of_text()


@dataclass(frozen=True)
class FolderEntry:
    """One name in a folder."""

    uri: str
    name: str
    is_folder: bool


def iter_folder(uri: str, first_page: int = 1000) -> Iterator[FolderEntry]:
    """The names in one folder, in any order. They are fetched page by page, so that a caller may stop early.

    An object store gets one request for the first `first_page` names (at most 1000), and one for each 1000 after them.

    Raises:
        NotFoundError, RefusedError, UnreachableError, StorageError: as `list_files`.
    """
    root = absolute(uri)
    place = root if root.endswith("://") else root.rstrip("/") + "/"
    with translated(uri, "list"):
        fs, path = resolve(uri)
    pages = _s3_names(fs, path, first_page) if hasattr(fs, "call_s3") else _one_page(fs, path)
    found = False
    while True:
        with translated(uri, "list"):
            page = next(pages, None)
        if page is None:
            break
        for name, is_folder in page:
            found = True
            yield FolderEntry(place + name, name, is_folder)
    if not found and is_object_store(fs):
        raise NotFoundError(f"no such file or folder: {redacted(uri)}")


def _s3_names(fs: AbstractFileSystem, path: str, first_page: int) -> Iterator[list[tuple[str, bool]]]:
    for files, folders in s3_pages(fs, path, first_page):
        yield [(name, True) for name in folders] + [(name.decode(), False) for name in files.keys.to_pylist()]


def _one_page(fs: AbstractFileSystem, path: str) -> Iterator[list[tuple[str, bool]]]:
    entries = [(str(entry["name"]).rstrip("/"), kind_of(entry) == "directory") for entry in fs.ls(path, detail=True)]
    own = path.strip("/")
    if any(full.strip("/") == own and not is_folder for full, is_folder in entries):
        raise NotADirectoryError(path)
    yield [(full.rpartition("/")[2], is_folder) for full, is_folder in entries if full.strip("/") != own]


def list_folders(uri: str) -> list[str]:
    """Names of the folders in one folder, in order.

    Raises:
        NotFoundError, RefusedError, UnreachableError, StorageError: as `list_files`.
    """
    with translated(uri, "list"):
        fs, path = resolve(uri)
        entries = fs.ls(path, detail=True)
    names = [str(entry["name"]).rstrip("/") for entry in entries if kind_of(entry) == "directory"]
    return sorted(name.rpartition("/")[2] for name in names if name.strip("/") != path.strip("/"))


def stored_file(uri: str) -> StoredFile:
    """Describe one file.

    Raises:
        NotFoundError: it is not there, or is a folder.
        RefusedError, UnreachableError, StorageError: as the store says.
    """
    with translated(uri, "find"):
        fs, path = resolve(uri)
        entry = fs.info(path)
    if entry["type"] != "file":
        raise NotFoundError(f"expected a file at {redacted(uri)}, got a folder")
    name = parent_and_name(uri)[1]
    return StoredFile(absolute(uri), name, int(entry["size"] or 0), etag_of(entry))


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises where the store refuses or does not answer: neither means "no"."""
    try:
        with translated(uri, "find"):
            fs, path = resolve(uri)
            if is_object_store(fs) and "/" not in path.strip("/"):
                fs.ls(path)  # s3fs describes any bucket without asking
            else:
                fs.info(path)
    except NotFoundError:
        return False
    return True


def kind_of(entry: Mapping[str, object]) -> str:
    """What an entry of a listing is: "file", "directory" or "other". A local symbolic link is what it leads to.

    fsspec calls every link in a local folder "other". A link without a target is called a file: an attempt to read it
    then fails with its name, so that it is not ignored silently.
    """
    if not entry.get("islink") or entry["type"] != "other":
        return str(entry["type"])
    try:
        mode = os.stat(str(entry["name"])).st_mode
    except OSError:
        return "file"
    return "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def is_dangling(uri: str) -> bool:
    """Whether a local path is a symbolic link that leads nowhere."""
    place = absolute(uri)
    return os.path.islink(place) and not os.path.exists(place)


def etag_of(entry: Mapping[str, object]) -> str | None:
    """The store's mark that changes with the content: S3's ETag, the Hub's blob id; local files have none."""
    etag = entry.get("ETag") or entry.get("etag") or entry.get("blob_id")
    return str(etag).strip('"') if etag else None
