"""What lies where: files, folders, one page after the other."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.failures import NotFoundError, translated
from pipeline.storage.s3_pages import s3_pages
from pipeline.storage.stores import is_object_store, resolve
from pipeline.storage.uris import absolute, parent_and_name, redacted

T = TypeVar("T")

# Listings are made in many threads and live long: Arrow's own allocator keeps what each thread once had (300 MB in a
# run of 64 groups), the C library's gives it back (pipeline.heap).
_POOL = pa.system_memory_pool()


@dataclass(frozen=True)
class StoredFile:
    """One file in a listing: place, name in its folder, bytes, and the store's etag where it has one."""

    uri: str
    name: str
    size: int
    etag: str | None


class _MadeWhenAsked(Sequence[T]):
    """Rows that are made when they are asked for, equal to any sequence of equal rows."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Listing(_MadeWhenAsked[StoredFile]):
    """Files of one folder, held as columns: about 60 bytes a file, where a StoredFile with its texts takes 450."""

    __slots__ = ("_etags", "_names", "_place", "_sizes")

    def __init__(self, folder: str, names: Sequence[str], sizes: Sequence[int], etags: Sequence[str | None]) -> None:
        """folder: its URI; the others have a value a file."""
        self._place = folder if folder.endswith("/") else folder + "/"
        # bytes, because a local name need not be text
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._names = pa.array(encoded, pa.binary(), memory_pool=_POOL)
        self._sizes = pa.array(sizes, pa.int64(), memory_pool=_POOL)
        self._etags = pa.array(etags, pa.string(), memory_pool=_POOL)
        if not len(self._names) == len(self._sizes) == len(self._etags):
            raise ValueError(f"{len(self._names)} names, {len(self._sizes)} sizes, {len(self._etags)} etags")

    @staticmethod
    def of(files: Sequence[StoredFile]) -> Listing:
        """Of files that lie in one folder."""
        folder = files[0].uri.rstrip("/").removesuffix(files[0].name) if files else ""
        return Listing(folder, [f.name for f in files], [f.size for f in files], [f.etag for f in files])

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return [_text(name) for name in self._names.to_pylist()]

    @property
    def uri_of_folder(self) -> str:
        """The URI of the folder, with a slash at its end."""
        return self._place

    @property
    def uris(self) -> FileUris:
        """The files' URIs, made as they are asked for."""
        return FileUris(self)

    @property
    def total_size(self) -> int:
        """Bytes of all files."""
        return int(pc.sum(self._sizes).as_py() or 0)

    def uri(self, index: int) -> str:
        """The URI of one file."""
        return self._place + _text(self._names[index].as_py())

    def columns(self) -> tuple[list[str], list[int], list[str | None]]:
        """Names, sizes and etags."""
        return self.names, self._sizes.to_pylist(), self._etags.to_pylist()

    def take(self, indices: Sequence[int]) -> Listing:
        """The files at these places, in this order."""
        if isinstance(indices, range) and indices == range(len(self)):
            return self
        at = pa.array(indices, pa.int64())
        taken = object.__new__(Listing)
        taken._place = self._place
        taken._names, taken._sizes, taken._etags = (
            pc.take(column, at, memory_pool=_POOL) for column in (self._names, self._sizes, self._etags)
        )
        return taken

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> StoredFile: ...
    @overload
    def __getitem__(self, index: slice) -> Listing: ...
    def __getitem__(self, index: int | slice) -> StoredFile | Listing:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        index = range(len(self))[index]
        name = _text(self._names[index].as_py())
        return StoredFile(self._place + name, name, self._sizes[index].as_py(), self._etags[index].as_py())

    def __iter__(self) -> Iterator[StoredFile]:
        place = self._place
        for name, size, etag in zip(*self.columns(), strict=True):
            yield StoredFile(place + name, name, size, etag)

    def __repr__(self) -> str:
        return f"Listing({self._place!r}, {len(self)} files)"

    def __getstate__(self) -> tuple[Any, ...]:
        return self._place, self._names, self._sizes, self._etags

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._place, self._names, self._sizes, self._etags = state


class FileUris(_MadeWhenAsked[str]):
    """The URIs of a listing's files; makes each when it is asked for."""

    __slots__ = ("_listing",)

    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileUris: ...
    def __getitem__(self, index: int | slice) -> str | FileUris:
        if isinstance(index, slice):
            return self._listing[index].uris
        return self._listing.uri(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        place = self._listing.uri_of_folder
        for name in self._listing.names:
            yield place + name

    def __getstate__(self) -> Listing:
        return self._listing

    def __setstate__(self, state: Listing) -> None:
        self._listing = state


def list_files(uri: str) -> Listing:
    """List the files (not the folders) of one folder, in the order of their names as plain text.

    Raises:
        NotFoundError: no such bucket or folder, or a file where a folder was expected.
        RefusedError, UnreachableError, StorageError: as the store says.
    """
    root = absolute(uri)
    names: list[str] = []
    sizes: list[int] = []
    etags: list[str | None] = []
    with translated(uri, "list"):
        fs, path = resolve(uri)
        found = False
        if hasattr(fs, "call_s3"):
            for files, folders in s3_pages(fs, path):
                found = found or bool(files or folders)
                names += files.keys
                sizes += files.sizes
                etags += [etag or None for etag in files.etags]
        if not found:  # on S3 too: an empty bucket, a file, or nothing at all
            for entry in fs.ls(path, detail=True):
                full = str(entry["name"])
                if entry["type"] != "file" or full.endswith("/"):
                    continue
                if full.strip("/") == path.strip("/"):
                    raise NotFoundError(f"expected a folder at {redacted(uri)}, got a file")
                names.append(full.rpartition("/")[2])
                sizes.append(int(entry["size"] or 0))
                etags.append(etag_of(entry))
    listing = Listing(root, names, sizes, etags)
    if any(map(operator.gt, names, itertools.islice(names, 1, None))):
        listing = listing.take(sorted(range(len(names)), key=names.__getitem__))
    return listing


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class FolderEntry:
    """One name in a folder."""

    uri: str
    name: str
    is_folder: bool


def iter_folder(uri: str, first_page: int = 1000) -> Iterator[FolderEntry]:
    """The names in one folder, page by page and in no promised order: a caller that has seen enough stops.

    One request to an object store for the first `first_page` names (at most 1000), one for each 1000 after them.

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


def _s3_names(fs: Any, path: str, first_page: int) -> Iterator[list[tuple[str, bool]]]:
    for files, folders in s3_pages(fs, path, first_page):
        yield [(name, True) for name in folders] + [(name, False) for name in files.keys]


def _one_page(fs: Any, path: str) -> Iterator[list[tuple[str, bool]]]:
    entries = [(str(entry["name"]).rstrip("/"), entry["type"] == "directory") for entry in fs.ls(path, detail=True)]
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
    names = [str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory"]
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
    """Whether a file or folder is there; a store that refuses or does not answer raises, it is not "no"."""
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


def etag_of(entry: Any) -> str | None:
    """What a store says changes with the content: S3's ETag, the Hub's blob id; local files have none."""
    etag = entry.get("ETag") or entry.get("etag") or entry.get("blob_id")
    return str(etag).strip('"') if etag else None
