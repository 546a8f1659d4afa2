"""The version of the program, which is stored with each result."""

from __future__ import annotations

from importlib import metadata


def code_version() -> str:
    """The installed version of the project."""
    try:
        return metadata.version("city-reconstruction")
    except metadata.PackageNotFoundError:
        return "not installed"
