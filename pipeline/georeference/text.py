"""Bytes of a text file to its text, whichever encoding the program that wrote it prefers."""

from __future__ import annotations

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def text_of(data: bytes) -> str:
    """UTF-16 with its mark, UTF-8, else the western European encoding of Windows; never raises."""
    if data[:2] in _UTF_16:
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def in_utf_8(data: bytes) -> bytes:
    """The same bytes, or those of UTF-8 where they were UTF-16."""
    return text_of(data).encode() if data[:2] in _UTF_16 else data
