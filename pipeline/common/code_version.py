"""Which version of the program this is, for what it writes."""

from __future__ import annotations

from importlib import metadata


def code_version() -> str:
    """The installed version of the project."""
    try:
        return metadata.version("city-reconstruction")
    except metadata.PackageNotFoundError:
        return "not installed"
