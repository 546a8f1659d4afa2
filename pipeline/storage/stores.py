"""A URI -> the file system behind it: endpoints, credentials and time limits from the environment."""

from __future__ import annotations

import functools
import os
from datetime import datetime
from typing import TYPE_CHECKING

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.common.secrets import split_uri
from pipeline.errors import StorageError
from pipeline.storage.s3_pages import BEFORE_ALL_PARSING, take_files_out
from pipeline.storage.uris import SCHEME, absolute

if TYPE_CHECKING:
    from aiobotocore.session import AioSession

_WITHOUT_USER = ("s3", "s3a", "gs", "gcs", "hf")  # stores whose URIs name a bucket alone
# Without limits a dead endpoint hangs a job for many minutes; with these, one that never answers is reported within a
# minute.
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 15  # without a single byte
CLIENT_ATTEMPTS = 2  # inside botocore: throttling, 5xx, connection errors, with exponential back-off
CALL_ATTEMPTS = 2  # around it, in s3fs: answers that break off while their body is read


def resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    """URI -> file system and path on it."""
    uri = absolute(uri)
    scheme = SCHEME.match(uri)
    if scheme is not None and scheme.group(1).lower() in _WITHOUT_USER:
        user, place, _ = split_uri(scheme.group(1), uri[scheme.end() :])
        if not place.strip("/"):
            raise StorageError(f"{uri} names no bucket; is a variable unset?", retryable=False)
        if user:
            raise StorageError(
                f"{scheme.group(1)}://{place}: credentials in a URI are not used; put them into the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile) and leave them out here",
                retryable=False,
            )
    if scheme is None:
        return LocalFileSystem(), uri  # not through the URL parser: file names may hold "::" or "#"
    options: dict[str, object] = {}
    profile = None
    if scheme.group(1).lower() in ("s3", "s3a"):
        options = {
            "config_kwargs": {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "retries": {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS},
            },
            # Others change the listings meanwhile (other jobs publish into the same prefix).
            "use_listings_cache": False,
        }
        profile = _profile_of(uri[scheme.end() :].partition("/")[0])
        if profile is not None:
            options |= {"profile": profile, "endpoint_url": _endpoint_of(profile, os.environ.get("AWS_CONFIG_FILE"))}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    if options:
        fs.retries = CALL_ATTEMPTS
        if fs.session is None:
            fs.session = _s3_session(profile)
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
    """The endpoint of a profile. It is passed on explicitly, because AWS_ENDPOINT_URL would have precedence."""
    config = _s3_session(profile).full_config["profiles"]
    if profile not in config:
        where = config_file or "~/.aws/config"
        raise StorageError(f"CITY_S3_PROFILES: no profile {profile!r} in {where}; add it, or correct the name")
    endpoint = config[profile].get("endpoint_url")
    return None if endpoint is None else str(endpoint)


def _s3_session(profile: str | None) -> AioSession:
    """A session as s3fs makes it, but faster at listings (`s3_pages`) and at the parsing of times.

    botocore tries several formats on the time of every file of a listing: 0.10 s of 0.12 s for a thousand files.
    """
    from aiobotocore.session import AioSession
    from botocore.utils import parse_timestamp

    def parse(value: str) -> datetime:
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00"))
        except (ValueError, AttributeError):
            return parse_timestamp(value)

    session = AioSession(profile=profile)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse)
    session.get_component("event_emitter").register_first(BEFORE_ALL_PARSING, take_files_out)
    return session


def is_object_store(fs: AbstractFileSystem) -> bool:
    """Whether folders are only prefixes on this store and the first part of a path is a bucket."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
    return not isinstance(fs, LocalFileSystem) and "memory" not in protocols
