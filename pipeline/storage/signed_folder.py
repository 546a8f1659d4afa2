"""Folders that this program makes as a whole (exports, reports): a file inside, the signature, names all the others.

A file that the signature does not name belongs to somebody else. So a folder is replaced only if it has our signature
and no other files, and only the files that the signature names are removed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from pipeline.errors import DriveError
from pipeline.schema import MADE_BY
from pipeline.storage.below import list_below, remove_below, some_below
from pipeline.storage.failures import NotFoundError, translated
from pipeline.storage.files import read_bytes, remove_file
from pipeline.storage.uris import join, redacted

_SHOWN = 3
_LARGEST_SIGNATURE = 64 * 2**20  # of a folder with half a million files


class Signature(TypedDict):
    """The fields of a signature that are read here; it also contains the facts of its maker."""

    made_by: str
    kind: str
    files: list[str]
    published_at: NotRequired[str]


def sign_folder(folder: Path, name: str, kind: str, facts: Mapping[str, object]) -> None:
    """Write the signature `name` into a finished local folder: its kind, `facts`, and the path of every file."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    values = {"made_by": MADE_BY, "kind": kind, **facts, "files": [path for path in files if path != name]}
    (folder / name).write_text(json.dumps(values, indent=1) + "\n")


def read_signature(uri: str, name: str, kind: str) -> Signature | None:
    """The signature of a folder; None where there is none, or it is not one of ours of this kind."""
    try:
        values = json.loads(read_bytes(join(uri, name), _LARGEST_SIGNATURE))
    except (NotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.get("made_by") != MADE_BY or values.get("kind") != kind:
        return None
    files = values.get("files")
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        return None
    return cast(Signature, values)


def check_replaceable(uri: str, name: str, kind: str) -> None:
    """Raises DriveError where a folder holds files that do not belong to a signed folder of this kind, and names them.
    A folder that is missing or empty may be written to. Raises StorageError."""
    shown = redacted(uri)
    signature = read_signature(uri, name, kind)
    if signature is None:
        some = some_below(uri, _SHOWN)
        if not some:
            return
        raise DriveError(
            f"{shown} is there and no {kind} of this program ({name} is missing or of something else; it holds "
            f"{', '.join(some)}): nothing in it is touched; give another folder"
        )
    found = list_below(uri)
    others = sorted(set(found) - {name, *signature["files"]})
    if others:
        raise DriveError(
            f"{shown} holds files that are not of the {kind} made there ({_some(others)}), which replacing it would "
            "remove; move them away, or give another folder"
        )


def remove_signed(uri: str, name: str, kind: str) -> None:
    """Remove the files that a signed folder names, the signature first; others stay. Raises StorageError."""
    signature = read_signature(uri, name, kind)
    if signature is not None:
        there = list_below(uri)
        remove_file(join(uri, name))
        remove_below(uri, [path for path in signature["files"] if path in there])


def replace_folder(new: Path, target: Path, name: str, kind: str) -> None:
    """Put a signed local folder in the place of a former one of its kind. Raises DriveError where that may not be
    replaced, StorageError where it cannot be."""
    check_replaceable(str(target), name, kind)
    with translated(str(target), "write"):
        aside = None
        if target.exists():
            aside = new.with_name(f"{new.name}.old")
            os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            if aside is not None:
                os.rename(aside, target)
            raise
        if aside is not None:
            remove_signed(str(aside), name, kind)
            for folder, _, _ in os.walk(aside, topdown=False):
                with contextlib.suppress(OSError):  # not empty: files that were added meanwhile stay there
                    os.rmdir(folder)


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
