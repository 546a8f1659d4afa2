"""The pages of an S3 listing, cheaply: what a client spends on a listing goes into the XML of its files.

botocore parses the text of a page twice and walks every file of it by its model of the service, 30 us a file and more;
taking key, size and etag out of the text itself, as columns, costs a twentieth of that. Whatever does not look as
expected is left to botocore.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

_KEY, _SIZE, _ETAG = (re.compile(rf"<{name}>([^<]*)</{name}>") for name in ("Key", "Size", "ETag"))
_FIRST, _LAST = b"<Contents>", b"</Contents>"
LARGEST_PAGE = 1000

# botocore puts handlers of a wildcard before those of the name. So this comes before its search for errors in answers
# with status 200, which parses all of the text.
BEFORE_ALL_PARSING = "before-parse.*.ListObjectsV2"


@dataclass(frozen=True)
class PageFiles:
    """The files of one page; iterating gives the dicts that botocore would have made of them."""

    keys: Sequence[str]
    sizes: Sequence[int]
    etags: Sequence[str]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for key, size, etag in zip(self.keys, self.sizes, self.etags, strict=True):
            yield {"Key": key, "Size": size, "ETag": etag}

    def __len__(self) -> int:
        return len(self.keys)


def take_files_out(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
) -> None:
    """botocore's event BEFORE_ALL_PARSING: cuts the files out of the body and puts them into the answer as PageFiles,
    etags without their quotes."""
    body = response_dict["body"]
    begin, end = body.find(_FIRST), body.rfind(_LAST)
    if response_dict["status_code"] >= 300 or begin < 0 or end < begin:
        return
    end += len(_LAST)
    text = body[begin:end].decode("utf-8")
    keys, sizes, etags = _KEY.findall(text), _SIZE.findall(text), _ETAG.findall(text)
    if "<CommonPrefixes>" in text or not len(keys) == len(sizes) == len(etags) == text.count("<Contents>"):
        return
    if "&" in "".join(keys):
        keys = [html.unescape(key) for key in keys]
    etags = "\n".join(etags).replace("&quot;", "").replace("&#34;", "").replace('"', "").split("\n")
    response_dict["body"] = body[:begin] + body[end:]
    customized_response_dict["Contents"] = PageFiles(keys, list(map(int, sizes)), etags)


def s3_pages(fs: Any, path: str, first_page: int = LARGEST_PAGE) -> Iterator[tuple[PageFiles, list[str]]]:
    """Files and names of folders of one folder, page by page. path: bucket/key. The files' keys are names here."""
    bucket, _, key = path.strip("/").partition("/")
    prefix = key + "/" if key else ""
    # asked for by name, or botocore asks for it and decodes every key itself, needed or not
    asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/", "EncodingType": "url"}
    more: dict[str, Any] = {"MaxKeys": first_page}
    while True:
        answer = fs.call_s3("list_objects_v2", **asked, **more)
        decoded = unquote_plus if answer.get("EncodingType") == "url" else str  # not every store does as asked
        folders = [decoded(one["Prefix"])[len(prefix) : -1] for one in answer.get("CommonPrefixes", ())]
        yield _named(answer.get("Contents", ()), len(prefix), decoded), [name for name in folders if name]
        if not answer.get("IsTruncated"):
            return
        more = {"MaxKeys": LARGEST_PAGE, "ContinuationToken": answer["NextContinuationToken"]}


def _named(files: Any, prefix: int, decoded: Any) -> PageFiles:
    if not isinstance(files, PageFiles):  # a page that was left to botocore
        files = [(file["Key"], file["Size"], file["ETag"].strip('"')) for file in files]
        files = PageFiles(*([row[column] for row in files] for column in range(3)))
    names = [(decoded(key) if "%" in key or "+" in key else key)[prefix:] for key in files.keys]
    if all(names):
        return PageFiles(names, files.sizes, files.etags)
    kept = [index for index, name in enumerate(names) if name]  # the folder itself, as some tools write it
    columns = (names, files.sizes, files.etags)
    return PageFiles(*([column[index] for index in kept] for column in columns))
