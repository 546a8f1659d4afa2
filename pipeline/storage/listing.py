"""The files of one folder as columns. They are made from a store's pages, without a Python object for each file."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.s3_pages import PageFiles
from pipeline.storage.text_columns import letters_of

T = TypeVar("T")
_State = tuple[str, pa.BinaryArray, pa.Int64Array, pa.StringArray]

# Listings are made in many threads and live long. Arrow's own allocator keeps the memory that each thread once used
# (300 MB in a run of 64 groups); the C library's gives it back (pipeline.common.heap_trim).
_POOL = pa.system_memory_pool()
# Bytes that JSON escapes in a text.
_ESCAPED = np.array([byte < 32 or byte > 126 or byte in b'"\\' for byte in range(256)])


@dataclass(frozen=True)
class StoredFile:
    """One file in a listing: place, name in its folder, bytes, and the store's etag where it has one."""

    uri: str
    name: str
    size: int
    etag: str | None


class _MadeWhenAsked(Sequence[T]):
    """A sequence that makes an item when the item is read; it is equal to any sequence of equal items."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


class Listing(_MadeWhenAsked[StoredFile]):
    """Files of one folder as columns: about 60 bytes a file; a StoredFile with its texts takes 450."""

    __slots__ = ("_etags", "_names", "_place", "_sizes")

    def __init__(self, folder: str, names: Sequence[str], sizes: Sequence[int], etags: Sequence[str | None]) -> None:
        """folder: its URI; the other arguments have one value for each file."""
        # bytes, because a local name need not be text
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self._take_columns(
            folder,
            pa.array(encoded, pa.binary(), memory_pool=_POOL),
            pa.array(sizes, pa.int64(), memory_pool=_POOL),
            pa.array(etags, pa.string(), memory_pool=_POOL),
        )

    def _take_columns(self, folder: str, names: pa.BinaryArray, sizes: pa.Int64Array, etags: pa.StringArray) -> None:
        self._place = folder if folder.endswith("/") else folder + "/"
        self._names, self._sizes, self._etags = names, sizes, etags
        if not len(names) == len(sizes) == len(etags):
            raise ValueError(f"{len(names)} names, {len(sizes)} sizes, {len(etags)} etags")

    @staticmethod
    def of_pages(folder: str, pages: Sequence[PageFiles]) -> Listing:
        """A listing made from the pages of an S3 listing."""
        made = object.__new__(Listing)
        columns = (
            pa.concat_arrays([getattr(page, name) for page in pages], memory_pool=_POOL)
            for name in ("keys", "sizes", "etags")
        )
        names, sizes, etags = columns
        etags = pc.if_else(pc.equal(pc.binary_length(etags), 0), None, etags.cast(pa.string()), memory_pool=_POOL)
        made._take_columns(folder, names, sizes, etags)
        return made

    @staticmethod
    def of(files: Sequence[StoredFile]) -> Listing:
        """A listing of files of one folder."""
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
        """The files' URIs; each is made when it is read."""
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

    @property
    def pattern(self) -> str | None:
        """The common pattern of all names with 0 for every digit, such as 000000.png (ASCII, one length). The order of
        such names is the order of their numbers. None where the names have no common pattern, or there are no names."""
        lengths = pc.binary_length(self._names)
        if not len(self) or pc.min(lengths) != pc.max(lengths):
            return None
        letters = letters_of(self._names).reshape(len(self), -1)
        is_digit = (letters >= ord("0")) & (letters <= ord("9"))
        plain = np.where(is_digit, ord("0"), letters)
        if (plain >= 128).any() or (plain != plain[0]).any():
            return None
        return plain[0].astype(np.uint8).tobytes().decode()

    def in_order_of_text(self) -> Listing:
        """The files, sorted by the bytes of their names."""
        if self._is_in_order_of_text():
            return self
        order: list[int] = pc.sort_indices(self._names).to_pylist()
        return self.take(order)

    def _is_in_order_of_text(self) -> bool:
        return len(self) < 2 or bool(pc.all(pc.less(self._names[:-1], self._names[1:])).as_py())

    def json_rows(self) -> bytes | None:
        """'["name",size,"etag"],["name",size,"etag"]' in the order of names, in the format of the module json; a file
        without an etag has "". None where a text needs escapes."""
        etags = pc.fill_null(self._etags, "")
        for texts in (self._names, etags):
            if _ESCAPED[letters_of(texts)].any():
                return None
        if not self._is_in_order_of_text():
            return None
        sizes = self._sizes.cast(pa.string())
        rows = pc.binary_join_element_wise('["', self._names.cast(pa.string()), '",', sizes, ',"', etags, '"],', "")
        return letters_of(rows)[:-1].tobytes()

    def take(self, indices: Sequence[int]) -> Listing:
        """The files at these places, in this order."""
        if isinstance(indices, range) and indices == range(len(self)):
            return self
        at = pa.array(indices, pa.int64())
        taken = object.__new__(Listing)
        columns = (pc.take(column, at, memory_pool=_POOL) for column in (self._names, self._sizes, self._etags))
        taken._take_columns(self._place, *columns)
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

    def __getstate__(self) -> _State:
        return self._place, self._names, self._sizes, self._etags

    def __setstate__(self, state: _State) -> None:
        self._place, self._names, self._sizes, self._etags = state


class FileUris(_MadeWhenAsked[str]):
    """The URIs of a listing's files; each is made when it is read."""

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


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
