"""Removes credentials from every text that leaves the process: those in URIs and those in the environment.

`learn` is called where a URI enters: from then on its user information and the values of its query are secrets, also
where a store's client repeats them in a message. Secrets of the environment are known by the names of their variables.
"""

from __future__ import annotations

import os
import re
import threading
from urllib.parse import quote, unquote

HIDDEN = "***"
# Up to a blank or a quote, without the punctuation of a sentence at its end; a chained URI ("zip://x::s3://y") is two.
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://((?:(?!::[A-Za-z][\w+.-]*://)[^\s'\"<>])*(?<![:,.;)]))")
_NAMES = re.compile(r"SECRET|TOKEN|PASSW|PWD$|CREDENTIAL|APIKEY|API_KEY|ACCESS_KEY|ACCOUNT_KEY|SAS|CONNECTION_STRING")
# With these schemes, a "?" belongs to the file's name, unless names and values follow it, as in a signed URI, and the
# text does not end as a file name does ("a?b=c.png"). With other schemes it begins a query, which may be a signature.
_FILES = frozenset(("file", "local", "memory"))
_WITHOUT_QUERY = _FILES | {"s3", "s3a", "gs", "gcs", "hf"}
_NAMED_VALUES = re.compile(r"[\w.%-]+=[^&/]*(?:&[\w.%-]+=[^&/]*)*(?<!\.\w{3})(?<!\.\w{4})")
_LEAST = 6  # characters: a shorter "secret" may be an ordinary word, which would be removed everywhere
_learned: set[str] = set()
_lock = threading.Lock()


def split_uri(scheme: str, rest: str) -> tuple[str, str, str]:
    """(user information, place, query) of what stands behind "scheme://".

    The user information ends at the last "@" before the path. A password may contain "/", as secrets of S3 do: if ":"
    follows the host without a port number, the user information goes on to the next "@".
    """
    path, query = rest, ""
    scheme, behind = scheme.lower(), rest.partition("?")[2]
    if scheme not in _WITHOUT_QUERY or (scheme not in _FILES and _NAMED_VALUES.fullmatch(behind)):
        path, _, query = rest.partition("?")
    host = path.partition("/")[0]
    if "@" in host:
        at = host.rindex("@")
    elif re.search(r":\D", host) or re.search(r":\d+[^\d]", host):
        at = path.find("@")
    else:
        at = -1
    return path[: max(at, 0)], path[at + 1 :], query


def learn(uri: str) -> None:
    """Remember the credentials in a URI, so that `without_secrets` knows them."""
    for found in _URI.finditer(uri):
        user, _, query = split_uri(found[1], found[2])
        password = user.partition(":")[2]
        # a store's client may split it at a "/" and print the pieces
        values = {user, password, *password.split("/"), *(part.partition("=")[2] for part in query.split("&"))}
        values |= {unquote(value) for value in values} | {quote(value, safe="") for value in values}
        with _lock:
            _learned.update(value for value in values if len(value) >= _LEAST)


def without_secrets(text: str) -> str:
    """The text with user information and queries of URIs, and all secrets that are known, blanked out."""
    if "://" in text:
        text = _URI.sub(_shown, text)
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    return text


def without_credentials(uri: str) -> str:
    """A URI as it may be stored: without user information and without a query. Plain paths stay as they are."""

    def clean(found: re.Match[str]) -> str:
        return f"{found[1]}://{split_uri(found[1], found[2])[1]}"

    return _URI.sub(clean, uri) if "://" in uri else uri


def _shown(found: re.Match[str]) -> str:
    user, place, query = split_uri(found[1], found[2])
    return f"{found[1]}://{f'{HIDDEN}@' if user else ''}{place}{f'?{HIDDEN}' if query else ''}"


def _secrets() -> list[str]:
    """All known secrets, the longest first, so that no part of one remains in a text."""
    known = set()
    for name, value in os.environ.items():
        if not _NAMES.search(name.upper()) or value.startswith("/"):
            continue
        known.add(value)
        known.update(part.partition("=")[2] for part in value.split(";") if "=" in part)
    known = {value for value in known if len(value) >= _LEAST}
    known |= {quote(value, safe="") for value in known}
    with _lock:
        known |= _learned
    return sorted(known, key=len, reverse=True)
