"""Turns the errors of stores into a `StorageError` of one line without credentials."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator

from pipeline.common.waits import long_call
from pipeline.errors import StorageError
from pipeline.storage.uris import is_local, redacted


class NotFoundError(StorageError):
    """The store answers; the bucket, folder or file is not there."""

    retryable = False


class RefusedError(StorageError):
    """The store answers and refuses: no credentials, wrong ones, or no right to do this."""


class UnreadableFileError(RefusedError):
    """A local file exists and cannot be read: permissions, a bad sector, links in a circle. Others beside it may be
    readable."""

    retryable = False


class UnreachableError(StorageError):
    """The store does not answer in time, or only with errors of its own (5xx), also after retries."""


_GIVEN_UP_S = 90.0  # about the time after which the clients of stores give up a call (pipeline.storage.stores)


@contextlib.contextmanager
def translated(uri: str, verb: str) -> Iterator[None]:
    try:
        if is_local(uri):
            yield
        else:
            with long_call(f"the store, to {verb} {redacted(uri)}", _GIVEN_UP_S):
                yield
    except StorageError:
        raise
    except Exception as error:
        raise _storage_error(error, uri, verb) from None


def code_of(error: BaseException | None) -> str:
    """The store's own error code (NoSuchBucket, AccessDenied ...) among an exception and its causes, else ''."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _storage_error(error: Exception, uri: str, verb: str) -> StorageError:
    place, code = redacted(uri), code_of(error)
    said = redacted(" ".join(str(error).split()))[:300]
    kind = type(error).__name__
    if code == "NoSuchBucket":
        bucket = "/".join(place.split("/")[:3])
        return NotFoundError(f"no such bucket: {bucket} (to {verb} {place}); check the name and the endpoint")
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"no such file or folder: {place}")
    if isinstance(error, NotADirectoryError):
        return NotFoundError(f"expected a folder at {place}, got a file")
    if is_local(uri) and verb in ("read", "open") and isinstance(error, OSError) and error.errno in _OF_ONE_FILE:
        remedy = "; check its permissions" if isinstance(error, PermissionError) else ""
        return UnreadableFileError(f"cannot read {place}: {error.strerror}{remedy}")
    if isinstance(error, PermissionError) or kind in ("NoCredentialsError", "PartialCredentialsError"):
        remedy = "check its permissions" if is_local(uri) else "check the credentials in the environment"
        return RefusedError(f"not allowed to {verb} {place} ({code or said}); {remedy}")
    if isinstance(error, (TimeoutError, ConnectionError, asyncio.TimeoutError)) or kind in _UNREACHABLE:
        return UnreachableError(f"the store of {place} does not answer ({kind}: {said}); try again later")
    if code in _UNREACHABLE_CODES or code.startswith("5"):
        return UnreachableError(f"the store of {place} answers {code}; try again later")
    if isinstance(error, ImportError) or "Protocol not known" in said:
        return StorageError(f"cannot {verb} {place}: {said}", retryable=False)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = f"its disk is full ({error.strerror}); free space there and run again"
        return StorageError(f"cannot {verb} {place}: {said}")
    if isinstance(error, OSError) and error.strerror and not code:
        return StorageError(f"cannot {verb} {place}: {error.strerror}")
    return StorageError(f"cannot {verb} {place} ({code or kind}): {said}")


_OF_ONE_FILE = frozenset(
    {errno.ELOOP, errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG}
)
# Names, because the classes would need an import of botocore and aiohttp also where all files are local.
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
