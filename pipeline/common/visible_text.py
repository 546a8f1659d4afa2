"""Makes control characters visible in texts from outside (file names, ids, cells of a table) before they are shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TextIO

from pipeline.common.secrets import without_secrets

# C0 and C1 controls (escape sequences of terminals), marks that reorder text, line separators, bytes that are no UTF-8
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def visible(text: str, keep: str = "") -> str:
    """The text with every control character written as its escape; those in `keep` stay as they are."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def visible_values(value: object) -> object:
    """JSON values for a page: in every text, control characters are visible and credentials are removed."""
    if isinstance(value, str):
        return visible(without_secrets(value), keep="\n\t")
    if isinstance(value, Mapping):
        return {visible_values(key): visible_values(one) for key, one in value.items()}
    return [visible_values(one) for one in value] if isinstance(value, list | tuple) else value


def show(text: str, stream: TextIO | None = None) -> None:
    """Print lines for a person, to stdout by default. Control characters are made visible and credentials removed,
    because the lines contain texts from outside."""
    print(visible(without_secrets(text), keep="\n"), file=stream or sys.stdout, flush=True)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
