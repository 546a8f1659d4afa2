"""Replaces the published version of a drive by a new one; at every moment one of them is complete.

The current version has the documented names (`<drive_id>/poses.parquet` ...), so that any Parquet reader and any glob
finds it. A drive's first version is written there directly: without a manifest nobody reads it. A later one goes
    1. into a folder of its own below the drive's: `_version-<12 hex digits>/`
    2. the manifest that names that folder's files takes the place of the old one: now the new version is the drive
    3. its files are copied to the documented names (by the store itself; a link on a disk), and a manifest that
       names those is written; the folder goes
If the process is killed before 2, the old version remains; if it is killed after 2, the new one. `settle` repeats 3.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Set
from dataclasses import replace

from pipeline import storage
from pipeline.leases import Guard
from pipeline.publish.existing_result import made_by_us
from pipeline.publish.files import TABLE_PATH, VERSION_FOLDER
from pipeline.publish.manifest import MANIFEST, Manifest, read_manifest

_TABLE, _FOLDER = re.compile(TABLE_PATH), re.compile(VERSION_FOLDER)
_IN_VERSION = re.compile(rf"{VERSION_FOLDER}/{TABLE_PATH}")
# Temporary files of a publish that was killed while it wrote: the name, and 32 random digits.
_PARTIAL = re.compile(r"(?:.*/)?\.(?:manifest\.json|[a-z]+(?:-\d{5,})?\.parquet)\.[0-9a-f]{32}\.tmp")


def new_version_folder() -> str:
    """An unused name below the drive's folder."""
    return f"_version-{uuid.uuid4().hex[:12]}"


def is_settled(manifest: Manifest) -> bool:
    """Whether the files of a drive have their documented names. They do not if a publish was killed between 2 and 3."""
    return not any(_FOLDER.fullmatch(file.path.split("/")[0]) for file in manifest.files)


def settle(output: str, drive_id: str, guard: Guard, replaced: Set[str] = frozenset()) -> Manifest:
    """Give a published drive's files their documented names, and remove files that its manifest does not name.

    Returns the manifest, which has only documented names. replaced: paths that the former manifest named. Of the files
    that no manifest names, only those that this program made are removed. Raises DriveError, StorageError; it can then
    be repeated.
    """
    drive_uri = storage.join(output, storage.check_drive_id(drive_id))
    manifest = read_manifest(output, drive_id)
    if not is_settled(manifest):
        files = []
        for file in manifest.files:
            name = file.path.split("/", 1)[1]
            guard()
            storage.copy(storage.join(drive_uri, *file.path.split("/")), storage.join(drive_uri, *name.split("/")))
            files.append(replace(file, path=name))
        manifest = replace(manifest, files=tuple(files))
        guard()
        storage.write_bytes_atomically(storage.join(drive_uri, MANIFEST), manifest.to_bytes())
    remove_unnamed(drive_uri, {file.path for file in manifest.files}, replaced)
    return manifest


def remove_unnamed(drive_uri: str, named: Set[str], replaced: Set[str] = frozenset()) -> None:
    """Remove tables that are not among `named` (paths below the drive's folder): those in version folders, those that
    an earlier manifest named, and those whose footer says that this program made them."""
    there = storage.list_below(drive_uri)

    def is_ours(path: str) -> bool:
        if _IN_VERSION.fullmatch(path) or _PARTIAL.fullmatch(path):
            return True
        return bool(_TABLE.fullmatch(path)) and (
            path in replaced or not there[path] or made_by_us(storage.join(drive_uri, path))
        )

    gone = [path for path in there if path not in named and is_ours(path)]
    if gone:
        storage.remove_below(drive_uri, gone)
