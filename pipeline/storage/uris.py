"""Joins, splits and resolves URIs as text; checks drive ids; removes credentials from texts."""

from __future__ import annotations

import os
import posixpath
import re

from pipeline.common.secrets import learn, without_secrets
from pipeline.errors import DriveError, StorageError

DRIVE_ID_LENGTH = 128
SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_DRIVE_ID = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]*")


def redacted(text: str) -> str:
    """A text as it may leave the process: without credentials (`pipeline.common.secrets`)."""
    return without_secrets(text)


def absolute(uri: str) -> str:
    """The normal form of a path or URI: an absolute local path, or a URI whose scheme is in lower case.

    A leading "~" is the home folder: shells do not replace it behind "=". Ray workers run in other folders
    than the driver, so paths are resolved before they travel.

    Raises:
        StorageError: an empty text, which would mean the current folder, or a NUL byte.
    """
    if not uri.strip():
        raise StorageError("expected a path or URI, got an empty text; is a variable unset?")
    if "\0" in uri:
        raise StorageError(f"expected a path or URI, got one with a NUL byte: {uri[:80]!r}")
    scheme = SCHEME.match(uri)
    if scheme is None:
        return os.path.abspath(os.path.expanduser(uri))
    learn(uri)
    kind, place = scheme.group(1).lower(), uri[scheme.end() :]
    if kind in ("file", "local"):
        return os.path.abspath(os.path.expanduser(place.removeprefix("localhost")))
    return f"{kind}://{place}"


def beside(folder: str, written: str) -> str:
    """The path or URI that is written in a file in `folder`: absolute, or relative to that folder (../d is allowed).

    Raises:
        StorageError: an empty text, or a path that leads out of its bucket.
    """
    if not written.strip() or SCHEME.match(written) or written.startswith(("/", "~")):
        return absolute(written)
    scheme = SCHEME.match(folder)
    if scheme is None:
        return absolute(os.path.join(folder, written))
    path = posixpath.normpath(posixpath.join(folder[scheme.end() :], written))
    bucket = folder[scheme.end() :].partition("/")[0]
    if path.partition("/")[0] != bucket:
        raise StorageError(f"{written!r} leads out of {scheme.group()}{bucket}")
    return scheme.group() + path


def is_local(uri: str) -> bool:
    """Whether a URI names the file system of this machine."""
    return SCHEME.match(absolute(uri)) is None


def join(uri: str, *names: str) -> str:
    """Append relative names to a folder's URI.

    Raises:
        StorageError: a name that is empty, absolute, a URI, or contains "..".
    """
    for name in names:
        parts = name.split("/")
        if SCHEME.match(name) or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"not a plain name below {redacted(uri)}: {name!r}")
    root = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return root + "/".join(names) if names else uri


def parent_and_name(uri: str) -> tuple[str, str]:
    """Split the last name off a URI: "s3://b/drives/90/" -> "s3://b/drives", "90"; at the root ""."""
    scheme = SCHEME.match(uri)
    start = scheme.end() if scheme else 0
    folder, _, name = uri[start:].rstrip("/").rpartition("/")
    if not folder:
        return (uri[:start] + "/" if uri[start : start + 1] == "/" and not scheme else ""), name
    return uri[:start] + folder, name


def check_drive_id(drive_id: str) -> str:
    """Return a drive id that is safe as a folder name on every store.

    Raises:
        DriveError: other than letters, digits, ".", "_", "-"; a leading "." or "_" (the program's own folders begin
            so); empty; more than 128 characters.
    """
    if len(drive_id) > DRIVE_ID_LENGTH:
        raise DriveError(
            f"drive id {drive_id[:20]!r}...: expected at most {DRIVE_ID_LENGTH} characters, "
            f"got {len(drive_id)}; give a shorter one (--drive-id)"
        )
    if not _DRIVE_ID.fullmatch(drive_id):
        raise DriveError(
            f"drive id {drive_id!r}: expected letters, digits, '.', '_' and '-', not starting with '.' or '_'; "
            "give another one (--drive-id)"
        )
    return drive_id
