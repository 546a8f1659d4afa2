"""Symbolic links to folders of drives: each folder is listed once, and loops of links are not followed."""

from __future__ import annotations

import os

from pipeline import storage


class LinkGuard:
    """Decides which links below a source are not followed."""

    def __init__(self, source: str, depth: int, leave_out: str | None) -> None:
        """depth: how many levels below the source are searched; leave_out: a folder below it that is not."""
        self._is_local = storage.is_local(source)
        self._root = os.path.realpath(source) if self._is_local else source
        self._leave_out = os.path.realpath(leave_out) if leave_out and storage.is_local(leave_out) else None
        self._depth = depth
        self._followed: dict[str, str] = {}

    def why_not(self, uri: str) -> str | None:
        """Why this folder is not searched, a sentence; None where it is. Remembers links that are followed."""
        if not self._is_local or not os.path.islink(uri):
            return None
        target, holder = os.path.realpath(uri), os.path.realpath(os.path.dirname(uri))
        if _holds(target, holder) or _holds(target, self._root):
            return f"{uri} is a symbolic link to a folder above it and is not followed"
        if self._leave_out and _holds(self._leave_out, target):
            return f"{uri} is a symbolic link into the output and is not followed"
        if _holds(self._root, target) and self._is_searched(target):
            return f"{uri} is a symbolic link to {target}, which is found itself"
        first = self._followed.setdefault(target, uri)
        return None if first == uri else f"{uri} is a symbolic link to the same folder as {first}"

    def _is_searched(self, target: str) -> bool:
        parts = os.path.relpath(target, self._root).split(os.sep)
        return len(parts) <= self._depth and not any(part.startswith((".", "_")) for part in parts)


def _holds(folder: str, place: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)
