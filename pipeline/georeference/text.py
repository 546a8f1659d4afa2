"""Decodes a text file, whose encoding depends on the program that wrote it."""

from __future__ import annotations

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def text_of(data: bytes) -> str:
    """The text: UTF-16 if it has a byte-order mark, else UTF-8 if it is valid, else Windows-1252. Never raises."""
    if data[:2] in _UTF_16:
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def in_utf_8(data: bytes) -> bytes:
    """The same bytes; where they are UTF-16, the same text in UTF-8."""
    return text_of(data).encode() if data[:2] in _UTF_16 else data
