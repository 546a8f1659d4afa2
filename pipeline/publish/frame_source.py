"""Decides from where a result's frames may be read: from the input that it was made of, or from a folder of the user.

Results, and the URIs in them, may come from anybody. Therefore a frame is read only if it lies below the recorded
input, is one of the recorded files, and contains an image.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from functools import cached_property

from pipeline import storage
from pipeline.errors import DecodeError, DriveError
from pipeline.publish.manifest import Manifest
from pipeline.storage.uris import SCHEME

FRAME_MARK = "#frame="
_SCHEMES = ("", "file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
"""Stores from which drives are read. Others (such as http) are read only where --images-from names them."""

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"GIF8", b"P5", b"P6")
"""JPEG, PNG, BMP, TIFF (both byte orders), WebP, GIF, PGM, PPM."""


@dataclass(frozen=True)
class FrameSource:
    """Resolves the URIs of one result's frames. images_from: the folder (or video) that contains the images now, if it
    is not the recorded input."""

    manifest: Manifest
    images_from: str | None = None

    def locate(self, uri: str) -> str:
        """The URI from which a frame is read; for a frame of a video, the video's URI without the frame's number.

        Raises DriveError for a frame that is not in the input.
        """
        film, mark, _ = uri.rpartition(FRAME_MARK)
        uri = film if mark else uri
        below = _below(uri, self._root)
        if self.images_from is not None:
            return self._moved(uri, below)
        drive = f"drive {self.manifest.drive_id}"
        scheme = _scheme(self._root)
        if scheme not in _SCHEMES:
            raise DriveError(f"{drive}: its frames are on {scheme}://, which is not followed; {_REMEDY}")
        name = storage.parent_and_name(uri)[1]
        if below is None:
            raise DriveError(f"{drive}: frame {_shown(uri)} does not lie in its input {_shown(self._root)}; {_REMEDY}")
        if name not in self._names and below not in self._names:  # the names of files in subfolders include these
            raise DriveError(f"{drive}: frame {_shown(uri)} is not among the files of its input; {_REMEDY}")
        return uri

    def read_image(self, uri: str) -> bytes:
        """The bytes of a frame's image file. Raises DecodeError where it is no image, DriveError where it is not in the
        input; StorageError."""
        place = self.locate(uri)
        data = storage.read_bytes(place)
        if not data.startswith(_IMAGE_STARTS):
            raise DecodeError(f"drive {self.manifest.drive_id}: frame {_shown(place)} is no image")
        return data

    @cached_property
    def _root(self) -> str:
        return str(self.manifest.input.get("uri") or "")

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(str(file["name"]) for file in self.manifest.input_files)

    def _moved(self, uri: str, below: str | None) -> str:
        assert self.images_from is not None
        place = storage.absolute(self.images_from)
        if not below:  # the input itself (a video), or a path outside of it: only its name counts
            name = storage.parent_and_name(uri)[1]
            if below == "" and storage.parent_and_name(place)[1] == name:
                return place
            below = name
        return storage.join(place, *below.split("/"))


_REMEDY = "--images-from URI names the folder that holds the images"


def _below(uri: str, root: str) -> str | None:
    """The path of a URI below another, "" where they are the same, None where it does not lie there."""
    if not root or _scheme(uri) != _scheme(root):
        return None
    path, above = _path(uri), (_path(root) or "").rstrip("/")
    if path is None or not above:
        return None
    if path == above:
        return ""
    return path[len(above) + 1 :] if path.startswith(above + "/") else None


def _scheme(uri: str) -> str:
    found = SCHEME.match(uri)
    scheme = found.group(1).lower() if found else ""
    return "" if scheme in ("file", "local") else scheme


def _path(uri: str) -> str | None:
    """The path of a URI without "." and doubled slashes; None where it contains "..". Links are followed: data sets use
    many links, and those inside an input are the user's own."""
    found = SCHEME.match(uri)
    path = uri[found.end() :] if found else uri
    if "\0" in path or ".." in path.split("/"):
        return None
    return posixpath.normpath(path) if path else ""


def _shown(uri: str) -> str:
    return storage.redacted(uri)
