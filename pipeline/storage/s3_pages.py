"""Parses the pages of an S3 listing fast: most of a listing's time is spent on the XML of its files.

botocore parses the text of a page twice and goes through every file with its model of the service: 30 us or more a
file. Here names, sizes and etags are found in the bytes of the page as columns and stay columns: about 1 us a file,
without a Python string for each. A page that does not look as expected is left to botocore.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import unquote_plus

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from pipeline.storage.text_columns import has_letter

_FIRST, _LAST = b"<Contents>", b"</Contents>"
_QUOTES = (b"&quot;", b"&#34;", b'"')
_Places = npt.NDArray[np.int64]
LARGEST_PAGE = 1000
_LONGEST_KEY = 4096  # bytes; S3 has 1024

# botocore calls handlers of a wildcard before those of the exact name. So this handler runs before botocore's search
# for errors in answers with status 200, which parses the whole text.
BEFORE_ALL_PARSING = "before-parse.*.ListObjectsV2"


class PageFiles:
    """The files of one page as columns. Iteration gives the dicts that botocore would have made, the same objects each
    time, because botocore and s3fs write into them.

    Attributes:
        keys, etags: UTF-8 as binary.
        sizes: int64.
    """

    def __init__(self, keys: pa.BinaryArray, sizes: pa.Int64Array, etags: pa.BinaryArray) -> None:
        self.keys, self.sizes, self.etags = keys, sizes, etags
        self._rows: list[dict[str, object]] | None = None

    @staticmethod
    def of(keys: Sequence[str], sizes: Sequence[int], etags: Sequence[str]) -> PageFiles:
        """A page from texts and numbers."""
        encoded = [pa.array([text.encode() for text in texts], pa.binary()) for texts in (keys, etags)]
        return PageFiles(encoded[0], pa.array(sizes, pa.int64()), encoded[1])

    def __iter__(self) -> Iterator[dict[str, object]]:
        if self._rows is None:
            columns = (column.to_pylist() for column in (self.keys, self.sizes, self.etags))
            self._rows = [
                {"Key": key.decode(), "Size": size, "ETag": etag.decode()}
                for key, size, etag in zip(*columns, strict=True)
            ]
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self.keys)


class _Answer(TypedDict):
    """The part of botocore's answer that its handler here uses."""

    body: bytes
    status_code: int


def take_files_out(response_dict: _Answer, customized_response_dict: dict[str, object], **_: object) -> None:
    """botocore's event BEFORE_ALL_PARSING: cuts the files out of the body and puts them into the answer as PageFiles,
    etags without their quotes."""
    body = response_dict["body"]
    begin, end = body.find(_FIRST), body.rfind(_LAST)
    if response_dict["status_code"] >= 300 or begin < 0 or end < begin:
        return
    end += len(_LAST)
    files = _files_in(body[begin:end])
    if files is None:
        return
    response_dict["body"] = body[:begin] + body[end:]
    customized_response_dict["Contents"] = files


def _files_in(text: bytes) -> PageFiles | None:
    """The files of a page's <Contents>...</Contents><Contents>...; None where the text contains anything else."""
    tags = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("<"))
    every_four = np.ndarray(len(text) - 3, "<u4", text, strides=(1,))  # the four bytes at every place, as one number
    openings = every_four[tags + 1]
    keys, sizes, etags = (_texts_of(name, text, tags, openings) for name in (b"Key>", b"Size>", b"ETag>"))
    files, folders = (np.count_nonzero(openings == _number(word)) for word in (b"Contents", b"CommonPrefixes"))
    if folders or not len(keys) == len(sizes) == len(etags) == files:
        return None
    try:
        numbers = sizes.cast(pa.string()).cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    for quote in _QUOTES:
        if has_letter(etags, quote[:1]):
            etags = pc.replace_substring(etags, quote, b"")
    if has_letter(etags, b"&"):
        etags = _each(etags, lambda etag: html.unescape(etag).replace('"', ""))
    if has_letter(keys, b"&"):
        keys = _each(keys, html.unescape)
    return PageFiles(keys, numbers, etags)


def _texts_of(opening: bytes, text: bytes, tags: _Places, openings: npt.NDArray[np.uint32]) -> pa.BinaryArray:
    """The text behind each such opening tag, up to the next tag. tags: the place of each "<"; openings: `_number` of
    the text behind each."""
    found = np.flatnonzero(openings == _number(opening))
    begin = tags[found] + 1 + len(opening)
    if opening[4:] and np.any(np.frombuffer(text, np.uint8)[begin - 1] != opening[4]):
        return pa.array([], pa.binary())
    if np.any(openings[found + 1] != _number(b"/" + opening)):  # a comment, CDATA
        return pa.array([], pa.binary())
    ends = np.zeros(2 * len(begin) + 1, np.int32)  # ends of the texts between and of the texts wanted, alternating
    ends[1::2], ends[2::2] = begin, tags[found + 1]
    pieces = pa.Array.from_buffers(pa.binary(), 2 * len(begin), [None, pa.py_buffer(ends), pa.py_buffer(text)])
    return pieces.take(pa.array(np.arange(1, 2 * len(begin), 2)))


def _number(opening: bytes) -> int:
    return int.from_bytes(opening[:4], "little")


def _each(column: pa.BinaryArray, change: Callable[[str], str]) -> pa.BinaryArray:
    return pa.array([change(text.decode()).encode() for text in column.to_pylist()], pa.binary())


def s3_pages(
    fs: AbstractFileSystem, path: str, first_page: int = LARGEST_PAGE
) -> Iterator[tuple[PageFiles, list[str]]]:
    """The files and the names of the folders in one folder, page by page. path: bucket/key. Keys of files are reduced
    to names."""
    bucket, _, key = path.strip("/").partition("/")
    prefix = key + "/" if key else ""
    # without an explicit EncodingType, botocore asks for one and decodes every key itself
    asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "EncodingType": "url"}
    more: dict[str, object] = {"MaxKeys": first_page}
    while True:
        answer = fs.call_s3("list_objects_v2", **asked, **more)
        decoded = unquote_plus if answer.get("EncodingType") == "url" else str  # some stores ignore the request
        folders = [decoded(one["Prefix"])[len(prefix) : -1] for one in answer.get("CommonPrefixes", ())]
        yield _named(answer.get("Contents", ()), prefix, decoded), [name for name in folders if name]
        if not answer.get("IsTruncated"):
            return
        more = {"MaxKeys": LARGEST_PAGE, "ContinuationToken": answer["NextContinuationToken"]}


_BotoFile = Mapping[str, Any]  # botocore has no types: Key is a text, Size a number


def _named(files: PageFiles | Sequence[_BotoFile], prefix: str, decoded: Callable[[str], str]) -> PageFiles:
    """The files with the names behind the prefix; without the folder itself, which some tools write as a file."""
    if not isinstance(files, PageFiles):  # a page that was left to botocore
        rows = [(file["Key"], file["Size"], file.get("ETag", "").strip('"')) for file in files]
        files = PageFiles.of(*([row[column] for row in rows] for column in range(3)))
    keys = _each(files.keys, decoded) if has_letter(files.keys, b"%+") else files.keys
    names = pc.binary_slice(keys, len(prefix.encode()), _LONGEST_KEY)
    kept = pc.greater(pc.binary_length(names), 0)
    if pc.all(kept).as_py():
        return PageFiles(names, files.sizes, files.etags)
    return PageFiles(names.filter(kept), files.sizes.filter(kept), files.etags.filter(kept))
