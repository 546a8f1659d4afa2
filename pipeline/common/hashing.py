"""The SHA-256 of a file, read piece by piece."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_PIECE = 1 << 20


def sha256_of(source: BinaryIO, copy: BinaryIO | None = None) -> str:
    """SHA-256 (64 hex digits) of the rest of `source`, from its current position; the rest is written to `copy` too."""
    digest = hashlib.sha256()
    while piece := source.read(_PIECE):
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return digest.hexdigest()
