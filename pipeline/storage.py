"""Files on any store, by URI: plain path, file://, s3://, hf://, memory:// ... The only user of fsspec.

Endpoint and credentials come from the standard environment alone (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_PROFILE, HF_TOKEN, instance roles), so that they reach every worker the same way. Buckets on another store than
the rest: CITY_S3_PROFILES="bucket=profile,..." names the profile of the AWS configuration file (endpoint_url, keys or
role) that is theirs. Whatever a store says
becomes a `StorageError` of one line without credentials; its kind tells what an operator can do about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import DriveError, StorageError

# A dead endpoint otherwise hangs a job for many minutes; one that swallows everything is reported in one.
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15  # without a single byte
CLIENT_ATTEMPTS = 2  # inside botocore: throttling, 5xx, connection errors, with exponential back-off
CALL_ATTEMPTS = 2  # around it, in s3fs: answers that break off while their body is read
READ_BLOCK_BYTES = 8 * 2**20  # of a file that is read piecewise (videos); s3fs would fetch 50 MiB at a time
DRIVE_ID_LENGTH = 128

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_DRIVE_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "HF_TOKEN")
_SECRET_IN_URI = re.compile(
    r"(://)[^/@\s]+@|((?:signature|token|credential|password|key)=)[^&\s]+", re.IGNORECASE
)


class NotFoundError(StorageError):
    """The store answers; the bucket, folder or file is not there."""


class RefusedError(StorageError):
    """The store answers and refuses: no credentials, wrong ones, or no right to do this."""


class UnreachableError(StorageError):
    """The store does not answer (in time, or without errors of its own) after retries."""


@dataclass(frozen=True)
class StoredFile:
    """One file in a listing: place, name in its folder, bytes, and the store's etag where it has one."""

    uri: str
    name: str
    size: int
    etag: str | None


def absolute(uri: str) -> str:
    """Make a local path (or file:// URI) an absolute path; other URIs stay as they are.

    Ray workers run in other folders than the driver, so paths are resolved before they travel.
    """
    scheme = _SCHEME.match(uri)
    if scheme and scheme.group(1).lower() in ("file", "local"):
        return os.path.abspath(uri[scheme.end() :])
    return uri if scheme else os.path.abspath(uri)


def is_local(uri: str) -> bool:
    """Whether a URI names the file system of this machine."""
    return _SCHEME.match(absolute(uri)) is None


def join(uri: str, *names: str) -> str:
    """Append relative names to a folder's URI.

    Raises:
        StorageError: a name that is empty, absolute, a URI, or climbs out with "..".
    """
    for name in names:
        parts = name.split("/")
        if _SCHEME.match(name) or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"not a plain name below {redacted(uri)}: {name!r}")
    root = uri if uri.endswith("://") else uri.rstrip("/") + "/"
    return root + "/".join(names) if names else uri


def parent_and_name(uri: str) -> tuple[str, str]:
    """Split the last name off a URI: "s3://b/drives/90/" -> "s3://b/drives", "90"; at the root ""."""
    scheme = _SCHEME.match(uri)
    start = scheme.end() if scheme else 0
    folder, _, name = uri[start:].rstrip("/").rpartition("/")
    if not folder:
        return (uri[:start] + "/" if uri[start : start + 1] == "/" and not scheme else ""), name
    return uri[:start] + folder, name


def check_drive_id(drive_id: str) -> str:
    """Return a drive id that is safe as a folder name on every store.

    Raises:
        DriveError: other than letters, digits, ".", "_", "-"; a leading "."; empty; more than 128 characters.
    """
    if len(drive_id) > DRIVE_ID_LENGTH:
        raise DriveError(
            f"drive id {drive_id[:20]!r}...: expected at most {DRIVE_ID_LENGTH} characters, "
            f"got {len(drive_id)}; give a shorter one (--drive-id)"
        )
    if not _DRIVE_ID.fullmatch(drive_id):
        raise DriveError(
            f"drive id {drive_id!r}: expected letters, digits, '.', '_' and '-', not starting with '.'; "
            "give another one (--drive-id)"
        )
    return drive_id


def open_input(uri: str, *, readahead: bool = True) -> BinaryIO:
    """Open a file for reading in binary, seekable; errors while reading are `StorageError` too.

    readahead: fetch ahead of a reader that goes through the file; without it just what is asked for is fetched.
    """
    with _translated(uri, "open"):
        fs, path = _resolve(uri)
        if isinstance(fs, LocalFileSystem):
            return open(path, "rb")
        options = {} if readahead else {"cache_type": "none"}
        return io.BufferedReader(_Input(fs.open(path, "rb", block_size=READ_BLOCK_BYTES, **options), uri))


def read_bytes(uri: str, limit: int | None = None) -> bytes:
    """Read a whole file, or its first `limit` bytes (a header).

    Raises:
        NotFoundError, RefusedError, UnreachableError, StorageError: as the store says, after retries.
    """
    with _translated(uri, "read"):
        fs, path = _resolve(uri)
        if limit is None:
            return bytes(fs.cat_file(path))
        try:
            return bytes(fs.cat_file(path, start=0, end=limit))
        except OSError as error:
            # A store answers a range of an empty object with an error instead of no bytes.
            if _code_of(error) == "InvalidRange":
                return b""
            raise


def write_bytes_atomically(uri: str, data: bytes) -> None:
    """Write a file that is never seen half: local under another name and renamed, an object by one PUT."""
    with _translated(uri, "write"):
        fs, path = _resolve(uri)
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, data)
            return
        with _renamed_when_whole(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def upload(local_path: str | Path, uri: str) -> None:
    """Copy a local file to a URI, never seen half there (as `write_bytes_atomically`)."""
    with _translated(uri, "write"):
        fs, path = _resolve(uri)
        if not isinstance(fs, LocalFileSystem):
            fs.put_file(str(local_path), path)
            return
        with _renamed_when_whole(path) as temporary:
            shutil.copyfile(local_path, temporary)


def compare_and_swap(uri: str, expected: bytes | None, new: bytes | None) -> bool:
    """Write a small file only where it holds `expected` (None: where it is not there); new None removes it.

    Of several processes that try at once one succeeds: on a disk by a lock on the file, on S3 by conditional requests
    (If-None-Match, If-Match). Stores that know neither are asked, written and asked again, which is no more than
    likely to be right. Returns whether it was done.

    Raises:
        RefusedError, UnreachableError, StorageError: as the store says; then it may or may not have been done.
    """
    assert new != b"" and expected != b"", "an empty file counts as none"
    with _translated(uri, "write"):
        fs, path = _resolve(uri)
        if isinstance(fs, LocalFileSystem):
            return _swap_local(path, expected, new)
        conditions: dict[str, str] = {"IfNoneMatch": "*"}
        if expected is not None:
            try:
                etag = _etag(fs.info(path))
                if bytes(fs.cat_file(path)) != expected:
                    return False
            except FileNotFoundError:
                return False
            conditions = {"IfMatch": f'"{etag}"'} if etag else {}
        if _is_object_store(fs) and hasattr(fs, "call_s3") and conditions:
            bucket, key, _ = fs.split_path(path)
            try:
                if new is None:
                    fs.call_s3("delete_object", Bucket=bucket, Key=key, **conditions)
                else:
                    fs.call_s3("put_object", Bucket=bucket, Key=key, Body=new, **conditions)
                return True
            except OSError as error:
                code = _code_of(error)
                if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                    return False
                if code != "NotImplemented":
                    raise
        return _swap_unconditionally(fs, path, expected, new)


def _swap_local(path: str, expected: bytes | None, new: bytes | None) -> bool:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                if os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                    continue  # removed, and perhaps made anew, before the lock was had
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
                file.truncate(0)
                file.write(new)
                file.flush()
                os.fsync(file.fileno())
            return True


def _swap_unconditionally(fs: Any, path: str, expected: bytes | None, new: bytes | None) -> bool:
    now = bytes(fs.cat_file(path)) if fs.exists(path) else None
    if now != expected:
        return False
    if new is None:
        fs.rm_file(path)
        return True
    fs.pipe_file(path, new)
    return bytes(fs.cat_file(path)) == new


def copy(source: str, target: str) -> None:
    """Copy a file within one store, never seen half there: by the store itself, on a disk as a link where it can."""
    with _translated(target, "write"):
        fs, path = _resolve(source)
        _, target_path = _resolve(target)
        if not isinstance(fs, LocalFileSystem):
            fs.cp_file(path, target_path)
            return
        with _renamed_when_whole(target_path) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a store of files without links
                shutil.copyfile(path, temporary)


def list_files(uri: str) -> list[StoredFile]:
    """List the files (not the folders) of one folder, in the order of their names as plain text.

    Raises:
        NotFoundError: no such bucket or folder, or a file where a folder was expected.
        RefusedError, UnreachableError, StorageError: as the store says.
    """
    root = absolute(uri)
    with _translated(uri, "list"):
        fs, path = _resolve(uri)
        entries = fs.ls(path, detail=True)
    own = path.strip("/")
    files = []
    for entry in entries:
        full = str(entry["name"])
        if entry["type"] != "file" or full.endswith("/"):
            continue
        if full.strip("/") == own:
            raise NotFoundError(f"expected a folder at {redacted(uri)}, got a file")
        name = full.rpartition("/")[2]
        place = root if root.endswith("://") else root.rstrip("/") + "/"
        files.append(StoredFile(place + name, name, int(entry["size"] or 0), _etag(entry)))
    return sorted(files, key=lambda file: file.name)


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
    with _translated(uri, "list"):
        fs, path = _resolve(uri)
    pages = _s3_pages(fs, path, first_page) if hasattr(fs, "call_s3") else _one_page(fs, path)
    found = False
    while True:
        with _translated(uri, "list"):
            page = next(pages, None)
        if page is None:
            break
        for name, is_folder in page:
            found = True
            yield FolderEntry(place + name, name, is_folder)
    if not found and _is_object_store(fs):
        raise NotFoundError(f"no such file or folder: {redacted(uri)}")


def _s3_pages(fs: Any, path: str, first_page: int) -> Iterator[list[tuple[str, bool]]]:
    bucket, _, key = path.strip("/").partition("/")
    prefix = key + "/" if key else ""
    more: dict[str, Any] = {"MaxKeys": first_page}
    while True:
        answer = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **more)
        folders = [(one["Prefix"][len(prefix) : -1], True) for one in answer.get("CommonPrefixes", ())]
        files = [(one["Key"][len(prefix) :], False) for one in answer.get("Contents", ())]
        yield [(name, is_folder) for name, is_folder in folders + files if name]
        if not answer.get("IsTruncated"):
            return
        more = {"MaxKeys": 1000, "ContinuationToken": answer["NextContinuationToken"]}


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
    with _translated(uri, "list"):
        fs, path = _resolve(uri)
        entries = fs.ls(path, detail=True)
    names = [str(entry["name"]).rstrip("/") for entry in entries if entry["type"] == "directory"]
    return sorted(name.rpartition("/")[2] for name in names if name.strip("/") != path.strip("/"))


def stored_file(uri: str) -> StoredFile:
    """Describe one file.

    Raises:
        NotFoundError: it is not there, or is a folder.
        RefusedError, UnreachableError, StorageError: as the store says.
    """
    with _translated(uri, "find"):
        fs, path = _resolve(uri)
        entry = fs.info(path)
    if entry["type"] != "file":
        raise NotFoundError(f"expected a file at {redacted(uri)}, got a folder")
    name = parent_and_name(uri)[1]
    return StoredFile(absolute(uri), name, int(entry["size"] or 0), _etag(entry))


def exists(uri: str) -> bool:
    """Whether a file or folder is there; a store that refuses or does not answer raises, it is not "no"."""
    try:
        with _translated(uri, "find"):
            fs, path = _resolve(uri)
            if _is_object_store(fs) and "/" not in path.strip("/"):
                fs.ls(path)  # s3fs describes any bucket without asking
            else:
                fs.info(path)
    except NotFoundError:
        return False
    return True


def make_dir(uri: str) -> None:
    """Make a folder and its parents where the store has folders; buckets are never made."""
    with _translated(uri, "write"):
        fs, path = _resolve(uri)
        if not _is_object_store(fs):
            fs.makedirs(path, exist_ok=True)


def remove_file(uri: str) -> None:
    """Remove one file by one request; nothing there is fine."""
    with _translated(uri, "remove"), contextlib.suppress(FileNotFoundError):
        fs, path = _resolve(uri)
        fs.rm_file(path)


def remove_tree(uri: str) -> None:
    """Remove a folder and all below it (or one file); nothing there is fine.

    Raises:
        StorageError: the URI is the root of a store or a whole bucket, or the store refuses.
    """
    with _translated(uri, "remove"):
        fs, path = _resolve(uri)
        depth = len([part for part in path.split("/") if part])
        if depth < (2 if _is_object_store(fs) else 1):
            raise StorageError(f"will not remove a whole store or bucket: {redacted(uri)}")
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)


def fetch_to_cache(uri: str, cache_dir: str | Path | None = None) -> Path:
    """Bring a file (weights) onto this machine once, whatever the number of processes that ask at a time.

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
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "city-reconstruction"
    folder = Path(cache_dir) if cache_dir is not None else root
    key = hashlib.sha256(f"{found.uri}\n{found.size}\n{found.etag}".encode()).hexdigest()[:16]
    target = folder / f"{key}-{found.name}"
    with _translated(uri, f"fetch into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{key}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when a process dies
            if not target.exists():
                # One fixed name under the lock: what a killed process left is overwritten, not collected.
                partial = folder / f"{key}.part"
                fs, path = _resolve(uri)
                fs.get_file(path, str(partial))
                if partial.stat().st_size != found.size:
                    got = partial.stat().st_size
                    message = f"{redacted(uri)}: expected {found.size} bytes, got {got}; try again"
                    raise UnreachableError(message)
                os.replace(partial, target)
    return target


def redacted(text: str) -> str:
    """Blank out credentials in a message: user:password@, signatures in queries, the environment's values."""
    text = _SECRET_IN_URI.sub(lambda m: m.group(1) + "***@" if m.group(1) else m.group(2) + "***", text)
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= 4:
            text = text.replace(value, "***")
    return text


class _Input(io.RawIOBase):
    """A remote file for reading whose errors are `StorageError`."""

    def __init__(self, file: Any, uri: str) -> None:
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _translated(self._uri, "read"):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _translated(self._uri, "read"):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _resolve(uri: str) -> tuple[Any, str]:
    """URI -> file system and path on it."""
    uri = absolute(uri)
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return LocalFileSystem(), uri  # not through the URL parser: file names may hold "::" or "#"
    options: dict[str, Any] = {}
    if scheme.group(1).lower() in ("s3", "s3a"):
        options = {
            "config_kwargs": {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS},
            },
            # Listings change under us (other jobs publish into the same prefix).
            "use_listings_cache": False,
        }
        profile = _profile_of(uri[scheme.end() :].partition("/")[0])
        if profile is not None:
            options |= {"profile": profile, "endpoint_url": _endpoint_of(profile, os.environ.get("AWS_CONFIG_FILE"))}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    if options:
        fs.retries = CALL_ATTEMPTS
        if fs.session is None:
            fs.session = _s3_session(options.get("profile"))
    return fs, path


def _profile_of(bucket: str) -> str | None:
    """The profile that CITY_S3_PROFILES names for a bucket. Raises StorageError for a list that cannot be read."""
    said = os.environ.get("CITY_S3_PROFILES", "")
    for item in filter(None, (part.strip() for part in said.split(","))):
        name, found, profile = item.partition("=")
        if not (found and name and profile):
            raise StorageError(f"CITY_S3_PROFILES: expected bucket=profile,bucket=profile, got {item!r}")
        if name == bucket:
            return profile
    return None


@functools.lru_cache(maxsize=16)
def _endpoint_of(profile: str, config_file: str | None) -> str | None:
    """The endpoint of a profile. Passed on by hand, for AWS_ENDPOINT_URL would win over it."""
    config = _s3_session(profile).full_config["profiles"]
    if profile not in config:
        where = config_file or "~/.aws/config"
        raise StorageError(f"CITY_S3_PROFILES: no profile {profile!r} in {where}; add it, or correct the name")
    endpoint = config[profile].get("endpoint_url")
    return None if endpoint is None else str(endpoint)


def _s3_session(profile: str | None) -> Any:
    """A session as s3fs would make one, but quick at reading times.

    botocore tries several formats on the time of every file of a listing: 0.10 s of 0.12 s for a thousand files.
    """
    from aiobotocore.session import AioSession
    from botocore.utils import parse_timestamp

    def parse(value: Any) -> datetime:
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00"))
        except (ValueError, AttributeError):
            return parse_timestamp(value)

    session = AioSession(profile=profile)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse)
    return session


def _etag(entry: Any) -> str | None:
    """What a store says changes with the content: S3's ETag, the Hub's blob id; local files have none."""
    etag = entry.get("ETag") or entry.get("etag") or entry.get("blob_id")
    return str(etag).strip('"') if etag else None


def _is_object_store(fs: Any) -> bool:
    """Whether folders are only prefixes there and the first part of a path is a bucket."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    return not isinstance(fs, LocalFileSystem) and "memory" not in protocols


@contextlib.contextmanager
def _renamed_when_whole(path: str) -> Iterator[str]:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:80]}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _translated(uri: str, verb: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise _storage_error(error, uri, verb) from None


def _code_of(error: BaseException | None) -> str:
    """The store's own error code (NoSuchBucket, AccessDenied ...) somewhere behind an exception, else ''."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _storage_error(error: Exception, uri: str, verb: str) -> StorageError:
    place, code = redacted(uri), _code_of(error)
    said = redacted(" ".join(str(error).split()))[:300]
    kind = type(error).__name__
    if code == "NoSuchBucket":
        bucket = "/".join(place.split("/")[:3])
        return NotFoundError(f"no such bucket: {bucket} (to {verb} {place}); check the name and the endpoint")
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"no such file or folder: {place}")
    if isinstance(error, NotADirectoryError):
        return NotFoundError(f"expected a folder at {place}, got a file")
    if isinstance(error, PermissionError) or kind in ("NoCredentialsError", "PartialCredentialsError"):
        remedy = "check its permissions" if is_local(uri) else "check the credentials in the environment"
        return RefusedError(f"not allowed to {verb} {place} ({code or said}); {remedy}")
    if isinstance(error, (TimeoutError, ConnectionError, asyncio.TimeoutError)) or kind in _UNREACHABLE:
        return UnreachableError(f"the store of {place} does not answer ({kind}: {said}); try again later")
    if code in _UNREACHABLE_CODES or code.startswith("5"):
        return UnreachableError(f"the store of {place} answers {code}; try again later")
    if isinstance(error, ImportError) or "Protocol not known" in said:
        return StorageError(f"cannot {verb} {place}: {said}")
    if isinstance(error, OSError) and error.strerror and not code:
        return StorageError(f"cannot {verb} {place}: {error.strerror}")
    return StorageError(f"cannot {verb} {place} ({code or kind}): {said}")


# Names, because botocore and aiohttp need not be installed where only local files are used.
_UNREACHABLE = frozenset(
    {
        *("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"),
        *("ProxyConnectionError", "HTTPClientError", "ConnectionError", "ResponseParserError"),
        *("ClientConnectorError", "ClientConnectorDNSError", "ClientOSError", "ClientPayloadError"),
        *("ServerDisconnectedError", "IncompleteReadError", "FSTimeoutError"),
        *("ConnectError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"),
    }
)
_UNREACHABLE_CODES = frozenset(
    {
        *("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout"),
        *("ThrottlingException", "Throttling", "BandwidthLimitExceeded"),
    }
)
